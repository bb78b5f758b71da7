//! The state file: sections, in an envelope that shows every truncation and every changed bit.
//!
//! A header, a table that names the sections with their lengths and checksums, and their payloads. The
//! header keeps its layout in all versions of the format; what comes after it is the version's own.

use std::collections::HashSet;
use std::fmt;

use thiserror::Error;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::state::Section;

/// The first bytes of every state file. The first is none of a text's, and the last one changes when
/// somebody takes the file for a text.
pub const MAGIC: [u8; 8] = *b"\x89Bantam\n";
/// The version of the format that is written; it and all older ones are read.
pub const VERSION: u16 = 1;
/// Most bytes of a state file: some 10 TiB of memory, with its checksums.
pub const MAX_LEN: u64 = 64 << 20;
/// Most sections of a state file.
pub const MAX_SECTIONS: u32 = 1 << 16;
/// The oldest release that reads what is written.
const NEEDS: Release = Release { major: 0, minor: 1, patch: 0 };

/// A release of this program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
    /// The third.
    pub patch: u16,
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The beginning of the file, of the same layout in all versions.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U16,
    /// The oldest release that reads the file.
    needs: [U16; 3],
    /// What a reader has to know beyond the version: none yet, and an unknown one is an error.
    flags: U32,
    sections: U32,
    table_len: U32,
    table_crc: U32,
    /// Of the whole file.
    len: U64,
    /// Of the header up to here.
    crc: U32,
}

impl Header {
    const LEN: usize = size_of::<Self>();

    fn needs(&self) -> Release {
        let [major, minor, patch] = self.needs.map(U16::get);
        Release { major, minor, patch }
    }

    /// The checksum that belongs at its end.
    fn checksum(&self) -> u32 {
        crc32fast::hash(self.as_bytes().split_last_chunk::<4>().map_or(&[], |(before, _)| before))
    }

    /// The header of a file, and what comes after it. Of a version that is known.
    fn of(bytes: &[u8]) -> Result<(&Self, &[u8]), Error> {
        if !bytes.iter().zip(&MAGIC).all(|(found, expected)| found == expected) {
            return Err(Error::NotASnapshot);
        }
        let truncated = |expected| Error::Truncated { len: length(bytes), expected };
        let Ok((header, rest)) = Self::ref_from_prefix(bytes) else {
            return Err(truncated(Self::LEN as u64));
        };
        if header.crc.get() != header.checksum() {
            return Err(Error::Checksum(Part::Header));
        }
        let (found, needs) = (header.version.get(), header.needs());
        if found > VERSION {
            return Err(Error::Newer { found, known: VERSION, needs });
        }
        if header.flags.get() != 0 {
            return Err(Error::Flags { flags: header.flags.get(), needs });
        }
        match header.len.get() {
            len if len > MAX_LEN => Err(Error::TooLarge(len)),
            len if len > length(bytes) => Err(truncated(len)),
            len if len < length(bytes) => Err(Error::Excess { len: length(bytes), expected: len }),
            _ => Ok((header, rest)),
        }
    }
}

/// What the table says of a section. The bytes of its id and its kind follow.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    version: U16,
    id_len: U16,
    kind_len: U16,
    payload_len: U32,
    payload_crc: U32,
}

/// What a checksum is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The header.
    Header,
    /// The table of the sections.
    Table,
    /// A section's payload.
    Section {
        /// Whose it is.
        id: String,
        /// What it is.
        kind: String,
    },
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "the header"),
            Self::Table => write!(f, "the table of sections"),
            Self::Section { id, kind } => write!(f, "the section '{kind}' of '{id}'"),
        }
    }
}

/// Bytes that are no state file, or sections that cannot become one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// It begins as something else.
    #[error("not a snapshot's state: it does not begin like one")]
    NotASnapshot,
    /// A later release has written it.
    #[error(
        "the snapshot has format {found}, and this program knows {known} and older: use Bantam {needs} or newer"
    )]
    Newer {
        /// Its version.
        found: u16,
        /// The newest that is known.
        known: u16,
        /// What reads it.
        needs: Release,
    },
    /// A later release has written it, in a way that earlier ones should not try to read.
    #[error("the snapshot needs what this program does not know ({flags:#x}): use Bantam {needs} or newer")]
    Flags {
        /// What it needs, one bit each.
        flags: u32,
        /// What reads it.
        needs: Release,
    },
    /// The end is missing.
    #[error(
        "the state is cut off after {len} of {expected} bytes: copy the snapshot again, or make a new one"
    )]
    Truncated {
        /// What there is.
        len: u64,
        /// What there should be, at least.
        expected: u64,
    },
    /// There is more than belongs to it.
    #[error("the state has {len} bytes, of which {expected} belong to it")]
    Excess {
        /// What there is.
        len: u64,
        /// What there should be.
        expected: u64,
    },
    /// A part is not what was written.
    #[error("the checksum of {0} is wrong: the state is damaged")]
    Checksum(Part),
    /// Two sections are of the same kind, and of the same part of the machine.
    #[error("there are two sections '{kind}' of '{id}'")]
    Doubled {
        /// Whose they are.
        id: String,
        /// What they are.
        kind: String,
    },
    /// It is whole, and contradicts itself.
    #[error("the state cannot be: {0}")]
    Impossible(&'static str),
    /// It would be, or is, larger than any.
    #[error("the state has {0} bytes; at most {MAX_LEN} are possible")]
    TooLarge(u64),
    /// It would have, or has, more sections than any.
    #[error("the state has {0} sections; at most {MAX_SECTIONS} are possible")]
    TooMany(u32),
    /// A name does not fit the table.
    #[error("the name '{0}' is too long for a snapshot")]
    Name(String),
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// The file of these sections.
///
/// # Errors
/// Two are the same, a name is longer than 65,535 bytes, or the file would be larger than [`MAX_LEN`] or
/// have more than [`MAX_SECTIONS`].
pub fn encode(sections: &[Section]) -> Result<Vec<u8>, Error> {
    distinct(sections)?;
    let mut table = Vec::new();
    for section in sections {
        table.extend_from_slice(entry(section)?.as_bytes());
        table.extend_from_slice(section.id.as_bytes());
        table.extend_from_slice(section.kind.as_bytes());
    }
    let payloads: u64 = sections.iter().map(|section| length(&section.payload)).sum();
    let len = Header::LEN as u64 + length(&table) + payloads;
    let small = |number: usize| match u32::try_from(number) {
        Ok(number) if len <= MAX_LEN => Ok(U32::new(number)),
        _ => Err(Error::TooLarge(len)),
    };
    let few =
        |count: U32| if count.get() > MAX_SECTIONS { Err(Error::TooMany(count.get())) } else { Ok(count) };
    let mut header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        needs: [NEEDS.major, NEEDS.minor, NEEDS.patch].map(U16::new),
        flags: 0.into(),
        sections: small(sections.len()).and_then(few)?,
        table_len: small(table.len())?,
        table_crc: crc32fast::hash(&table).into(),
        len: len.into(),
        crc: 0.into(),
    };
    header.crc = header.checksum().into();
    let mut file = header.as_bytes().to_vec();
    file.append(&mut table);
    file.extend(sections.iter().flat_map(|section| &section.payload));
    Ok(file)
}

fn entry(section: &Section) -> Result<Entry, Error> {
    let name_len = |name: &str| u16::try_from(name.len()).map_err(|_| Error::Name(name.to_owned()));
    let payload_len = u32::try_from(section.payload.len());
    Ok(Entry {
        version: section.version.into(),
        id_len: name_len(&section.id)?.into(),
        kind_len: name_len(&section.kind)?.into(),
        payload_len: payload_len.map_err(|_| Error::TooLarge(length(&section.payload)))?.into(),
        payload_crc: crc32fast::hash(&section.payload).into(),
    })
}

/// The sections of a file, in the order in which they were written. All checksums have been checked.
///
/// # Errors
/// The file is another one, of a newer version, not whole, damaged, or contradicts itself.
pub fn decode(bytes: &[u8]) -> Result<Vec<Section>, Error> {
    let (header, rest) = Header::of(bytes)?;
    let sections = match header.version.get() {
        1 => sections_1(header, rest),
        _ => Err(Error::Impossible("there is no format of its version")),
    }?;
    distinct(&sections)?;
    Ok(sections)
}

/// The version of the format that a file has.
///
/// # Errors
/// The file does not begin as a whole one of a known version does.
pub fn version(bytes: &[u8]) -> Result<u16, Error> {
    Header::of(bytes).map(|(header, _)| header.version.get())
}

/// What comes after the header in version 1: the table, and the payloads in its order.
fn sections_1(header: &Header, rest: &[u8]) -> Result<Vec<Section>, Error> {
    const SHORT: Error = Error::Impossible("its table is longer than the file");
    let table_len = usize::try_from(header.table_len.get()).map_err(|_| SHORT)?;
    let (mut table, mut payloads) = rest.split_at_checked(table_len).ok_or(SHORT)?;
    if crc32fast::hash(table) != header.table_crc.get() {
        return Err(Error::Checksum(Part::Table));
    }
    let count = header.sections.get();
    if count > MAX_SECTIONS {
        return Err(Error::TooMany(count));
    }
    let mut sections = Vec::new();
    for _ in 0..count {
        sections.push(section_1(&mut table, &mut payloads)?);
    }
    if !table.is_empty() {
        return Err(Error::Impossible("its table has more sections than its header says"));
    }
    if !payloads.is_empty() {
        return Err(Error::Impossible("its sections are shorter than the file"));
    }
    Ok(sections)
}

/// Takes the first section from what there is of the table and the payloads.
fn section_1(table: &mut &[u8], payloads: &mut &[u8]) -> Result<Section, Error> {
    const CUT: Error = Error::Impossible("its table has fewer sections than its header says");
    const LONG: Error = Error::Impossible("its sections are longer than the file");
    let (entry, rest) = Entry::ref_from_prefix(table).map_err(|_| CUT)?;
    *table = rest;
    let mut name = |len: U16| {
        let name = take(table, len.get().into()).ok_or(CUT)?;
        str::from_utf8(name).map(str::to_owned).map_err(|_| Error::Impossible("a section's name is no UTF-8"))
    };
    let (id, kind) = (name(entry.id_len)?, name(entry.kind_len)?);
    let payload_len = usize::try_from(entry.payload_len.get()).map_err(|_| LONG)?;
    let payload = take(payloads, payload_len).ok_or(LONG)?;
    if crc32fast::hash(payload) != entry.payload_crc.get() {
        return Err(Error::Checksum(Part::Section { id, kind }));
    }
    Ok(Section { id, kind, version: entry.version.get(), payload: payload.to_vec() })
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn distinct(sections: &[Section]) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match sections.iter().find(|section| !seen.insert((&section.id, &section.kind))) {
        None => Ok(()),
        Some(Section { id, kind, .. }) => Err(Error::Doubled { id: id.clone(), kind: kind.clone() }),
    }
}

/// Makes what a fuzzer gives look like a file whose checksums are all right, so that what is behind them is
/// reached.
#[cfg(any(test, fuzzing))]
pub fn mend(file: &mut [u8]) {
    let len = length(file);
    let Ok((header, rest)) = Header::mut_from_prefix(file) else { return };
    header.magic = MAGIC;
    header.version = VERSION.into();
    header.flags = 0.into();
    header.len = len.into();
    let table_len = usize::try_from(header.table_len.get()).unwrap_or(usize::MAX) % (rest.len() + 1);
    header.table_len = u32::try_from(table_len).unwrap_or_default().into();
    let (table, mut payloads) = rest.split_at_mut(table_len);
    let mut left = &mut *table;
    while let Ok((entry, names)) = Entry::mut_from_prefix(left) {
        let payload_len = usize::try_from(entry.payload_len.get()).unwrap_or(usize::MAX).min(payloads.len());
        let (payload, others) = payloads.split_at_mut(payload_len);
        entry.payload_crc = crc32fast::hash(payload).into();
        let names_len = usize::from(entry.id_len.get()) + usize::from(entry.kind_len.get());
        (left, payloads) = (names.get_mut(names_len..).unwrap_or_default(), others);
    }
    header.table_crc = crc32fast::hash(table).into();
    header.crc = header.checksum().into();
}

#[cfg(test)]
mod tests;
