//! What somebody wrote, kept, with a way to wait for more.

use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Collects what is written to it, or what a stream brings. Clones share it.
#[derive(Clone, Default)]
pub struct Screen(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    /// Up to here somebody has waited for it.
    seen: usize,
    ended: bool,
}

impl Screen {
    /// Collects all that `stream` brings, until its end.
    pub fn follow(mut stream: impl Read + Send + 'static) -> Self {
        let screen = Self::default();
        let mut writer = screen.clone();
        thread::spawn(move || {
            // A pseudo-terminal that nobody has open any more is an error, and an end.
            let _ = io::copy(&mut stream, &mut writer);
            writer.0.state.lock().unwrap().ended = true;
            writer.0.changed.notify_all();
        });
        screen
    }

    /// Everything so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.state.lock().unwrap().bytes.clone()
    }

    /// Everything so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// Up to which byte somebody has waited for it.
    pub fn seen(&self) -> usize {
        self.0.state.lock().unwrap().seen
    }

    /// Waits for `text` behind what was last waited for.
    pub fn wait_for(&self, text: &str) {
        self.wait_for_bytes(text.as_bytes(), PATIENCE);
    }

    /// [`Self::wait_for`] any bytes, with a patience of its own.
    pub fn wait_for_bytes(&self, wanted: &[u8], patience: Duration) {
        let name = String::from_utf8_lossy(wanted);
        self.wait(&format!("'{name}'"), patience, |state| {
            let new = &state.bytes[state.seen..];
            let at = new.windows(wanted.len()).position(|window| window == wanted)?;
            state.seen += at + wanted.len();
            Some(())
        });
    }

    /// Waits until all that came is as it should be.
    pub fn wait_until(&self, what: &str, patience: Duration, enough: impl Fn(&str) -> bool) {
        self.wait(what, patience, |state| enough(&String::from_utf8_lossy(&state.bytes)).then_some(()));
    }

    /// Waits until there are so many bytes.
    pub fn wait_for_length(&self, length: usize) {
        self.wait(&format!("{length} bytes"), PATIENCE, |state| (state.bytes.len() >= length).then_some(()));
    }

    /// Waits for the stream's end and gives everything.
    pub fn wait_for_end(&self, patience: Duration) -> Vec<u8> {
        let deadline = Instant::now() + patience;
        let mut state = self.0.state.lock().unwrap();
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            let (next, timeout) = self.0.changed.wait_timeout(state, left).unwrap();
            state = next;
            assert!(!timeout.timed_out(), "no end of:\n{}", String::from_utf8_lossy(&state.bytes));
        }
        state.bytes.clone()
    }

    fn wait(&self, what: &str, patience: Duration, mut found: impl FnMut(&mut State) -> Option<()>) {
        let deadline = Instant::now() + patience;
        let mut state = self.0.state.lock().unwrap();
        while found(&mut state).is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match (state.ended, left.is_zero()) {
                (true, _) => "before the end",
                (_, true) => "in time",
                _ => {
                    state = self.0.changed.wait_timeout(state, left).unwrap().0;
                    continue;
                }
            };
            let text = String::from_utf8_lossy(&state.bytes).into_owned();
            drop(state);
            panic!("{what} did not come {why}, but:\n{text}");
        }
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.state.lock().unwrap().bytes.extend(bytes);
        self.0.changed.notify_all();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
