//! The asking side.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Answer, Error, Fields, Request};

/// Asks the machine that listens at this path, and gives what it answers.
///
/// # Errors
/// Nobody listens, or the machine does not do it.
pub fn ask(path: &Path, request: &Request) -> Result<Fields, Error> {
    ask_and_watch(path, request, |_, _| {})
}

/// As [`ask`], and says how far the machine is while it takes long: so much of so much.
///
/// # Errors
/// Nobody listens, or the machine does not do it.
pub fn ask_and_watch(
    path: &Path,
    request: &Request,
    progress: impl FnMut(u64, u64),
) -> Result<Fields, Error> {
    let stream =
        UnixStream::connect(path).map_err(|source| Error::Connect { path: path.to_owned(), source })?;
    let no_answer = |source| Error::NoAnswer { path: path.to_owned(), source };
    send(&stream, request).map_err(no_answer)?;
    receive(&stream, progress).map_err(no_answer)?.map_err(Error::Refused)
}

/// Sends a request.
pub(super) fn send(mut stream: &UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// Receives its answer, or why it is refused.
pub(super) fn receive(
    stream: &UnixStream,
    mut progress: impl FnMut(u64, u64),
) -> io::Result<Result<Fields, String>> {
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match serde_json::from_str(&line)? {
            Answer::Ok(fields) => return Ok(Ok(fields)),
            Answer::Error(reason) => return Ok(Err(reason)),
            Answer::Progress { done, total } => progress(done, total),
        }
    }
}
