use std::io;

use thiserror::Error;
use vm_memory::mmap::FromRangesError;

use super::layout::PAGE_SIZE;
use crate::config::Size;

/// Guest memory that the host does not give, or an image of it that cannot be written or used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The address space has no room for it.
    #[error("cannot map {size} of guest memory")]
    Map {
        /// How much was asked for.
        size: Size,
        /// What the host said.
        source: FromRangesError,
    },
    /// More than this build's address space.
    #[error("{0} of guest memory is more than this host can address")]
    TooLarge(Size),
    /// The host does not say which pages it has.
    #[error("cannot find out which pages of memory are in use (/proc/self/pagemap)")]
    Pages(#[source] io::Error),
    /// There are no such pages.
    #[error("{count} pages from page {first} on are more than the memory has")]
    Outside {
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The image cannot be written.
    #[error("cannot write the image of the memory")]
    Write(#[source] io::Error),
    /// There is nothing to make the memory of.
    #[error("the first file of the memory does not have all of it: its base is missing")]
    NoBase,
    /// A file cannot be read or mapped.
    #[error("cannot use file {layer} of the memory")]
    Layer {
        /// Its number, from 0.
        layer: usize,
        /// What the host said.
        source: io::Error,
    },
    /// A file is not as long as the memory.
    #[error(
        "file {layer} of the memory has {found} bytes, not those of {size}, in pages of {PAGE_SIZE}: \
         it is cut short, or of another machine"
    )]
    LayerLength {
        /// Its number, from 0.
        layer: usize,
        /// Its length in bytes.
        found: u64,
        /// The memory's size.
        size: Size,
    },
    /// A file is said to have pages that the memory does not have.
    #[error("file {layer} of the memory is said to have {count} pages from page {first} on, of {pages}")]
    Run {
        /// Its number, from 0.
        layer: usize,
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
        /// How many pages the memory has.
        pages: u64,
    },
}
