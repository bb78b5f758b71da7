use super::*;
use crate::config::Size;
use crate::snapshot::testing::{host, manifest};
use crate::state::{Saved, Section};

fn base() -> Base {
    Base { path: "../base".into(), id: Id([7; 16]) }
}

fn run(first: u64, count: u64, zero: bool) -> Run {
    Run { first, count, zero }
}

fn copy(device: &str, file: &str) -> DiskCopy {
    DiskCopy { device: device.into(), file: file.into(), len: 3, crc: 0x3524_41c2 }
}

fn full() -> Manifest {
    let manifest = manifest(1);
    let runs = Some(vec![run(0, 1, false), run(1, 2, true), run(4000, 96, false)]);
    Manifest {
        base: Some(base()),
        image: Image { runs, ..manifest.image },
        disks: vec![copy("disk0", "disk0.qcow2"), copy("data", "data.qcow2")],
        ..manifest
    }
}

fn there_and_back(manifest: &Manifest) -> Result<Manifest, Error> {
    let mut state = State::default();
    manifest.put(&mut state)?;
    let back = Manifest::take(&mut state)?;
    state.finish()?;
    Ok(back)
}

#[test]
fn it_comes_back_as_it_was() {
    for manifest in [manifest(0), full()] {
        assert_eq!(there_and_back(&manifest).unwrap(), manifest);
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let good = full();
    let pages = good.image.size / PAGE_SIZE;
    let with_runs = |runs: &[Run]| Manifest {
        image: Image { runs: Some(runs.to_vec()), ..good.image.clone() },
        ..good.clone()
    };
    let with_disks = |disks: &[DiskCopy]| Manifest { disks: disks.to_vec(), ..good.clone() };
    let mut few = good.clone();
    few.image.chunks.pop();
    let larger = MachineConfig { memory: Size::mib(32), ..good.config.clone() };
    let bad = [
        few,
        Manifest { config: larger, ..good.clone() },
        Manifest { base: None, ..good.clone() },
        Manifest { image: Image { runs: None, ..good.image.clone() }, ..good.clone() },
        with_runs(&[run(0, 0, false)]),
        with_runs(&[run(1, 1, false), run(0, 1, false)]),
        with_runs(&[run(0, 2, false), run(1, 1, true)]),
        with_runs(&[run(pages, 1, false)]),
        with_runs(&[run(1, pages, false)]),
        with_runs(&[run(1, u64::MAX, false)]),
        with_runs(&[run(u64::MAX, 1, false)]),
        with_disks(&[copy("a", "a.qcow2"), copy("a", "b.qcow2")]),
        with_disks(&[copy("a", "a.qcow2"), copy("b", "a.qcow2")]),
    ];
    for (index, manifest) in bad.iter().enumerate() {
        let error = there_and_back(manifest).unwrap_err();
        assert!(matches!(error, Error::Impossible(_)), "{index}: {error:?}");
    }
    for name in [
        "working-set.1",
        "",
        ".",
        "..",
        "/",
        "a/b",
        "/a",
        "a/",
        "../a",
        ".a",
        "a\0",
        "state",
        "memory",
        "working-set",
    ] {
        let error = there_and_back(&with_disks(&[copy("a", name)])).unwrap_err();
        assert!(matches!(error, Error::Impossible(_)), "'{name}': {error:?}");
    }
    there_and_back(&with_runs(&[run(0, pages, false)])).unwrap();
    there_and_back(&with_runs(&[])).unwrap();
    let cpus = Manifest { config: MachineConfig { cpus: 0, ..good.config.clone() }, ..good.clone() };
    assert!(matches!(there_and_back(&cpus), Err(Error::Machine(_))));
}

/// What is refused when it is written is refused when it is read, too.
#[test]
fn a_hostile_description_is_refused() {
    let mut good = State::default();
    full().put(&mut good).unwrap();
    let hostile = |section: Section| {
        let sections =
            good.sections().iter().map(|old| if old.kind == section.kind { &section } else { old });
        Manifest::take(&mut sections.cloned().collect()).unwrap_err()
    };
    let image = Image { runs: Some(vec![run(1, u64::MAX, false)]), ..full().image };
    assert!(matches!(hostile(Section::of(OWNER, &image).unwrap()), Error::Impossible(_)));
    let disks = Disks { copies: vec![copy("disk0", "../../etc/passwd")] };
    assert!(matches!(hostile(Section::of(OWNER, &disks).unwrap()), Error::Impossible(_)));
    let config = Config { json: r#"{"memory":"16M","perpetual_motion":true}"#.into() };
    let error = hostile(Section::of(OWNER, &config).unwrap());
    let expected =
        "the configuration in the snapshot is none that this program knows (Bantam 0.1.0 wrote it)";
    assert_eq!(error.to_string(), expected);
    // Runs without end: nothing is set aside for what is not there.
    let mut section = Section::of(OWNER, &Image { size: 0, chunks: Vec::new(), runs: None }).unwrap();
    section.payload = [&[0, 0, 1][..], &[0xff; 9], &[1]].concat();
    assert!(matches!(hostile(section), Error::State(state::Error::Damaged { .. })));
}

#[test]
fn every_section_has_to_be_there() {
    let mut whole = State::default();
    full().put(&mut whole).unwrap();
    assert_eq!(whole.sections().len(), 5);
    for left_out in 0..5 {
        let mut sections = whole.sections().to_vec();
        let gone = sections.remove(left_out).kind;
        match Manifest::take(&mut sections.into_iter().collect()) {
            Err(Error::State(state::Error::Missing { kind, .. })) => assert_eq!(kind, gone),
            other => panic!("without {gone}: {other:?}"),
        }
    }
}

/// A configuration of an earlier release has fewer fields.
#[test]
fn a_configuration_grows_by_defaults() {
    let mut state = State::default();
    let before = manifest(1);
    before.put(&mut state).unwrap();
    state.take::<Config>(OWNER).unwrap();
    state.put(OWNER, &Config { json: r#"{"memory":"16M"}"#.into() }).unwrap();
    assert_eq!(Manifest::take(&mut state).unwrap(), before);
}

#[test]
fn ids_are_read_as_they_are_written() {
    let id = Id([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff]);
    assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0eff");
    assert_eq!(id.to_string().parse(), Ok(id));
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"000102030405060708090a0b0c0d0eff\"");
    assert_eq!(serde_json::from_str::<Id>("\"000102030405060708090A0B0C0D0EFF\"").unwrap(), id);
    assert_eq!(postcard::to_allocvec(&id).unwrap(), id.0);
    for word in
        ["", "0", "00010203040506070809+a0b0c0d0eff", "+00102030405060708090a0b0c0d0eff", &"0".repeat(33)]
    {
        assert_eq!(word.parse::<Id>(), Err(ParseIdError(word.into())));
    }
    assert_ne!(Id::random().unwrap(), Id::random().unwrap());
}

/// The bytes of version 1, which have to be readable for ever; the fields of fields are in no fingerprint.
#[test]
fn version_1_is_these_bytes() {
    fn golden<T: Saved + PartialEq + fmt::Debug>(value: &T, expected: &[u8]) {
        let section = Section::of(OWNER, value).unwrap();
        assert_eq!(section.payload, expected, "{}", T::KIND);
        let golden = Section { version: 1, payload: expected.to_vec(), ..section };
        assert_eq!(golden.open::<T>().unwrap(), *value);
    }
    let about = About { id: Id([9; 16]), created: 300, program: "0.1.0".into(), base: Some(base()) };
    golden(&about, &[&[9; 16][..], &[0xac, 2, 5], b"0.1.0", &[1, 7], b"../base", &[7; 16]].concat());
    golden(&Config { json: "{}".into() }, &[2, b'{', b'}']);
    let runs = Some(vec![run(1, 300, false), run(400, 5, true)]);
    let image = Image { size: 2 << 20, chunks: vec![1, 0xffff_ffff], runs };
    let size = [0x80, 0x80, 0x80, 1];
    let chunks = [2, 1, 0xff, 0xff, 0xff, 0xff, 15];
    golden(&image, &[&size[..], &chunks, &[1, 2, 1, 0xac, 2, 0, 0x90, 3, 5, 1]].concat());
    let rest = [&[0xa0, 0xcb, 0x98, 1, 7][..], b"6.18.44"].concat();
    golden(&host(), &[&[12][..], b"GenuineIntel", &[6, 106], &rest].concat());
    golden(&Disks { copies: vec![copy("d", "f")] }, &[1, 1, b'd', 1, b'f', 3, 0xc2, 0x83, 0x91, 0xa9, 3]);
}
