mod disks;
mod full;
mod killed;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::thread;

use tempfile::{TempDir, tempdir};

use super::*;
use crate::snapshot::manifest::{DiskCopy, Image};
use crate::snapshot::testing::{SIZE, diff, fill, manifest, save, state};

/// What is in a directory.
fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn first_byte(folder: &Folder) -> u8 {
    let mut byte = [0];
    folder.memory().unwrap().read_exact_at(&mut byte, 0).unwrap();
    byte[0]
}

/// The empty copy of a disk.
fn disk_copy() -> DiskCopy {
    DiskCopy { device: "disk0".into(), file: "disk0.qcow2".into(), len: 0, crc: 0 }
}

/// An error and what is below it, in one line.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

fn open_error(path: &Path) -> Error {
    Folder::open(path).unwrap_err()
}

#[test]
fn what_is_saved_is_opened() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    let copy = disk_copy();
    let saved = Manifest { disks: vec![copy], ..manifest(3) };
    save(&path, 3, &saved).unwrap();
    let folder = Folder::open(&path).unwrap();
    assert_eq!(folder.manifest(), &saved);
    assert_eq!(folder.state().sections().len(), 1);
    assert_eq!(folder.state().sections()[0].id, "vcpu0");
    assert_eq!(folder.state_len(), fs::metadata(path.join(STATE)).unwrap().len());
    assert_eq!(first_byte(&folder), 3);
    assert_eq!(folder.file("disk0.qcow2").unwrap().metadata().unwrap().len(), 0);
    assert!(folder.bases().unwrap().is_empty());
    assert!(folder.memory().unwrap().write_at(&[1], 0).is_err());
    assert_eq!(names(dir.path()), ["snap"]);
    assert_eq!(names(&path), ["disk0.qcow2", "memory", "state"]);
    // What was in the guest's memory is nobody else's business.
    for (path, mode) in [(path.clone(), 0o700), (path.join(STATE), 0o600), (path.join(MEMORY), 0o600)] {
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
    }
}

#[test]
fn a_snapshot_is_replaced_and_the_open_one_stays() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    save(&path, 1, &manifest(1)).unwrap();
    let old = Folder::open(&path).unwrap();
    assert!(old.working_set().unwrap().is_none());
    fs::write(path.join(WORKING_SET), b"pages").unwrap();
    assert_eq!(old.working_set().unwrap().unwrap().metadata().unwrap().len(), 5);
    save(&path, 2, &manifest(2)).unwrap();
    let new = Folder::open(&path).unwrap();
    assert_eq!((first_byte(&old), first_byte(&new)), (1, 2));
    assert_ne!(old.manifest().id, new.manifest().id);
    assert!(new.working_set().unwrap().is_none());
    assert_eq!(names(dir.path()), ["snap"]);
    // By a link, the directory that it leads to is replaced.
    symlink(&path, dir.path().join("link")).unwrap();
    save(&dir.path().join("link"), 3, &manifest(3)).unwrap();
    assert_eq!(first_byte(&Folder::open(&path).unwrap()), 3);
    assert_eq!(names(dir.path()), ["link", "snap"]);
    // A damaged one too, which is one still.
    fs::write(path.join(STATE), &state(&manifest(3))[..20]).unwrap();
    save(&path, 4, &manifest(4)).unwrap();
    assert_eq!(first_byte(&Folder::open(&path).unwrap()), 4);
}

/// Whoever opens a snapshot while it is replaced gets all of one.
#[test]
fn opening_and_replacing_do_not_meet() {
    // In memory they are replaced often.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempdir()).unwrap();
    let path = dir.path().join("snap");
    let saved = [manifest(0), manifest(1)].map(|manifest| (manifest.id, state(&manifest)));
    let save = |number: u8| {
        let draft = Draft::create(&path).unwrap();
        fill(&draft.file(MEMORY).unwrap(), number);
        draft.commit(&saved[usize::from(number)].1).unwrap();
    };
    save(0);
    let mut opened = [0; 2];
    thread::scope(|scope| {
        let saver = scope.spawn(|| (1..=600_u16).for_each(|round| save(u8::from(round % 2 == 1))));
        while !saver.is_finished() {
            let folder = Folder::open(&path).unwrap();
            let number = usize::from(first_byte(&folder));
            assert_eq!(folder.manifest().id, saved[number].0);
            opened[number] += 1;
        }
    });
    assert!(opened.iter().all(|times| *times > 0), "{opened:?}");
    assert_eq!(names(dir.path()), ["snap"]);
}

#[test]
fn what_is_no_snapshot_is_neither_replaced_nor_removed() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let refused = |name: &str| {
        let before = names(dir.path());
        let (made, removed) = (Draft::create(&at(name)).unwrap_err(), remove(&at(name)).unwrap_err());
        assert_eq!(made.to_string(), removed.to_string());
        assert_eq!(names(dir.path()), before);
        made
    };
    fs::write(at("file"), b"mine").unwrap();
    assert!(matches!(refused("file"), Error::NotADirectory(_)));
    fs::create_dir(at("empty")).unwrap();
    assert!(matches!(refused("empty"), Error::NotASnapshot(_)));
    fs::create_dir(at("other")).unwrap();
    fs::write(at("other/state"), b"of affairs").unwrap();
    assert!(matches!(refused("other"), Error::NotASnapshot(_)));
    symlink("nowhere", at("dangling")).unwrap();
    assert!(matches!(refused("dangling"), Error::NotADirectory(_)));
    save(&at("snap"), 1, &manifest(1)).unwrap();
    fs::write(at("snap/notes"), b"mine").unwrap();
    let text = refused("snap").to_string();
    let path = at("snap");
    let expected = format!("{} stays as it is: it holds 'notes', which is no part of", path.display());
    assert!(text.starts_with(&expected), "{text}");
    // Nor one that comes to be there while the new one is made.
    let draft = Draft::create(&at("late")).unwrap();
    fill(&draft.file(MEMORY).unwrap(), 1);
    fs::create_dir(at("late")).unwrap();
    fs::write(at("late/mine"), b"mine").unwrap();
    assert!(matches!(draft.commit(&state(&manifest(1))), Err(Error::NotASnapshot(_))));
    assert_eq!(names(&at("late")), ["mine"]);
    assert!(matches!(remove(&at("nothing")), Err(Error::NoSnapshot(_))));
    assert!(matches!(Draft::create(Path::new("")), Err(Error::Target(_))));
    assert!(matches!(Draft::create(Path::new("/")), Err(Error::NotASnapshot(_))));
}

#[test]
fn a_removed_snapshot_is_gone() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    let copy = disk_copy();
    save(&path, 1, &Manifest { disks: vec![copy], ..manifest(1) }).unwrap();
    fs::write(path.join(WORKING_SET), b"pages").unwrap();
    fs::write(path.join("working-set.17.new"), b"pag").unwrap();
    remove(&path).unwrap();
    assert!(names(dir.path()).is_empty());
    assert!(matches!(open_error(&path), Error::NoSnapshot(_)));
}

#[test]
fn a_draft_that_is_dropped_or_refused_leaves_nothing() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    let draft = Draft::create(&path).unwrap();
    draft.file(MEMORY).unwrap();
    assert!(draft.file(MEMORY).is_err());
    assert_eq!(names(dir.path()).len(), 1);
    drop(draft);
    assert!(names(dir.path()).is_empty());

    let good = state(&manifest(1));
    let commit = |memory: Option<u64>, foreign: Option<&str>, state: &[u8]| {
        let draft = Draft::create(&path).unwrap();
        if let Some(len) = memory {
            draft.file(MEMORY).unwrap().set_len(len).unwrap();
        }
        if let Some(name) = foreign {
            draft.file(name).unwrap();
        }
        let error = draft.commit(state).unwrap_err();
        assert!(names(dir.path()).is_empty());
        error
    };
    assert!(matches!(commit(None, None, &good), Error::Missing { .. }));
    assert!(matches!(commit(Some(SIZE - 4096), None, &good), Error::Size { found: 0xff_f000, .. }));
    assert!(matches!(commit(Some(SIZE), Some("else"), &good), Error::Foreign { .. }));
    assert!(matches!(commit(Some(SIZE), None, &good[..100]), Error::State { .. }));
    assert!(matches!(commit(Some(SIZE), None, &format::encode(&[]).unwrap()), Error::Manifest { .. }));
}

#[test]
fn drafts_of_the_dead_are_removed_and_no_others() {
    let dir = tempdir().unwrap();
    let living = Draft::create(&dir.path().join("living")).unwrap();
    let id = "0123456789abcdef0123456789abcdef";
    let dead = dir.path().join(format!(".bantam-draft-{}-{id}", std::process::id()));
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join(MEMORY), b"half").unwrap();
    let others = [format!(".bantam-draft-x-{id}"), ".bantam-draft-1-12".into(), "bantam-draft-1".into()];
    for name in &others {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join(format!(".bantam-draft-1-{id}")), b"a file").unwrap();
    sweep(dir.path()).unwrap();
    assert!(!dead.exists());
    assert!(living.path().exists());
    assert_eq!(names(dir.path()).len(), others.len() + 2);
    // As the next save does.
    fs::create_dir(&dead).unwrap();
    save(&dir.path().join("snap"), 1, &manifest(1)).unwrap();
    assert!(!dead.exists());
    assert!(living.path().exists());
}

#[test]
fn what_is_missing_or_something_else_is_named() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("snap");
    let copy = disk_copy();
    let saved = Manifest { disks: vec![copy], ..manifest(1) };
    let fresh = || {
        let _ = fs::remove_dir_all(&path);
        save(&path, 1, &saved).unwrap();
    };
    for name in ["memory", "disk0.qcow2"] {
        fresh();
        fs::remove_file(path.join(name)).unwrap();
        let text = format!("{} is missing from the snapshot", path.join(name).display());
        assert_eq!(open_error(&path).to_string(), text);
        // A link leads out of the directory, and a pipe would be waited for.
        symlink("/etc/passwd", path.join(name)).unwrap();
        assert!(matches!(open_error(&path), Error::NotAFile(_)));
        fs::remove_file(path.join(name)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path.join(name), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        assert!(matches!(open_error(&path), Error::NotAFile(_)));
        fs::remove_file(path.join(name)).unwrap();
        fs::create_dir(path.join(name)).unwrap();
        assert!(matches!(open_error(&path), Error::NotAFile(_)));
    }
    fresh();
    fs::remove_file(path.join(STATE)).unwrap();
    assert!(matches!(open_error(&path), Error::NotASnapshot(_)));
    fs::write(path.join(STATE), b"something else").unwrap();
    let text = format!("{} cannot be used: not a snapshot's state", path.join(STATE).display());
    assert!(told(&open_error(&path)).starts_with(&text));
    // Its length alone is enough.
    File::create(path.join(STATE)).unwrap().set_len(1 << 40).unwrap();
    let too_large = format::Error::TooLarge(1 << 40);
    assert!(matches!(open_error(&path), Error::State { source, .. } if source == too_large));
    fresh();
    File::options().write(true).open(path.join(MEMORY)).unwrap().set_len(SIZE + 1).unwrap();
    assert!(matches!(open_error(&path), Error::Size { .. }));
    assert!(matches!(open_error(&path.join(STATE)), Error::NotADirectory(_)));
    assert!(matches!(open_error(&dir.path().join("none")), Error::NoSnapshot(_)));
}

/// A directory with a chain of snapshots: `0` is whole, and each of the others a diff to the one before.
fn chained(count: usize) -> TempDir {
    let dir = tempdir().unwrap();
    let mut last = manifest(0);
    save(&dir.path().join("0"), 0, &last).unwrap();
    for number in 1..count {
        last = diff(1, &Path::new("..").join((number - 1).to_string()), last.id);
        save(&dir.path().join(number.to_string()), 1, &last).unwrap();
    }
    dir
}

#[test]
fn bases_are_found_where_the_chain_is() {
    let dir = chained(4);
    let moved = dir.path().join("moved");
    fs::create_dir(&moved).unwrap();
    for number in 0..4 {
        fs::rename(dir.path().join(number.to_string()), moved.join(number.to_string())).unwrap();
    }
    let folder = Folder::open(&moved.join("3")).unwrap();
    let bases = folder.bases().unwrap();
    assert_eq!(bases.iter().map(first_byte).collect::<Vec<_>>(), [1, 1, 0]);
    assert!(bases[2].manifest().base.is_none());
    // How a path to a base is written.
    let draft = Draft::create(&moved.join("new")).unwrap();
    assert_eq!(draft.path_to(&moved.join("3")).unwrap(), Path::new("../3"));
    save(&dir.path().join("far"), 1, &manifest(1)).unwrap();
    let far = fs::canonicalize(dir.path().join("far")).unwrap();
    assert_eq!(draft.path_to(&moved.join("../far")).unwrap(), far);
    assert!(matches!(draft.path_to(&moved.join("none")), Err(Error::Io { .. })));
    let draft = Draft::create(&moved.join("3")).unwrap();
    assert!(matches!(draft.path_to(&moved.join("3")), Err(Error::ReplacesBase(_))));
}

#[test]
fn chains_that_do_not_hold_are_refused() {
    let dir = chained(3);
    let at = |name: &str| dir.path().join(name);
    let error = || Folder::open(&at("2")).unwrap().bases().unwrap_err();
    // What is needed is not replaced by what needs it.
    let above = diff(1, Path::new("../2"), Folder::open(&at("2")).unwrap().manifest().id);
    assert!(matches!(save(&at("0"), 1, &above), Err(Error::ReplacesBase(_))));
    Folder::open(&at("2")).unwrap().bases().unwrap();

    fs::rename(at("0"), at("elsewhere")).unwrap();
    let (snapshot, base) = (at("2/../1"), at("2/../1/../0"));
    let expected = format!(
        "{} holds only what changed since {base}, which cannot be opened; put that snapshot back there: \
         there is no snapshot {base}",
        snapshot.display(),
        base = base.display(),
    );
    assert_eq!(told(&error()), expected);
    save(&at("0"), 5, &manifest(5)).unwrap();
    assert!(matches!(error(), Error::OtherBase { .. }));
    remove(&at("0")).unwrap();
    // A base of the right name and of another size.
    let id = Folder::open(&at("elsewhere")).unwrap().manifest().id;
    let larger = {
        let mut manifest = manifest(0);
        manifest.config.memory = crate::config::Size::new(2 * SIZE);
        Manifest { id, image: Image { size: 2 * SIZE, chunks: vec![0; 32], runs: None }, ..manifest }
    };
    let draft = Draft::create(&at("0")).unwrap();
    draft.file(MEMORY).unwrap().set_len(2 * SIZE).unwrap();
    draft.commit(&state(&larger)).unwrap();
    assert!(matches!(error(), Error::BaseSize { .. }));
    remove(&at("0")).unwrap();
    // A circle: the last one is the first one's base.
    let last = Folder::open(&at("2")).unwrap().manifest().id;
    fs::rename(at("elsewhere"), at("0")).unwrap();
    fs::write(at("0/state"), state(&Manifest { id, ..diff(0, Path::new("../2"), last) })).unwrap();
    assert!(matches!(error(), Error::Circle { .. }));
    fs::write(at("0/state"), state(&Manifest { id, ..diff(0, Path::new("."), id) })).unwrap();
    assert!(matches!(error(), Error::Circle { .. }));
}

#[test]
fn chains_have_an_end() {
    let dir = chained(MAX_CHAIN);
    let last = Folder::open(&dir.path().join((MAX_CHAIN - 1).to_string())).unwrap();
    assert_eq!(last.bases().unwrap().len(), MAX_CHAIN - 1);
    let more = diff(1, last.path(), last.manifest().id);
    assert!(matches!(save(&dir.path().join("more"), 1, &more), Err(Error::Chain { .. })));
}

#[test]
fn refusals_of_the_host_name_the_path() {
    let dir = tempdir().unwrap();
    let missing = dir.path().join("missing/snap");
    let text = told(&Draft::create(&missing).unwrap_err());
    assert!(text.contains("missing: No such file or directory"), "{text}");
    fs::write(dir.path().join("file"), b"").unwrap();
    let text = told(&Draft::create(&dir.path().join("file/snap")).unwrap_err());
    assert!(text.contains("file/snap: Not a directory"), "{text}");
    // Whoever the tests run as, nothing can be made there.
    let text = told(&Draft::create(Path::new("/proc/self/snap")).unwrap_err());
    assert!(text.starts_with("cannot make /proc/"), "{text}");
    let text = told(&io("write", Path::new("/full/memory"), Errno::NOSPC.into()));
    assert!(
        text.starts_with("no room to write /full/memory: free some, or save elsewhere: No space"),
        "{text}"
    );
}
