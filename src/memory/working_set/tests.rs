use std::os::unix::fs::FileExt;
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use super::super::layers::{Layer, Run};
use super::super::tests::resident;
use super::super::{Error, restore};
use super::*;
use crate::config::Size;

const PAGE: u64 = PAGE_SIZE;

/// A file of random bytes that is on disk, and not in memory; none where files are always in memory.
fn cold_file(pages: u64) -> Option<File> {
    let file = tempfile::tempfile().unwrap();
    let mut word = 1_u64;
    for mib in 0..pages.div_ceil(256) {
        let bytes: Vec<u8> = (0..1 << 17)
            .flat_map(|_| {
                word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                word.to_ne_bytes()
            })
            .collect();
        let len = usize::try_from((pages * PAGE - (mib << 20)).min(1 << 20)).unwrap();
        file.write_all_at(&bytes[..len], mib << 20).unwrap();
    }
    file.sync_all().unwrap();
    chill(&file, pages);
    let cold = cached(&file, pages) == 0;
    if !cold {
        crate::testing::skip("the temporary folder's file system keeps files in memory");
    }
    cold.then_some(file)
}

fn chill(file: &File, pages: u64) {
    host::advise_file(file, 0..pages * PAGE, libc::POSIX_FADV_DONTNEED).unwrap();
}

/// How many of a file's pages are in memory.
fn cached(file: &File, pages: u64) -> usize {
    let layers = Layers::new(Size::new(pages * PAGE), vec![layer(file)]).unwrap();
    resident(&restore(&layers).unwrap(), 0, usize::try_from(pages).unwrap())
}

fn layer(file: &File) -> Layer {
    Layer { file: file.try_clone().unwrap(), runs: None }
}

fn touch(memory: &GuestMemory, page: u64) -> u8 {
    memory.read_obj(GuestAddress(page * PAGE)).unwrap()
}

#[test]
fn just_what_was_touched_is_recorded_and_comes_again() {
    let Some(base) = cold_file(2048) else { return };
    let change = cold_file(2048).unwrap();
    let run = |first, count, zero| Run { first, count, zero };
    let runs = vec![run(100, 50, false), run(500, 100, true)];
    let layers = vec![layer(&base), Layer { runs: Some(runs), ..layer(&change) }];
    let layers = Layers::new(Size::mib(8), layers).unwrap();
    let memory = restore(&layers).unwrap();
    WorkingSet::watch(&memory, &layers).unwrap();
    let touched = [3, 4, 5, 70, 99, 100, 120, 149, 150, 599, 600, 2000, 2047];
    for page in touched {
        touch(&memory, page);
    }
    memory.write_obj(1_u8, GuestAddress(1000 * PAGE)).unwrap();
    memory.write_obj(1_u8, GuestAddress(550 * PAGE)).unwrap();
    let set = WorkingSet::record(&memory, &layers).unwrap();
    // Neither page 550 nor 599 has come from a file.
    let expected = [(3, 3), (70, 1), (99, 2), (120, 1), (149, 2), (600, 1), (1000, 1), (2000, 1), (2047, 1)];
    assert_eq!(set.runs, expected);
    assert_eq!(set.bytes(), 13 * PAGE);
    drop(memory);

    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("working-set");
    set.save(&path).unwrap();
    let set = WorkingSet::read(&File::open(&path).unwrap(), &path).unwrap();
    chill(&base, 2048);
    chill(&change, 2048);
    let memory = restore(&layers).unwrap();
    Prefetch::start(&memory, &layers, &set).unwrap().wait();
    let pagemap = Pagemap::open().unwrap();
    let held = pagemap.held(&parts(&memory, 0..8 << 20).unwrap()[0].1).unwrap();
    for page in touched.into_iter().filter(|page| *page != 599).chain([1000]) {
        assert!(within(&held, page..page + 1).next().is_some(), "{page}");
    }
    assert!(cached(&base, 2048) < 200, "much more has been read than was touched");
    // What has been brought in is what was there.
    let mut byte = [0];
    base.read_exact_at(&mut byte, 1000 * PAGE).unwrap();
    assert_eq!(touch(&memory, 1000), byte[0]);
    change.read_exact_at(&mut byte, 120 * PAGE).unwrap();
    assert_eq!(touch(&memory, 120), byte[0]);
}

#[test]
fn what_belongs_together_is_read_together() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    let zero = Run { first: 300, count: 10, zero: true };
    let layers = vec![layer(&file), Layer { runs: Some(vec![zero]), ..layer(&file) }];
    let layers = Layers::new(Size::mib(8), layers).unwrap();
    let runs = vec![(0, 2), (2 + GAP, 1), (50, 1), (290, 30), (400, 1)];
    let reads = reads(&layers, &runs);
    let pages: Vec<_> = reads.iter().map(|(_, range)| range.start / PAGE..range.end / PAGE).collect();
    assert_eq!(pages, [0..3 + GAP, 50..51, 290..300, 310..320, 400..401]);
}

#[test]
fn blocks_with_many_pages_are_brought_in_whole() {
    let Some(file) = cold_file(4 * BLOCK) else { return };
    let layers = Layers::new(Size::mib(8), vec![layer(&file)]).unwrap();
    // One page in eight of the second block, and of the third one page less; two runs end at a block's border.
    let eighth = |block: u64, count: u64| (0..count).map(move |n| (block * BLOCK + n * 8, 1));
    let runs: Vec<_> =
        [(BLOCK - 1, 1)].into_iter().chain(eighth(1, DENSE)).chain(eighth(2, DENSE - 1)).collect();
    let set = WorkingSet { pages: 4 * BLOCK, runs: runs.clone() };
    let plan = Plan::new(&layers, &set);
    assert_eq!(plan.dense, [(BLOCK, BLOCK)]);
    let scattered: Vec<_> = runs.iter().copied().filter(|(first, _)| first / BLOCK != 1).collect();
    assert_eq!(plan.scattered, scattered);
    assert_eq!(pages_in_blocks(&[(BLOCK - 1, BLOCK + 3)]), BTreeMap::from([(0, 1), (1, BLOCK), (2, 2)]));
    // A memory that ends within a block.
    let set = WorkingSet { pages: BLOCK + 100, runs: vec![(0, BLOCK + 100)] };
    assert_eq!(Plan::new(&layers, &set).dense, [(0, BLOCK + 100)]);

    let memory = restore(&layers).unwrap();
    plan.bring_in(&memory, &AtomicBool::new(false)).unwrap();
    let pagemap = Pagemap::open().unwrap();
    let held = pagemap.held(&parts(&memory, 0..8 << 20).unwrap()[0].1).unwrap();
    let here = |page| within(&held, page..page + 1).next().is_some();
    assert!((BLOCK..2 * BLOCK).all(here) && scattered.iter().all(|(first, _)| here(*first)), "{held:?}");
}

#[test]
fn a_prefetch_ends_with_its_owner() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(64 << 20).unwrap();
    let layers = Layers::new(Size::mib(64), vec![layer(&file)]).unwrap();
    let memory = restore(&layers).unwrap();
    let set = WorkingSet { pages: 64 << 8, runs: vec![(0, 64 << 8)] };
    let prefetch = Prefetch::start(&memory, &layers, &set).unwrap();
    drop(memory);
    drop(prefetch);
    let memory = restore(&layers).unwrap();
    let stopped = AtomicBool::new(true);
    Plan::new(&layers, &set).bring_in(&memory, &stopped).unwrap();
    let pagemap = Pagemap::open().unwrap();
    assert_eq!(pagemap.held(&parts(&memory, 0..64 << 20).unwrap()[0].1).unwrap(), []);
}

#[test]
fn a_set_of_another_memory_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    let layers = Layers::new(Size::mib(8), vec![layer(&file)]).unwrap();
    let memory = restore(&layers).unwrap();
    let set = WorkingSet { pages: 2047, runs: vec![] };
    let error = Prefetch::start(&memory, &layers, &set).unwrap_err();
    assert!(matches!(error, Error::ForeignWorkingSet { found: 2047, pages: 2048 }), "{error}");
}

#[test]
fn a_file_that_is_no_set_is_an_error() {
    let set = WorkingSet { pages: 2048, runs: vec![(1, 2), (3, 4), (2047, 1)] };
    let good = set.encode().unwrap();
    assert_eq!(WorkingSet::decode(&good).unwrap(), set);
    for len in 0..good.len() {
        WorkingSet::decode(&good[..len]).unwrap_err();
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        WorkingSet::decode(&bad).unwrap_err();
    }
    let mut long = good;
    long.push(0);
    WorkingSet::decode(&long).unwrap_err();
    let runs =
        [vec![(1, 2), (2, 1)], vec![(5, 1), (4, 1)], vec![(1, 0)], vec![(2047, 2)], vec![(u64::MAX, 1)]];
    for runs in runs {
        let bad = WorkingSet { pages: 2048, runs }.encode().unwrap();
        assert!(WorkingSet::decode(&bad).unwrap_err().contains("out of order"));
    }
    let bad = WorkingSet { pages: u64::MAX, runs: vec![(1 << 60, 1)] }.encode().unwrap();
    assert!(WorkingSet::decode(&bad).unwrap_err().contains("beyond"));
}

#[test]
fn a_set_that_cannot_be_saved_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let set = WorkingSet { pages: 1, runs: vec![] };
    let taken = folder.path().join("taken");
    fs::create_dir(&taken).unwrap();
    let error = set.save(&taken).unwrap_err();
    assert!(matches!(error, Error::WorkingSetFile { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let path = folder.path().join("set");
    set.save(&path).unwrap();
    WorkingSet { pages: 2, runs: vec![(0, 1)] }.save(&path).unwrap();
    assert_eq!(WorkingSet::read(&File::open(&path).unwrap(), &path).unwrap().pages, 2);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    let write_only = File::options().append(true).open(&path).unwrap();
    let error = WorkingSet::read(&write_only, &path).unwrap_err();
    assert!(matches!(error, Error::WorkingSetFile { .. }), "{error}");
}

/// Touches a scattered working set of 64 MiB in an image of 512 MiB from a cold page cache, without and with
/// prefetch, in turn.
#[test]
#[ignore = "a measurement: run it alone, with --nocapture"]
fn prefetch_is_faster_than_faults() {
    const PAGES: u64 = 512 << 8;
    const RUN: u64 = 4;
    let Some(file) = cold_file(PAGES) else { return };
    let layers = Layers::new(Size::new(PAGES * PAGE), vec![layer(&file)]).unwrap();
    // An eighth of the memory: every place once, in an order that looks like none.
    let places = PAGES / RUN / 8;
    let order: Vec<u64> =
        (0..places).map(|n| n * 40_503 % places).map(|n| (n * 8 + n * n % 8) * RUN).collect();
    let walk = |memory: &GuestMemory| {
        order.iter().flat_map(|first| *first..first + RUN).fold(0_u8, |sum, page| sum ^ touch(memory, page))
    };
    let memory = restore(&layers).unwrap();
    WorkingSet::watch(&memory, &layers).unwrap();
    let expected = walk(&memory);
    let set = WorkingSet::record(&memory, &layers).unwrap();
    assert_eq!(set.bytes(), 64 << 20);
    drop(memory);
    for round in 0..5 {
        let mut took = [0.0; 2];
        for prefetch in [false, true] {
            chill(&file, PAGES);
            assert_eq!(cached(&file, PAGES), 0);
            let start = Instant::now();
            let memory = restore(&layers).unwrap();
            let running = prefetch.then(|| Prefetch::start(&memory, &layers, &set).unwrap());
            assert_eq!(walk(&memory), expected);
            took[usize::from(prefetch)] = start.elapsed().as_secs_f64() * 1000.0;
            drop(running);
        }
        let [plain, ahead] = took;
        println!("round {round}: faults {plain:.0} ms, prefetch {ahead:.0} ms, {:.1} times", plain / ahead);
    }
}
