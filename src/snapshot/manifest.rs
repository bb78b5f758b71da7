//! What a snapshot says of itself: which one it is, of which machine, on which host, and what its other
//! files hold.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::folder;
use crate::config::MachineConfig;
use crate::devices::vmgenid;
use crate::hypervisor::VcpuState;
use crate::memory::Run;
use crate::memory::image::CHUNK;
use crate::memory::layout::PAGE_SIZE;
use crate::state::{self, State, saved};

/// Most runs of pages in a diff.
const MOST_RUNS: usize = 1 << 20;
/// Whose the sections are that are about the snapshot itself.
pub const OWNER: &str = "snapshot";

/// Which snapshot it is: 128 bits that no other one has, written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(pub [u8; 16]);

impl Id {
    /// A new one.
    ///
    /// # Errors
    /// The host gives no random numbers.
    pub fn random() -> io::Result<Self> {
        vmgenid::random().map(Self)
    }

    /// The same as a number.
    #[must_use]
    pub fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.number())
    }
}

/// A word that is no id.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no snapshot's id: give its 32 hexadecimal digits")]
pub struct ParseIdError(String);

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let number = u128::from_str_radix(word, 16).map_err(|_| ParseIdError(word.to_owned()));
        match word.len() {
            32 if !word.starts_with('+') => number.map(|number| Self(number.to_be_bytes())),
            _ => Err(ParseIdError(word.to_owned())),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            Deserialize::deserialize(deserializer).map(Self)
        }
    }
}

/// What a diff is a diff to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its directory. A relative path starts at the directory of the diff.
    pub path: PathBuf,
    /// Its id.
    pub id: Id,
}

/// The copy of a disk's overlay that lies beside the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCopy {
    /// The name of the device.
    pub device: String,
    /// The name of the file.
    pub file: String,
    /// Its length in bytes.
    pub len: u64,
    /// Its CRC-32.
    pub crc: u32,
}

impl DiskCopy {
    /// Describes a copy that has been written to this file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(device: &str, name: &str, file: &File) -> io::Result<Self> {
        let (len, crc) = Self::sum(file)?;
        Ok(Self { device: device.to_owned(), file: name.to_owned(), len, crc })
    }

    /// The length and the CRC-32 of a file.
    pub(super) fn sum(file: &File) -> io::Result<(u64, u32)> {
        let (mut len, mut hasher) = (0, crc32fast::Hasher::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read_at(&mut buffer, len)? {
                0 => return Ok((len, hasher.finalize())),
                read => {
                    hasher.update(buffer.get(..read).unwrap_or_default());
                    len += read as u64;
                }
            }
        }
    }
}

saved! {
    "about", version 1, fingerprint 1961703278;
    /// Which snapshot it is.
    #[derive(Eq)]
    struct About {
        id: Id,
        created: u64,
        program: String,
        base: Option<Base>,
    }
}

saved! {
    "config", version 1, fingerprint 639670718;
    /// The machine's configuration, as JSON: it grows by fields with defaults, which postcard cannot leave
    /// out.
    #[derive(Eq)]
    struct Config {
        json: String,
    }
}

saved! {
    "image", version 1, fingerprint 3578112275;
    /// What `memory` holds.
    #[derive(Eq)]
    pub struct Image {
        /// Bytes of guest memory, and of the file.
        pub size: u64,
        /// The CRC-32 of every [`CHUNK`] of the file, of which the last may be shorter.
        pub chunks: Vec<u32>,
        /// In a diff the pages that have changed, in ascending order. All others are the base's.
        pub runs: Option<Vec<Run>>,
    }
}

saved! {
    "host", version 1, fingerprint 1681092053;
    /// Where the snapshot was made, as far as it matters to where it can be restored.
    #[derive(Eq)]
    pub struct Host {
        /// The processor's vendor, by its CPUID.
        pub vendor: String,
        /// The processor's family.
        pub family: u32,
        /// The processor's model.
        pub model: u32,
        /// The frequency of the guest's time-stamp counters.
        pub tsc_khz: u32,
        /// The release of the host's kernel, for information only.
        pub kernel: String,
    }
}

saved! {
    "disks", version 1, fingerprint 3760088310;
    /// The copies of overlays.
    #[derive(Eq)]
    struct Disks {
        copies: Vec<DiskCopy>,
    }
}

impl Host {
    /// The host of a vCPU.
    #[must_use]
    pub fn of(vcpu: &VcpuState) -> Self {
        let leaf = |number| vcpu.cpuid.iter().find(|leaf| leaf.function == number);
        let vendor = leaf(0).map_or([0; 3], |leaf| [leaf.ebx, leaf.edx, leaf.ecx]).map(u32::to_le_bytes);
        // Intel SDM volume 2A, CPUID leaf 1: the extended fields count where the others are full.
        let eax = leaf(1).map_or(0, |leaf| leaf.eax);
        let (family, model) = (eax >> 8 & 0xf, eax >> 4 & 0xf);
        let extended = [6, 15].contains(&family);
        Self {
            vendor: String::from_utf8_lossy(vendor.as_flattened()).into_owned(),
            family: if family == 15 { family + (eax >> 20 & 0xff) } else { family },
            model: if extended { model + (eax >> 12 & 0xf0) } else { model },
            tsc_khz: vcpu.tsc_khz,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

/// A description that is not one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A section is missing, unknown or damaged.
    #[error(transparent)]
    State(#[from] state::Error),
    /// The configuration cannot be written.
    #[error("the machine's configuration cannot be kept")]
    Write(#[source] serde_json::Error),
    /// The configuration has what this program does not know, or is none.
    #[error("the configuration in the snapshot is none that this program knows (Bantam {program} wrote it)")]
    Config {
        /// The release that wrote it.
        program: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The configuration is of no machine that can be.
    #[error("the configuration in the snapshot is of no machine")]
    Machine(#[source] crate::config::Error),
    /// It contradicts itself, or what is possible.
    #[error("what the snapshot says of itself cannot be: {0}")]
    Impossible(String),
    /// A path is no text.
    #[error("{0} is no UTF-8, and cannot be the base of a snapshot")]
    Path(PathBuf),
}

/// What a snapshot says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Which one it is.
    pub id: Id,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The release of this program that made it.
    pub program: String,
    /// What it is a diff to, if it is one.
    pub base: Option<Base>,
    /// The machine.
    pub config: MachineConfig,
    /// Its memory.
    pub image: Image,
    /// The host.
    pub host: Host,
    /// The copies of overlays.
    pub disks: Vec<DiskCopy>,
}

impl Manifest {
    /// A new snapshot's, made now by this program: of a whole machine, without copies of disks.
    ///
    /// # Errors
    /// The host gives no random numbers.
    pub fn new(config: MachineConfig, image: Image, host: Host) -> io::Result<Self> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Self {
            id: Id::random()?,
            created: since_1970.map_or(0, |time| time.as_secs()),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            base: None,
            config,
            image,
            host,
            disks: Vec::new(),
        })
    }

    /// Keeps it.
    ///
    /// # Errors
    /// It is none that could be read.
    pub fn put(&self, state: &mut State) -> Result<(), Error> {
        let Self { id, created, program, base, config, image, host, disks } = self.clone();
        self.validate()?;
        let json = serde_json::to_string(&config).map_err(Error::Write)?;
        state.put(OWNER, &About { id, created, program, base })?;
        state.put(OWNER, &Config { json })?;
        state.put(OWNER, &image)?;
        state.put(OWNER, &host)?;
        state.put(OWNER, &Disks { copies: disks })?;
        Ok(())
    }

    /// Takes it out. What is left in the state is the machine's.
    ///
    /// # Errors
    /// A section of it is missing, unknown or damaged, or it cannot be.
    pub fn take(state: &mut State) -> Result<Self, Error> {
        let About { id, created, program, base } = state.take(OWNER)?;
        let Config { json } = state.take(OWNER)?;
        let config = serde_json::from_str(&json)
            .map_err(|source| Error::Config { program: program.clone(), source })?;
        let image = state.take(OWNER)?;
        let host = state.take(OWNER)?;
        let Disks { copies: disks } = state.take(OWNER)?;
        let manifest = Self { id, created, program, base, config, image, host, disks };
        manifest.validate()?;
        Ok(manifest)
    }

    fn validate(&self) -> Result<(), Error> {
        self.config.validate().map_err(Error::Machine)?;
        let impossible = |reason| Err(Error::Impossible(reason));
        let (said, size) = (self.config.memory.bytes(), self.image.size);
        if size != said {
            return impossible(format!("its machine has {said} bytes of memory, and its image {size}"));
        }
        self.image.validate()?;
        match (&self.base, &self.image.runs) {
            (Some(base), _) if base.path.to_str().is_none() => return Err(Error::Path(base.path.clone())),
            (Some(_), None) => return impossible("it has a base, and all of its memory".to_owned()),
            (None, Some(_)) => return impossible("it has no base, and only a part of its memory".to_owned()),
            _ => {}
        }
        let (mut devices, mut files) = (HashSet::new(), HashSet::new());
        for DiskCopy { device, file, .. } in &self.disks {
            if !folder::is_copy_name(file) {
                return impossible(format!("'{file}' is no name for the copy of a disk"));
            }
            if !devices.insert(device) || !files.insert(file) {
                return impossible(format!("'{file}' of '{device}' is not the only copy"));
            }
        }
        Ok(())
    }
}

impl Image {
    /// Checks the numbers against each other: a checksum for every chunk, and runs that follow one another
    /// within the memory.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let impossible = |reason| Err(Error::Impossible(reason));
        let (chunks, found) = (self.size.div_ceil(CHUNK), self.chunks.len());
        if usize::try_from(chunks) != Ok(found) {
            return impossible(format!("{chunks} chunks of memory have {found} checksums"));
        }
        let runs = self.runs.as_ref().map_or(0, Vec::len);
        if runs > MOST_RUNS {
            return impossible(format!(
                "{runs} runs of pages are more than {MOST_RUNS}: save all of the memory"
            ));
        }
        let pages = self.size / PAGE_SIZE;
        let mut end = 0;
        for Run { first, count, .. } in self.runs.iter().flatten() {
            let next = first.checked_add(*count).filter(|next| *next <= pages);
            match next {
                Some(next) if *first >= end && *count > 0 => end = next,
                _ => {
                    return impossible(format!("{count} pages from {first} on, after {end} of {pages}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
