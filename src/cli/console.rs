//! Standard input as the guest's keyboard, with an escape key; standard output that may go away.

use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::{Arc, OnceLock};

use super::terminal;
use crate::config::{Console, MachineConfig, device_name};
use crate::machine::StopHandle;
use crate::streams::{Input, Output, Streams};

const CTRL_A: u8 = 1;

const HELP: &str = "Ctrl-A x quits, Ctrl-A c prints this, Ctrl-A Ctrl-A sends a Ctrl-A";

/// What stops the machine, known once there is one.
#[derive(Clone, Default)]
pub(super) struct LateStop(Arc<OnceLock<StopHandle>>);

impl LateStop {
    /// This is the machine to stop.
    pub(super) fn set(&self, stop: StopHandle) {
        let _ = self.0.set(stop);
    }

    /// Stops it; one that has not begun is left alone.
    pub(super) fn stop(&self) {
        if let Some(stop) = self.0.get() {
            stop.stop();
        }
    }
}

/// The name of the virtio console that is to be on standard input and output.
pub(super) fn virtio_on_stdio(config: &MachineConfig) -> Option<String> {
    let mut consoles = config.devices.virtio_console.iter().enumerate();
    let (index, console) = consoles.find(|(_, console)| console.stream == Console::Stdio)?;
    Some(device_name("virtio_console", index, console))
}

/// Standard input and output as a machine's console. On a terminal there is an escape key, which
/// stops the machine.
pub(super) fn stdio(stop: &LateStop) -> Result<Streams, crate::streams::Error> {
    let mut streams = Streams::open(&Console::Stdio, false)?;
    if !io::stdin().is_terminal() {
        return Ok(streams);
    }
    if !terminal::stdin_is_ours() {
        // A job in the background has no keyboard.
        streams.input = None;
        return Ok(streams);
    }
    streams.input = streams.input.map(|terminal| -> Box<dyn Input> {
        Box::new(Keyboard { terminal, keys: Keys::default(), stop: stop.clone() })
    });
    Ok(streams)
}

/// Keys on their way to a console that reads none before its guest has a driver and room: a pipe lies
/// between them, so that the escape key is seen at any time.
pub(super) struct Relay {
    keyboard: Box<dyn Input>,
    guest: Output,
}

impl Relay {
    /// Puts a pipe before a console's input, where that is a terminal.
    pub(super) fn before(streams: &mut Streams) -> io::Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let Some(keyboard) = streams.input.take() else { return Ok(None) };
        let (reader, writer) = io::pipe()?;
        streams.input = Some(Box::new(reader));
        Ok(Some(Self { keyboard, guest: Output::of_fd(writer.into()) }))
    }

    /// Passes on what is typed; none when there will be no more. Keys that do not fit into the pipe are
    /// lost: the guest has not looked at thousands before them.
    pub(super) fn pass(mut self) -> Option<Self> {
        let mut keys = [0; 256];
        match self.keyboard.read(&mut keys) {
            Ok(0) => None,
            Ok(count) => {
                if let Err(error) = self.guest.write(keys.get(..count).unwrap_or_default()) {
                    log::debug!("the guest takes no keys: {error}");
                }
                Some(self)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Some(self),
                _ => None,
            },
        }
    }
}

/// Readable when there are keys.
impl AsRawFd for Relay {
    fn as_raw_fd(&self) -> RawFd {
        self.keyboard.as_fd().as_raw_fd()
    }
}

/// A terminal's keys, of which `Ctrl-A` begins a command to us.
struct Keyboard {
    terminal: Box<dyn Input>,
    keys: Keys,
    stop: LateStop,
}

impl AsFd for Keyboard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Read for Keyboard {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.terminal.read(buffer)?;
        if read == 0 {
            return Ok(0);
        }
        let mut kept = 0;
        for at in 0..read {
            let Some(key) = buffer.get(at).copied() else { break };
            match self.keys.press(key) {
                Press::Guest(key) => {
                    if let Some(place) = buffer.get_mut(kept) {
                        *place = key;
                        kept += 1;
                    }
                }
                Press::Nothing => {}
                Press::Quit => self.stop.stop(),
                Press::Help => terminal::note(HELP),
            }
        }
        if kept == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(kept) }
    }
}

/// The escape key's state.
#[derive(Default)]
struct Keys {
    escaped: bool,
}

/// What a key means.
#[derive(Debug, PartialEq, Eq)]
enum Press {
    /// It is the guest's.
    Guest(u8),
    /// It begins a command, or is no command's.
    Nothing,
    /// Stop the machine.
    Quit,
    /// Tell what the commands are.
    Help,
}

impl Keys {
    fn press(&mut self, key: u8) -> Press {
        let escaped = std::mem::replace(&mut self.escaped, false);
        match (escaped, key) {
            (false, CTRL_A) => {
                self.escaped = true;
                Press::Nothing
            }
            (false, key) | (true, key @ CTRL_A) => Press::Guest(key),
            (true, b'x' | b'X') => Press::Quit,
            (true, b'c' | b'C' | b'h' | b'?') => Press::Help,
            (true, _) => Press::Nothing,
        }
    }
}

/// How standard output was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its reader went away.
    ReaderGone,
    /// It could not be written.
    Failed,
}

impl Loss {
    pub(super) fn of(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ReaderGone } else { Self::Failed }
    }

    /// The exit code: after a reader, that of the signal which other programs in a pipe die of.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::ReaderGone => super::signal_code(libc::SIGPIPE),
            Self::Failed => super::EXIT_ERROR,
        }
    }
}

/// A console's output as a machine's fate: without standard output there is no use in running on,
/// without a file or a pseudo-terminal there is.
#[derive(Clone)]
pub(super) struct OutputWatch {
    stop: LateStop,
    loss: Arc<OnceLock<Loss>>,
}

impl OutputWatch {
    pub(super) fn new(stop: LateStop) -> Self {
        Self { stop, loss: Arc::default() }
    }

    /// What a console, perhaps the one on standard output, calls when its output is lost.
    pub(super) fn teller(&self, on_stdout: bool) -> impl FnOnce(&io::Error) + Send + 'static {
        let this = self.clone();
        move |error| {
            let loss = Loss::of(error);
            if !on_stdout || loss == Loss::Failed {
                terminal::note(&format!("the console's output is lost: {error}"));
            }
            if on_stdout {
                let _ = this.loss.set(loss);
                this.stop.stop();
            }
        }
    }

    /// How standard output was lost, if it was.
    pub(super) fn loss(&self) -> Option<Loss> {
        self.loss.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_is_ours_and_all_others_the_guests() {
        let mut keys = Keys::default();
        let mut press = |text: &[u8]| text.iter().map(|key| keys.press(*key)).collect::<Vec<_>>();
        assert_eq!(press(b"ax\x03"), [Press::Guest(b'a'), Press::Guest(b'x'), Press::Guest(3)]);
        assert_eq!(press(b"\x01x"), [Press::Nothing, Press::Quit]);
        assert_eq!(press(b"\x01cx"), [Press::Nothing, Press::Help, Press::Guest(b'x')]);
        assert_eq!(press(b"\x01\x01x"), [Press::Nothing, Press::Guest(1), Press::Guest(b'x')]);
        assert_eq!(press(b"\x01q"), [Press::Nothing, Press::Nothing]);
    }
}
