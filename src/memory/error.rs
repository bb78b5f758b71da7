use std::io;
use std::path::PathBuf;

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
    /// Memory cannot be read.
    #[error("a page of memory cannot be read: the file that it was restored from is cut short or damaged")]
    Unreadable(#[source] io::Error),
    /// Pages that come from elsewhere do not.
    #[error("the source of the memory's pages has failed: what had not come by then is lost")]
    SourceFailed,
    /// Whoever was told how far it was did not want the rest.
    #[error("it was given up")]
    GivenUp,
    /// The image cannot be read.
    #[error("cannot read the image of the memory")]
    Read(#[source] io::Error),
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
    /// A file of a working set cannot be written or read.
    #[error("working set {}", path.display())]
    WorkingSetFile {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// A file is not a working set that can be used.
    #[error("working set {} cannot be used: {reason}", path.display())]
    WorkingSet {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A working set does not belong to this memory.
    #[error("the working set is of a memory with {found} pages, and this one has {pages}")]
    ForeignWorkingSet {
        /// The pages of its memory.
        found: u64,
        /// Those of this one.
        pages: u64,
    },
    /// The working set cannot be brought in.
    #[error("cannot bring in the working set")]
    Prefetch(#[source] io::Error),
    /// The host has no userfaultfd for this process.
    #[error(
        "cannot serve the guest's page faults by userfaultfd: it takes /dev/userfaultfd \
         (`sudo setfacl -m u:$USER:rw /dev/userfaultfd`) or `sudo sysctl vm.unprivileged_userfaultfd=1`"
    )]
    Userfaultfd(#[source] io::Error),
    /// The host has not set aside enough huge pages.
    #[error(
        "cannot map {size} of guest memory in huge pages: it takes {needed} huge pages of 2 MiB, and {free} are \
         free; set more aside in /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
    )]
    HugePages {
        /// How much was asked for.
        size: Size,
        /// How many pages that takes.
        needed: u64,
        /// How many the host has.
        free: u64,
        /// What the host said.
        source: FromRangesError,
    },
    /// Huge pages do not come in parts.
    #[error("{0} of guest memory cannot be in huge pages: give a multiple of 2 MiB")]
    HugePageSize(Size),
}
