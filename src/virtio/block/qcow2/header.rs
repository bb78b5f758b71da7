//! The name of a backing file where it is in a qcow2 image (QEMU's `docs/interop/qcow2.txt`, "Header"): of images
//! that nobody has open as disks.

use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::virtio::block::image::MAX_CHAIN;

/// How an image begins.
const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bytes that every version of the header has.
const LEN: usize = 72;
/// Where the header says where the name is, and how long.
const NAME: u64 = 8;
/// The longest name.
const NAME_MAX: u32 = 1023;
/// The bits of an offset in a cluster.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;

/// The length of a header from version 3 on, and where that says it.
const LONG: u64 = 104;
const LENGTH: u64 = 100;
/// The extension of a header that says what is in the backing file.
const FORMAT: u32 = 0xe279_2aca;

/// What a header says.
struct Header {
    name: Option<String>,
    /// The header, what extends it, and the name are in the first one.
    cluster: u64,
    version: u32,
}

impl Header {
    /// None of a file that is no such image.
    fn read(file: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; LEN];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            result => result?,
        }
        let [magic, version, high, low, len, bits, ..] = bytes.as_chunks::<4>().0 else { return Ok(None) };
        let [version, high, low, len, bits] =
            [version, high, low, len, bits].map(|word| u32::from_be_bytes(*word));
        if *magic != MAGIC || !CLUSTER_BITS.contains(&bits) || len > NAME_MAX {
            return Ok(None);
        }
        let (at, cluster) = (u64::from(high) << 32 | u64::from(low), 1 << bits);
        if at == 0 || len == 0 {
            return Ok(Some(Self { name: None, cluster, version }));
        }
        let mut name = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut name, at)?;
        let name = String::from_utf8(name).map_err(io::Error::other)?;
        Ok(Some(Self { name: Some(name), cluster, version }))
    }

    /// Whether it says that the backing file is such an image, too. Only what it says counts: a raw image can
    /// begin as its guest likes.
    fn is_over_qcow2(&self, file: &File) -> io::Result<bool> {
        let word = |at| {
            let mut word = [0; 4];
            file.read_exact_at(&mut word, at).map(|()| u32::from_be_bytes(word))
        };
        let mut at = if self.version < 3 { LEN as u64 } else { u64::from(word(LENGTH)?).max(LONG) };
        while at + 8 <= self.cluster {
            let (kind, len) = (word(at)?, word(at + 4)?);
            if kind == FORMAT && len == 5 {
                let mut format = [0; 5];
                return file.read_exact_at(&mut format, at + 8).map(|()| format == *b"qcow2");
            }
            if kind == 0 {
                break;
            }
            at += 8 + u64::from(len).next_multiple_of(8);
        }
        Ok(false)
    }
}

/// The path that a name stands for, in an image in this folder; none if it stands for something else than a file.
/// A relative one is relative to the image.
pub(super) fn path_of(name: &str, folder: &Path) -> Option<PathBuf> {
    let file = name.strip_prefix("file:").unwrap_or(name);
    // Other prefixes are protocols: json:, nbd:, https:
    let is_file = file.find(':').is_none_or(|colon| file.get(..colon).is_some_and(|name| name.contains('/')));
    (is_file && !file.is_empty()).then(|| folder.join(file))
}

/// The files that an image in this folder stands on, one under the other, as far as they are there and say so;
/// none if it is no qcow2 image. Links are followed.
///
/// # Errors
/// One of them cannot be read.
pub fn backing_files(image: &File, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let (mut image, mut folder) = (image.try_clone()?, folder.to_owned());
    while files.len() < MAX_CHAIN
        && let Some(header) = Header::read(&image)?
        && let Some(path) = header.name.as_deref().and_then(|name| path_of(name, &folder))
    {
        let real = path.canonicalize();
        let follow = header.is_over_qcow2(&image)? && real.as_ref().is_ok_and(|real| real.is_file());
        files.push(real.unwrap_or_else(|_| path.clone()));
        if !follow {
            break;
        }
        image = File::open(&path)?;
        folder = path.parent().unwrap_or(Path::new("")).to_owned();
    }
    Ok(files)
}

/// Has a copy of an image find the backing file of the one that was in this folder. Its times stay as they are.
///
/// # Errors
/// The backing file is not there, its name has no room, or the copy cannot be read or written.
pub fn keep_backing(copy: &File, folder: &Path) -> io::Result<()> {
    let Some(Header { name: Some(name), cluster, .. }) = Header::read(copy)? else { return Ok(()) };
    let path = match path_of(&name, Path::new("")) {
        Some(path) if path.is_relative() => folder.join(path).canonicalize()?,
        _ => return Ok(()),
    };
    let no_room = || io::Error::other(format!("its header has no room for the name {}", path.display()));
    let name = path.to_str().ok_or_else(no_room)?;
    let len = u32::try_from(name.len()).ok().filter(|len| *len <= NAME_MAX).ok_or_else(no_room)?;
    // Close to the end of the cluster: what extends the header is at its start.
    let at = cluster.checked_sub(u64::from(len) + 8).filter(|at| *at > LONG).ok_or_else(no_room)?;
    let mut room = vec![0; name.len()];
    copy.read_exact_at(&mut room, at)?;
    if room.iter().any(|byte| *byte != 0) {
        return Err(no_room());
    }
    let modified = copy.metadata()?.modified()?;
    copy.write_all_at(name.as_bytes(), at)?;
    copy.write_all_at(&[&at.to_be_bytes()[..], &len.to_be_bytes()].concat(), NAME)?;
    copy.set_times(FileTimes::new().set_modified(modified))
}

#[cfg(test)]
mod tests;
