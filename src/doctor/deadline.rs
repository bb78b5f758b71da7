//! Work that might never end.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// What `work` gives, or none if it takes longer than `limit`, or panics, or gets no thread. Work
/// that hangs keeps its thread: nothing in user space can take it back from the kernel.
pub(super) fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::channel();
    let body = move || {
        // Nobody waits any more when the limit has passed.
        let _ = done.send(work());
    };
    thread::Builder::new().name("doctor".to_owned()).spawn(body).ok()?;
    result.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_waited_for_as_long_as_it_may_take() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let forever = || thread::sleep(Duration::from_secs(3600));
        assert_eq!(within(Duration::from_millis(5), forever), None);
    }
}
