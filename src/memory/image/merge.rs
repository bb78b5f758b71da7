//! One image of many.

use std::fs::File;

use super::super::layers::{Layers, Source};
use super::super::{Error, Progress, host, report};
use super::STEP;

/// Writes what layers come to as one image that needs none of them, and says how many bytes went into it.
/// The file's former contents are gone.
///
/// Where the file system can, the new file shares what it has with the layers.
///
/// # Errors
/// A layer cannot be read, or the file cannot be written.
pub fn merge(layers: &Layers, to: &File, progress: Progress<'_>) -> Result<u64, Error> {
    to.set_len(0).and_then(|()| to.set_len(layers.size().bytes())).map_err(Error::Write)?;
    layers.check_lengths()?;
    let mut work = Vec::new();
    for piece in layers.pieces() {
        let Source::File(number) = piece.source else { continue };
        let Some(file) = layers.file(number) else { continue };
        let data =
            host::data(file, piece.bytes()).map_err(|source| Error::Layer { layer: number, source })?;
        work.extend(data.into_iter().map(|range| (file, range)));
    }
    let total = work.iter().map(|(_, range)| range.end - range.start).sum();
    let mut done = 0;
    for (file, range) in work {
        let mut at = range.start;
        while at < range.end {
            let next = range.end.min(at + STEP);
            host::copy(file, to, at..next).map_err(Error::Write)?;
            done += next - at;
            at = next;
            report(progress, done, total)?;
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
