//! File systems with no room, and such as take nothing, in a mount namespace of their own.

use std::process::Command;

use super::*;
use crate::state::Section;
use crate::testing::skip;

/// Where the process in the namespace saves, if it is that process.
const PLACE: &str = "BANTAM_TEST_SAVE_IN_LITTLE_ROOM";
const MOUNT: &str = r#"mount -t tmpfs -o size=256k none "$0" || exit 99; exec "$@""#;

/// The process in the namespace: a machine whose state is larger than the file system.
#[test]
fn save_in_little_room() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let path = Path::new(&place).join("snap");
    save(&path, 1, &manifest(1)).unwrap();
    let draft = Draft::create(&path).unwrap();
    draft.file(MEMORY).unwrap().set_len(SIZE).unwrap();
    let mut sections = format::decode(&state(&manifest(2))).unwrap();
    sections.push(Section { id: "big".into(), kind: "part".into(), version: 1, payload: vec![1; 1 << 20] });
    let file = path.join(STATE);
    let error = draft.commit(&format::encode(&sections).unwrap()).unwrap_err();
    let expected = format!("no room to write {}: free some, or save elsewhere: No space", file.display());
    assert!(told(&error).starts_with(&expected), "{}", told(&error));
    assert_eq!(first_byte(&Folder::open(&path).unwrap()), 1);
    assert_eq!(names(path.parent().unwrap()), ["snap"]);

    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&place).status().unwrap();
    assert!(remounted.success());
    let text = told(&Draft::create(&path).unwrap_err());
    assert!(text.starts_with("cannot make ") && text.contains("Read-only file system"), "{text}");
    Folder::open(&path).unwrap();
    assert!(told(&remove(&path).unwrap_err()).contains("Read-only file system"));
}

#[test]
fn without_room_nothing_changes() {
    let dir = tempdir().unwrap();
    let unshared = Command::new("unshare")
        .args(["-rm", "sh", "-c", MOUNT])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "snapshot::folder::tests::full::save_in_little_room"])
        .env(PLACE, dir.path())
        .output();
    match unshared {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"));
        }
        // A failed test ends with 101.
        Ok(output) if output.status.code() == Some(101) => {
            panic!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        }
        other => skip(&format!("no file system of its own: {other:?}")),
    }
}
