//! The event loop: one thread that waits for file descriptors and runs what belongs to them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, current};

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberId, SubscriberOps};
use thiserror::Error;

/// Why there is no event loop.
#[derive(Debug, Error)]
pub enum Error {
    /// No epoll or eventfd to be had.
    #[error("cannot make the event loop")]
    Create(#[source] event_manager::Error),
    /// No thread to be had.
    #[error("cannot start the event loop's thread")]
    Thread(#[source] io::Error),
}

/// A running event loop, which owns its subscribers. Dropping it ends its thread and drops them.
pub struct EventLoop<S: MutEventSubscriber + Send + 'static> {
    endpoint: RemoteEndpoint<S>,
    /// What is on the loop; only its thread looks inside.
    ids: Ids,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

type Ids = Arc<Mutex<Vec<SubscriberId>>>;

fn with_ids<T>(ids: &Ids, act: impl FnOnce(&mut Vec<SubscriberId>) -> T) -> T {
    act(&mut ids.lock().unwrap_or_else(PoisonError::into_inner))
}

impl<S: MutEventSubscriber + Send + 'static> EventLoop<S> {
    /// Starts a loop, on a thread of this name, that owns `subscribers`.
    ///
    /// # Errors
    /// The host gives no thread or no file descriptor.
    pub fn start(name: &str, subscribers: Vec<S>) -> Result<Self, Error> {
        let mut manager = EventManager::<S>::new().map_err(Error::Create)?;
        let endpoint = manager.remote_endpoint();
        let ids = Ids::default();
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, own) = (Arc::clone(&stopping), Arc::clone(&ids));
        let body = move || {
            with_ids(&own, |ids| ids.extend(subscribers.into_iter().map(|one| manager.add_subscriber(one))));
            while !stop.load(Ordering::SeqCst) {
                if let Err(error) = manager.run() {
                    log::error!("the event loop ends: {error}");
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(Error::Thread)?;
        Ok(Self { endpoint, ids, stopping, thread: Some(thread) })
    }

    /// Gives the loop more to own.
    pub fn add(&self, subscribers: Vec<S>) {
        let ids = Arc::clone(&self.ids);
        let added = self.endpoint.fire(move |ops| {
            let new = subscribers.into_iter().map(|subscriber| ops.add_subscriber(subscriber));
            with_ids(&ids, |ids| ids.extend(new));
        });
        if let Err(error) = added {
            log::error!("the event loop has ended: {error}");
        }
    }

    /// Takes back by value those subscribers that are `wanted`. Between two events: none of them is at
    /// work. Must not be called from the loop's own thread.
    pub fn take(&self, wanted: impl Fn(&S) -> bool + Send + 'static) -> Vec<S> {
        let ids = Arc::clone(&self.ids);
        let taken: Result<_, event_manager::Error> = self.endpoint.call_blocking(move |ops| {
            let mut taken = Vec::new();
            with_ids(&ids, |ids| {
                ids.retain(|id| {
                    let leaves = ops.subscriber_mut(*id).is_ok_and(|subscriber| wanted(subscriber));
                    if leaves {
                        taken.extend(ops.remove_subscriber(*id));
                    }
                    !leaves
                });
            });
            Ok(taken)
        });
        taken.unwrap_or_default()
    }
}

impl<S: MutEventSubscriber + Send + 'static> Drop for EventLoop<S> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // The loop wakes, whatever it waits for. It fails only when the loop has ended.
        let _ = self.endpoint.kick();
        // On its own thread, as when a console's writer drops its machine, the loop ends by itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != current().id()) {
            let _ = thread.join();
        }
    }
}
