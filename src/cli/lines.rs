//! The output of many machines on standard output: whole lines, each with its machine's name before it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};

use libc::EFD_CLOEXEC;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The longest line that is waited for; what is longer goes out in parts.
const LONGEST: usize = 4096;
/// How many pipes are looked at in one turn.
const TURN: usize = 64;

/// A thread that prints what comes out of pipes. It waits for whoever reads standard output; the machines
/// and those who attend to them do not.
pub(super) struct Lines {
    sources: Vec<Source>,
    epoll: Epoll,
}

/// One machine's output.
struct Source {
    /// Until its end.
    pipe: Option<PipeReader>,
    name: String,
    /// A line of which the end has not come.
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { sources: Vec::new(), epoll: Epoll::new()? })
    }

    /// Whether no machine has its lines printed.
    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// A pipe for the output of the machine of this name.
    pub(super) fn add(&mut self, name: String) -> io::Result<PipeWriter> {
        let (pipe, writer) = io::pipe()?;
        let event = EpollEvent::new(EventSet::IN, self.sources.len() as u64);
        self.epoll.ctl(ControlOperation::Add, pipe.as_raw_fd(), event)?;
        self.sources.push(Source { pipe: Some(pipe), name, begun: Vec::new() });
        Ok(writer)
    }

    /// Begins to print.
    pub(super) fn start(self) -> io::Result<Printer> {
        let ended = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let (tell, result) = channel();
        let at_end = ended.try_clone()?;
        let body = move || {
            let _ = tell.send(self.print(&mut io::stdout()));
            let _ = at_end.write(1);
        };
        let thread = thread::Builder::new().name("lines".to_owned()).spawn(body)?;
        Ok(Printer { ended, result, thread })
    }

    /// Prints until all pipes have come to their ends.
    fn print(mut self, to: &mut impl Write) -> io::Result<()> {
        let mut left = self.sources.len();
        let mut events = vec![EpollEvent::default(); TURN];
        while left > 0 {
            let count = match self.epoll.wait(-1, &mut events) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                count => count?,
            };
            for event in events.iter().take(count) {
                let source = usize::try_from(event.data()).ok().and_then(|at| self.sources.get_mut(at));
                let Some(source) = source else { continue };
                if !source.pass(to)? {
                    left -= 1;
                }
            }
            to.flush()?;
        }
        Ok(())
    }
}

impl Source {
    /// Passes on what has come; not when it was the end.
    fn pass(&mut self, to: &mut impl Write) -> io::Result<bool> {
        let mut bytes = [0; LONGEST];
        let Some(pipe) = &mut self.pipe else { return Ok(true) };
        let count = match pipe.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            count => count?,
        };
        self.begun.extend(bytes.iter().take(count));
        let last = count == 0;
        if last {
            // Closed, it is no longer waited for.
            self.pipe = None;
        }
        while let Some(line) = self.line(last) {
            let text = line.strip_suffix(b"\n").unwrap_or(&line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            to.write_all(&[self.name.as_bytes(), b" | ", text, b"\n"].concat())?;
        }
        Ok(!last)
    }

    /// The next line that is whole or too long, and at the end what is left.
    fn line(&mut self, last: bool) -> Option<Vec<u8>> {
        let end = self.begun.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let len = match end {
            Some(len) if len <= LONGEST => len,
            _ if self.begun.len() >= LONGEST => LONGEST,
            _ if last && !self.begun.is_empty() => self.begun.len(),
            _ => return None,
        };
        Some(self.begun.drain(..len).collect())
    }
}

/// The thread. It ends after the last of the machines, or when standard output is lost.
pub(super) struct Printer {
    ended: EventFd,
    result: Receiver<io::Result<()>>,
    thread: JoinHandle<()>,
}

impl Printer {
    /// Waits until all is printed.
    ///
    /// # Errors
    /// Standard output takes no more.
    pub(super) fn finish(self) -> io::Result<()> {
        let result = self.result.recv().unwrap_or_else(|_| Err(io::Error::other("the printer is gone")));
        let _ = self.thread.join();
        result
    }
}

/// Readable when it has ended.
impl AsRawFd for Printer {
    fn as_raw_fd(&self) -> RawFd {
        self.ended.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed of machines that send this, turn by turn.
    fn printed(turns: &[(usize, &[u8])]) -> String {
        let mut lines = Lines::new().unwrap();
        let mut pipes: Vec<_> = ["a-0", "a-1"].map(|name| lines.add(name.to_owned()).unwrap()).into();
        let mut text = Vec::new();
        for (machine, bytes) in turns {
            pipes[*machine].write_all(bytes).unwrap();
            lines.sources[*machine].pass(&mut text).unwrap();
        }
        pipes.clear();
        lines.print(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn lines_stay_whole() {
        let turns: [(usize, &[u8]); 5] =
            [(0, b"one\r\ntw"), (1, b"eins\nzwei\n"), (0, b"o\r\n\r\n"), (1, b"dr"), (0, b"three")];
        let text = printed(&turns);
        let (whole, rest) =
            text.split_at(text.find("a-0 | three").unwrap().min(text.find("a-1 | dr").unwrap()));
        assert_eq!(whole, "a-0 | one\na-1 | eins\na-1 | zwei\na-0 | two\na-0 | \n");
        assert_eq!(rest.lines().count(), 2);
        assert!(rest.contains("a-0 | three\n") && rest.contains("a-1 | dr\n"), "{rest}");
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let long = vec![b'x'; LONGEST];
        let text = printed(&[(0, b"12345"), (0, &long), (0, b"\n")]);
        let lines: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(lines, [6 + LONGEST, 6 + 5]);
    }

    #[test]
    fn nobody_reading_is_an_error() {
        let (reader, mut gone) = io::pipe().unwrap();
        drop(reader);
        let mut lines = Lines::new().unwrap();
        let mut pipe = lines.add("a".to_owned()).unwrap();
        pipe.write_all(b"word\n").unwrap();
        assert_eq!(lines.print(&mut gone).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
