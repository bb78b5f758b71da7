//! The file behind the disks.

// Advice on the page cache is a C call.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

const CHUNK: usize = 1 << 20;

/// A file in a folder that goes with it.
pub(crate) struct Image {
    path: PathBuf,
    _folder: TempDir,
}

impl Image {
    /// A file full of data that no file system or host keeps as holes.
    pub(crate) fn make(mib: u64) -> anyhow::Result<Self> {
        let image = Self::empty(0)?;
        let mut file = File::create(&image.path)?;
        let mut chunk = vec![0; CHUNK];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..mib {
            for word in chunk.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            file.write_all(&chunk).with_context(|| format!("filling {}", image.path.display()))?;
        }
        file.sync_all()?;
        Ok(image)
    }

    /// A file of holes, on the file system of the build.
    pub(crate) fn empty(mib: u64) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let path = folder.path().join("disk.img");
        File::create(&path)?.set_len(mib << 20)?;
        Ok(Self { path, _folder: folder })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of its file system; nothing if the host does not tell.
    pub(crate) fn file_system(&self) -> String {
        let output = Command::new("stat").args(["-f", "-c", "%T"]).arg(&self.path).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    }

    /// Has the host write what it holds back, so that the next who runs does not pay for it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_data()
    }

    /// Brings the file into the page cache, or takes it out of there.
    pub(crate) fn cached(&self, wanted: bool) -> io::Result<()> {
        self.sync()?;
        let mut file = File::open(&self.path)?;
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
