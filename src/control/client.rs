//! The asking side.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Answer, Error, Request};

/// Asks the machine that listens at this path, and gives the numbers of its answer.
///
/// # Errors
/// Nobody listens, or the machine does not do it.
pub fn ask(path: &Path, request: &Request) -> Result<BTreeMap<String, u64>, Error> {
    let stream =
        UnixStream::connect(path).map_err(|source| Error::Connect { path: path.to_owned(), source })?;
    match exchange(stream, request) {
        Ok(Answer::Ok(numbers)) => Ok(numbers),
        Ok(Answer::Error(reason)) => Err(Error::Refused(reason)),
        Err(source) => Err(Error::NoAnswer { path: path.to_owned(), source }),
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Answer> {
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}
