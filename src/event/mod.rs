//! The event loop: one thread that waits for file descriptors and runs what belongs to them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, current};

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberOps};
use thiserror::Error;

/// Something that the loop owns and runs when its file descriptors are ready.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

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

/// A running event loop. Dropping it ends its thread.
pub struct EventLoop {
    endpoint: RemoteEndpoint<Subscriber>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventLoop {
    /// Starts a loop that owns `subscribers`.
    ///
    /// # Errors
    /// The host gives no thread or no file descriptor.
    pub fn start(subscribers: Vec<Subscriber>) -> Result<Self, Error> {
        let mut manager = EventManager::<Subscriber>::new().map_err(Error::Create)?;
        let endpoint = manager.remote_endpoint();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let body = move || {
            for subscriber in subscribers {
                manager.add_subscriber(subscriber);
            }
            while !stop.load(Ordering::SeqCst) {
                if let Err(error) = manager.run() {
                    log::error!("the event loop ends: {error}");
                    break;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("events".to_owned()).spawn(body).map_err(Error::Thread)?;
        Ok(Self { endpoint, stopping, thread: Some(thread) })
    }
}

impl Drop for EventLoop {
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
