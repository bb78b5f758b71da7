//! A process that saves is killed at any instant.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::snapshot::manifest::Id;

/// Where the process saves, if it is that process.
const TARGET: &str = "BANTAM_TEST_SAVE_TO";
const KILLS: u32 = 50;
/// After so many kills, the next process begins where there is nothing.
const KILLS_AT_ONE_PLACE: u32 = 5;

/// The process that is killed: saves one snapshot after the other, and says so.
#[test]
fn save_without_end() {
    let Some(target) = std::env::var_os(TARGET) else { return };
    for number in (1..=u8::MAX).cycle() {
        save(Path::new(&target), number, &manifest(number)).unwrap();
        fs::write(Path::new(&target).with_extension("saved"), [number]).unwrap();
    }
}

struct Saver(Child);

impl Saver {
    fn start(target: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "snapshot::folder::tests::killed::save_without_end"]);
        command.env(TARGET, target).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn what_is_there_is_the_old_one_or_the_new_one() {
    let dir = tempdir().unwrap();
    let (mut replaced, mut absent, mut drafts) = (0, 0, 0);
    for kill in 0..KILLS {
        let place = dir.path().join((kill / KILLS_AT_ONE_PLACE).to_string());
        let _ = fs::create_dir(&place);
        let target = place.join("snap");
        let before = Folder::open(&target).ok().map(|folder| folder.manifest().id);
        let saved = target.with_extension("saved");
        let _ = fs::remove_file(&saved);
        let mut saver = Saver::start(&target);
        // Any instant of a save that is not the first one, or of the first one.
        let random = u64::from(Id::random().unwrap().0[0]);
        while kill % 2 == 0 && !saved.exists() {
            assert!(saver.0.try_wait().unwrap().is_none(), "the process has ended");
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_micros(random * 200));
        drop(saver);

        drafts += names(&place).iter().filter(|name| name.starts_with(".bantam-draft-")).count();
        match Folder::open(&target) {
            Ok(folder) => {
                let number = first_byte(&folder);
                assert_eq!(
                    folder.manifest().image,
                    manifest(number).image,
                    "state and memory are of one save"
                );
                replaced += u32::from(before.is_some_and(|before| before != folder.manifest().id));
            }
            Err(Error::NoSnapshot(_)) if before.is_none() && !saved.exists() => absent += 1,
            Err(error) => panic!("kill {kill}: {}", told(&error)),
        }
        sweep(&place).unwrap();
        assert!(
            names(&place).iter().all(|name| name == "snap" || name == "snap.saved"),
            "{:?}",
            names(&place)
        );
    }
    println!("{replaced} replaced, {absent} absent, {drafts} drafts left over");
    assert!(
        replaced >= KILLS / 2 - KILLS / KILLS_AT_ONE_PLACE && drafts > 0,
        "{replaced} replaced, {drafts} drafts left over"
    );
}
