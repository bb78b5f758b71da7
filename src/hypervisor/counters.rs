//! What KVM itself counts of a vCPU (KVM API, `KVM_GET_STATS_FD`). Which counters there are, KVM says in the file
//! itself; which of them it really keeps is its vendor module's affair: one that stays zero may be one that nobody
//! counts.

// A call that gives a file descriptor.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::{errno, ioctl::ioctl, ioctl_io_nr};
use zerocopy::{FromBytes, IntoBytes};

use super::Error;

const CALL: &str = "KVM_GET_STATS_FD";

ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// `struct kvm_stats_header`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes)]
#[repr(C)]
struct Header {
    flags: u32,
    name_size: u32,
    descriptors: u32,
    id_offset: u32,
    descriptors_offset: u32,
    data_offset: u32,
}

/// `struct kvm_stats_desc`, which its name follows.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes)]
#[repr(C)]
struct Descriptor {
    flags: u32,
    exponent: i16,
    /// How many numbers there are: more than one make a histogram.
    size: u16,
    offset: u32,
    bucket_size: u32,
}

/// The bits of [`Descriptor::flags`] that are zero for what only grows and has no unit: type, unit.
const KIND: u32 = 0xff;

/// The counters of one vCPU, which they outlive.
#[derive(Debug)]
pub struct Counters {
    file: File,
    /// Where in the file each is.
    places: Vec<(String, u64)>,
}

impl Counters {
    pub(super) fn open(vcpu: &VcpuFd) -> Result<Self, Error> {
        // SAFETY: the call has no argument.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        if fd < 0 {
            return Err(Error::call(CALL)(errno::Error::last()));
        }
        // SAFETY: the call has succeeded, so this is a new descriptor and nobody else's.
        let file = unsafe { File::from_raw_fd(fd) };
        let places = places(&file).map_err(failed)?;
        Ok(Self { file, places })
    }

    /// What has been counted by now, by KVM's own names.
    ///
    /// # Errors
    /// The host cannot read it.
    pub fn read(&self) -> Result<BTreeMap<String, u64>, Error> {
        let read = |(name, at): &(String, u64)| Ok((name.clone(), read_at::<u64>(&self.file, *at)?));
        self.places.iter().map(read).collect::<io::Result<_>>().map_err(failed)
    }
}

fn places(file: &File) -> io::Result<Vec<(String, u64)>> {
    let header: Header = read_at(file, 0)?;
    let mut name = vec![0; usize::try_from(header.name_size).unwrap_or_default()];
    let step = size_of::<Descriptor>() as u64 + u64::from(header.name_size);
    let mut places = Vec::new();
    for index in 0..u64::from(header.descriptors) {
        let at = u64::from(header.descriptors_offset) + index * step;
        let descriptor: Descriptor = read_at(file, at)?;
        if descriptor.flags & KIND == 0 && descriptor.size == 1 {
            file.read_exact_at(&mut name, at + size_of::<Descriptor>() as u64)?;
            let text = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let place = u64::from(header.data_offset) + u64::from(descriptor.offset);
            places.push((String::from_utf8_lossy(text).into_owned(), place));
        }
    }
    Ok(places)
}

fn read_at<T: FromBytes + IntoBytes + Default>(file: &File, at: u64) -> io::Result<T> {
    let mut value = T::default();
    file.read_exact_at(value.as_mut_bytes(), at)?;
    Ok(value)
}

fn failed(error: io::Error) -> Error {
    Error::call(CALL)(error.into())
}
