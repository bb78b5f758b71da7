#![no_main]
//! A state file: as the bytes are; with checksums that fit them; and one whose sections about the snapshot
//! itself have the bytes for payloads.

use bantam::snapshot::format::{decode, encode, mend};
use bantam::snapshot::manifest::{Manifest, OWNER};
use bantam::state::{Section, State};
use libfuzzer_sys::fuzz_target;

const KINDS: [&str; 5] = ["about", "config", "image", "host", "disks"];

fuzz_target!(|data: &[u8]| {
    take(data);
    let mut mended = data.to_vec();
    mend(&mut mended);
    take(&mended);
    describe(data);
});

/// What can be read can be written, and is the same then.
fn take(file: &[u8]) {
    let Ok(sections) = decode(file) else { return };
    let again = encode(&sections).expect("what was read can be written");
    assert_eq!(decode(&again).as_ref(), Ok(&sections));
    assert_eq!(again.len(), file.len());
}

/// The bytes in pieces, each with its length in front, are the payloads.
fn describe(mut data: &[u8]) {
    let mut state = State::default();
    for kind in KINDS {
        let len = data.split_off_first().map_or(0, |len| usize::from(*len));
        let payload = data.split_off(..len.min(data.len())).unwrap_or_default();
        state.push(Section { id: OWNER.into(), kind: kind.into(), version: 1, payload: payload.into() });
    }
    let Ok(manifest) = Manifest::take(&mut state) else { return };
    let mut again = State::default();
    manifest.put(&mut again).expect("what was taken can be put");
    assert_eq!(Manifest::take(&mut again).expect("what was put can be taken"), manifest);
}
