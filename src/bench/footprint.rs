//! What a VMM takes of the host's memory.
//!
//! That is a process's PSS: pages that several processes map are divided among them. What the kernel keeps for it
//! (page tables, KVM's own) is in no process's account.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::peers::Vmm;
use super::{BANTAM, Setup};

/// A process's share without its guest's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// All mappings but the guest's.
    pub pss: u64,
    /// The part of it that no file backs: heap, stacks, changed data.
    pub anonymous: u64,
}

/// One mapping of `/proc/PID/smaps`.
#[derive(Default)]
struct Mapping {
    range: Range<u64>,
    pss: u64,
    anonymous: u64,
}

/// All VMMs, and the programs that are this one's file as a copy of it: the bench itself maps that, and would take its
/// share of what they do.
pub(super) fn apart(setup: &Setup) -> anyhow::Result<Vec<Vmm>> {
    let own = &setup.vmm(BANTAM).context("Bantam is always there")?.program;
    let copy = setup.folder().join("bantam");
    if !copy.exists() {
        fs::copy(own, &copy).with_context(|| format!("cannot copy {}", own.display()))?;
    }
    let copy = fs::canonicalize(copy)?;
    let apart = |vmm: &Vmm| {
        let mut vmm = vmm.clone();
        if vmm.program == *own {
            vmm.program.clone_from(&copy);
        }
        vmm
    };
    Ok(setup.vmms.iter().map(apart).collect())
}

/// Measures a process whose guest has so much memory.
///
/// # Errors
/// It has no guest with so much memory, or is gone.
pub fn overhead(pid: u32, guest_bytes: u64) -> anyhow::Result<Overhead> {
    let path = format!("/proc/{pid}/smaps");
    let mappings = parse(&fs::read_to_string(&path).with_context(|| path.clone())?);
    match without_guest(&mappings, guest_bytes) {
        Some(overhead) => Ok(overhead),
        None => bail!("{path}: no mappings make up {guest_bytes:#x} bytes of guest memory"),
    }
}

fn without_guest(mappings: &[Mapping], guest_bytes: u64) -> Option<Overhead> {
    let guest = guest_memory(mappings, guest_bytes)?;
    let outside = mappings
        .iter()
        .filter(|mapping| mapping.range.end <= guest.start || guest.end <= mapping.range.start);
    let add = |sum: Overhead, mapping: &Mapping| Overhead {
        pss: sum.pss + mapping.pss,
        anonymous: sum.anonymous + mapping.anonymous,
    };
    Some(outside.fold(Overhead { pss: 0, anonymous: 0 }, add))
}

/// All of a process's share, in bytes.
///
/// # Errors
/// It is gone.
pub fn pss(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context(path)?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

/// Bytes of the files from which a process has mapped code: its program and the shared libraries.
///
/// # Errors
/// The process or a file is gone.
pub fn files(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/maps");
    let files = code(&fs::read_to_string(&path).context(path)?);
    let size = |file: &PathBuf| Ok(fs::metadata(file).with_context(|| file.display().to_string())?.len());
    files.iter().map(size).sum()
}

/// The files of mappings that can be run.
fn code(maps: &str) -> BTreeSet<PathBuf> {
    let of = |line: &str| {
        // Addresses, rights, offset, device, inode, and the file, which may have blanks in its name.
        let mut words = line.splitn(6, ' ').skip(1);
        let is_code = words.next()?.contains('x');
        let file = words.nth(3)?.trim_start();
        (is_code && file.starts_with('/')).then(|| file.into())
    };
    maps.lines().filter_map(of).collect()
}

/// How many threads a process has.
///
/// # Errors
/// It is gone.
pub fn threads(pid: u32) -> anyhow::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/task"))?.count())
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        let bytes = || second.and_then(|kib| kib.parse().ok()).map_or(0, |kib: u64| kib << 10);
        match (first, mappings.last_mut()) {
            ("Pss:", Some(mapping)) => mapping.pss = bytes(),
            ("Anonymous:", Some(mapping)) => mapping.anonymous = bytes(),
            _ => mappings.extend(addresses(first).map(|range| Mapping { range, ..Mapping::default() })),
        }
    }
    mappings
}

/// The addresses in the first line about a mapping.
fn addresses(word: &str) -> Option<Range<u64>> {
    let (start, end) = word.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// The addresses of guest memory: adjacent mappings that are together as large. Advice about parts
/// of it splits a mapping.
fn guest_memory(mappings: &[Mapping], bytes: u64) -> Option<Range<u64>> {
    (0..mappings.len()).find_map(|from| {
        let start = mappings.get(from)?.range.start;
        let mut ends = mappings.get(from..)?.iter().scan(start, |end, mapping| {
            let adjacent = mapping.range.start == *end;
            *end = mapping.range.end;
            adjacent.then_some(*end)
        });
        ends.find(|end| end - start == bytes).map(|end| start..end)
    })
}

#[cfg(test)]
mod tests;
