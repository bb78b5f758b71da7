//! The file behind the disks.

// Advice on the page cache is a C call.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

const CHUNK: usize = 1 << 20;

/// A file in a folder, with which it goes.
pub(super) struct Image(PathBuf);

impl Image {
    /// A file full of data that no file system or host keeps as holes.
    pub(super) fn make(folder: &Path, mib: u64) -> anyhow::Result<Self> {
        let path = folder.join("disk.img");
        let mut file = File::create(&path).with_context(|| path.display().to_string())?;
        let mut chunk = vec![0; CHUNK];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..mib {
            for word in chunk.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all(&chunk).with_context(|| format!("filling {}", path.display()))?;
        }
        file.sync_all()?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether its file system lets one past the page cache.
    pub(super) fn goes_direct(&self) -> io::Result<()> {
        File::options().read(true).custom_flags(libc::O_DIRECT).open(&self.0).map(drop)
    }

    /// Has the host write what it holds back, so that the next who runs does not pay for it.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_data()
    }

    /// Brings the file into the page cache, or takes it out of there.
    pub(super) fn cached(&self, wanted: bool) -> io::Result<()> {
        self.sync()?;
        let mut file = File::open(&self.0)?;
        if wanted {
            let mut chunk = vec![0; CHUNK];
            while file.read(&mut chunk)? > 0 {}
        } else {
            // SAFETY: the call takes numbers, and the descriptor is open. It is advice: nothing depends on
            // it.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
        Ok(())
    }
}
