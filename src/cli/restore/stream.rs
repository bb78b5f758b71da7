//! Where a stream of memory comes from.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;

/// Opens it, without waiting for whoever writes into a pipe.
pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    let opened = match path.to_str() {
        Some("-") => take_stdin(),
        _ => open_path(path),
    };
    opened.with_context(|| format!("cannot open the stream {}", path.display()))
}

fn open_path(path: &Path) -> io::Result<File> {
    if path.metadata()?.file_type().is_socket() {
        return Ok(OwnedFd::from(UnixStream::connect(path)?).into());
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Standard input. What reads that from now on, as a console does, finds its end.
fn take_stdin() -> io::Result<File> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(stdin.into())
}
