//! What a monitor takes of the host's memory beside its guest's.

use std::fs;
use std::ops::Range;

use anyhow::{Context, bail};
use serde::Serialize;

/// A process's share of the host's memory (PSS: pages that several processes map are divided among
/// them), without its guest's memory, in KiB.
#[derive(Clone, Debug, Serialize)]
pub struct Overhead {
    /// All mappings but the guest's.
    pub pss_kib: u64,
    /// The part of it that no file backs: heap, stacks, changed data.
    pub anonymous_kib: u64,
    /// What the guest has touched of its own memory.
    pub guest_kib: u64,
    /// The names of the threads.
    pub threads: Vec<String>,
}

/// One mapping of `/proc/PID/smaps`.
#[derive(Default)]
struct Mapping {
    range: Range<u64>,
    pss_kib: u64,
    anonymous_kib: u64,
}

/// Measures a process whose guest has so much memory.
pub fn overhead(pid: u32, guest_bytes: u64) -> anyhow::Result<Overhead> {
    let path = format!("/proc/{pid}/smaps");
    let mappings = parse(&fs::read_to_string(&path).with_context(|| path.clone())?);
    let Some(guest) = guest_memory(&mappings, guest_bytes) else {
        bail!("{path}: no mappings make up {guest_bytes:#x} bytes of guest memory");
    };
    let inside = |mapping: &&Mapping| guest.start <= mapping.range.start && mapping.range.end <= guest.end;
    let pss = |mapping: &Mapping| mapping.pss_kib;
    Ok(Overhead {
        pss_kib: mappings.iter().filter(|mapping| !inside(mapping)).map(pss).sum(),
        anonymous_kib: mappings.iter().filter(|mapping| !inside(mapping)).map(|m| m.anonymous_kib).sum(),
        guest_kib: mappings.iter().filter(inside).map(pss).sum(),
        threads: threads(pid)?,
    })
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), second) = (words.next(), words.next()) else { continue };
        let value = || second.and_then(|word| word.parse().ok()).unwrap_or(0);
        match (first, mappings.last_mut()) {
            ("Pss:", Some(mapping)) => mapping.pss_kib = value(),
            ("Anonymous:", Some(mapping)) => mapping.anonymous_kib = value(),
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

fn threads(pid: u32) -> anyhow::Result<Vec<String>> {
    fs::read_dir(format!("/proc/{pid}/task"))?
        .map(|task| Ok(fs::read_to_string(task?.path().join("comm"))?.trim_end().to_owned()))
        .collect()
}
