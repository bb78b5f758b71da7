use proptest::prelude::*;

use super::*;

fn section(id: &str, kind: &str, version: u16, payload: &[u8]) -> Section {
    Section { id: id.into(), kind: kind.into(), version, payload: payload.into() }
}

fn some() -> Vec<Section> {
    vec![
        section("vcpu0", "registers", 3, b"eighteen registers"),
        section("vcpu1", "registers", 3, b""),
        section("disk0", "block", 1, &[0; 40]),
        section("disk0", "transport", 0xffff, &[0xff]),
        section("", "", 0, b"nameless"),
    ]
}

/// A header that says what the others say, with a checksum that fits.
fn change(file: &mut [u8], change: impl FnOnce(&mut Header)) {
    let (header, _) = Header::mut_from_prefix(file).unwrap();
    change(header);
    header.crc = header.checksum().into();
}

/// A file whose table and payloads are given, with a header that fits them.
fn file(sections: u32, table: &[u8], payloads: &[u8]) -> Vec<u8> {
    let mut file = [&encode(&[]).unwrap(), table, payloads].concat();
    let len = file.len() as u64;
    change(&mut file, |header| {
        header.sections = sections.into();
        header.table_len = u32::try_from(table.len()).unwrap().into();
        header.table_crc = crc32fast::hash(table).into();
        header.len = len.into();
    });
    file
}

/// What an entry of the table says of a payload.
fn row(id: &[u8], kind: &[u8], payload_len: u32, payload: &[u8]) -> Vec<u8> {
    let len = |name: &[u8]| u16::try_from(name.len()).unwrap().into();
    let entry = Entry {
        version: 1.into(),
        id_len: len(id),
        kind_len: len(kind),
        payload_len: payload_len.into(),
        payload_crc: crc32fast::hash(payload).into(),
    };
    [entry.as_bytes(), id, kind].concat()
}

#[test]
fn what_is_written_is_read() {
    for sections in [vec![], some(), vec![section("a", "b", 1, &vec![7; 1 << 20])]] {
        let file = encode(&sections).unwrap();
        assert_eq!(decode(&file).unwrap(), sections);
        assert_eq!(version(&file), Ok(VERSION));
    }
}

/// The layout that the documentation gives; this very file has to be readable for ever.
#[test]
fn version_1_is_these_bytes() {
    let golden = [
        b"\x89Bantam\n".as_slice(),
        &[1, 0],                         // version
        &[0, 0, 1, 0, 0, 0],             // readable from 0.1.0 on
        &[0, 0, 0, 0],                   // flags
        &[2, 0, 0, 0],                   // sections
        &[41, 0, 0, 0],                  // length of the table
        &0x03c7_0e10_u32.to_le_bytes(),  // checksum of the table
        &[88, 0, 0, 0, 0, 0, 0, 0],      // length of the file
        &0x85ba_219d_u32.to_le_bytes(),  // checksum of the header
        &[5, 0, 6, 0, 4, 0, 3, 0, 0, 0], // version, lengths of id, kind and payload
        &0x3524_41c2_u32.to_le_bytes(),  // CRC-32 of "abc"
        b"seriallamp",
        &[255, 255, 1, 0, 2, 0, 0, 0, 0, 0], // version, lengths of id, kind and payload
        &[0, 0, 0, 0],                       // CRC-32 of nothing
        b"rtc",
        b"abc",
    ]
    .concat();
    let sections = [section("serial", "lamp", 5, b"abc"), section("r", "tc", 0xffff, b"")];
    assert_eq!(encode(&sections).unwrap(), golden);
    assert_eq!(decode(&golden).unwrap(), sections);
}

#[test]
fn every_truncation_is_found() {
    let whole = encode(&some()).unwrap();
    for len in 0..whole.len() {
        let expected = if len < Header::LEN { Header::LEN } else { whole.len() } as u64;
        assert_eq!(decode(&whole[..len]), Err(Error::Truncated { len: len as u64, expected }), "{len} bytes");
    }
    let long = [&whole[..], &[0]].concat();
    let len = whole.len() as u64;
    assert_eq!(decode(&long), Err(Error::Excess { len: len + 1, expected: len }));
}

#[test]
fn every_changed_bit_is_found_where_it_is() {
    let sections = some();
    let whole = encode(&sections).unwrap();
    let table: usize = sections.iter().map(|section| 14 + section.id.len() + section.kind.len()).sum();
    let mut starts = vec![Header::LEN + table];
    for section in &sections {
        starts.push(starts.last().unwrap() + section.payload.len());
    }
    for bit in 0..whole.len() * 8 {
        let mut file = whole.clone();
        file[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            0..8 => Error::NotASnapshot,
            8..44 => Error::Checksum(Part::Header),
            at if at < starts[0] => Error::Checksum(Part::Table),
            at => {
                let index = starts.iter().rposition(|start| *start <= at).unwrap();
                let Section { id, kind, .. } = sections[index].clone();
                Error::Checksum(Part::Section { id, kind })
            }
        };
        assert_eq!(decode(&file), Err(expected), "bit {bit}");
    }
}

#[test]
fn files_from_the_future_say_what_reads_them() {
    let mut file = encode(&some()).unwrap();
    change(&mut file, |header| {
        header.version = 7.into();
        header.needs = [2, 10, 3].map(U16::new);
        // Nothing after the header is looked at.
        header.flags = 1.into();
        header.len = u64::MAX.into();
    });
    let needs = Release { major: 2, minor: 10, patch: 3 };
    let error = decode(&file).unwrap_err();
    assert_eq!(error, Error::Newer { found: 7, known: VERSION, needs });
    let text = "the snapshot has format 7, and this program knows 1 and older: use Bantam 2.10.3 or newer";
    assert_eq!(error.to_string(), text);

    let mut file = encode(&some()).unwrap();
    change(&mut file, |header| header.flags = 0x8000_0001.into());
    let needs = NEEDS;
    assert_eq!(decode(&file), Err(Error::Flags { flags: 0x8000_0001, needs }));
    let mut file = encode(&some()).unwrap();
    change(&mut file, |header| header.version = 0.into());
    assert!(matches!(decode(&file), Err(Error::Impossible(_))));
}

#[test]
fn this_release_reads_what_it_writes() {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(|number| number.parse().unwrap());
    let mut number = || numbers.next().unwrap();
    let this = Release { major: number(), minor: number(), patch: number() };
    assert!(NEEDS <= this, "{this} writes what only {NEEDS} reads");
}

#[test]
fn sections_are_there_once() {
    let same = [section("a", "b", 1, b"x"), section("a", "c", 1, b""), section("a", "b", 2, b"y")];
    let doubled = Error::Doubled { id: "a".into(), kind: "b".into() };
    assert_eq!(encode(&same), Err(doubled.clone()));
    let table = [row(b"a", b"b", 1, b"x"), row(b"a", b"b", 1, b"y")].concat();
    assert_eq!(decode(&file(2, &table, b"xy")), Err(doubled));
}

#[test]
fn files_that_contradict_themselves_are_refused() {
    let one = row(b"a", b"b", 1, b"x");
    assert_eq!(decode(&file(1, &one, b"x")), Ok(vec![section("a", "b", 1, b"x")]));
    let cut = &one[..one.len() - 1];
    for (sections, table, payloads) in [
        (0, &one[..], &b"x"[..]),
        (2, &one, b"x"),
        (1, cut, b"x"),
        (1, &one[..13], b"x"),
        (1, &one, b""),
        (1, &one, b"xx"),
        (1, &row(b"a", b"b", u32::MAX, b"x"), b"x"),
        (1, &row(b"\xff", b"b", 1, b"x"), b"x"),
        (1, &row(b"a", b"\xc3", 1, b"x"), b"x"),
    ] {
        let error = decode(&file(sections, table, payloads)).unwrap_err();
        assert!(matches!(error, Error::Impossible(_)), "{sections} {table:?} {payloads:?}: {error}");
    }
    let mut long = file(1, &one, b"x");
    change(&mut long, |header| header.table_len = u32::MAX.into());
    assert!(matches!(decode(&long), Err(Error::Impossible(_))));
    // Absurd numbers are refused for themselves, whatever the file has.
    assert_eq!(decode(&file(u32::MAX, &one, b"x")), Err(Error::TooMany(u32::MAX)));
    let mut long = file(1, &one, b"x");
    change(&mut long, |header| header.len = u64::MAX.into());
    assert_eq!(decode(&long), Err(Error::TooLarge(u64::MAX)));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let len = usize::try_from(MAX_LEN).unwrap() - Header::LEN - 14 - 2;
    let most = encode(&[section("a", "b", 1, &vec![0; len])]).unwrap();
    assert_eq!(most.len() as u64, MAX_LEN);
    let more = encode(&[section("a", "b", 1, &vec![0; len + 1])]);
    assert_eq!(more, Err(Error::TooLarge(MAX_LEN + 1)));
    let long = "n".repeat(0x1_0000);
    assert_eq!(encode(&[section(&long, "b", 1, b"")]), Err(Error::Name(long.clone())));
    assert_eq!(encode(&[section("a", &long, 1, b"")]), Err(Error::Name(long)));
    let many: Vec<_> = (0..=MAX_SECTIONS).map(|number| section(&number.to_string(), "", 1, b"")).collect();
    assert_eq!(encode(&many), Err(Error::TooMany(MAX_SECTIONS + 1)));
    assert_eq!(decode(&encode(&many[1..]).unwrap()).unwrap(), many[1..]);
}

proptest! {
    #[test]
    fn sections_come_back_as_they_were(
        sections in prop::collection::vec(
            ("[a-z0-9é_.-]{0,12}", "[a-z]{0,9}", any::<u16>(), prop::collection::vec(any::<u8>(), 0..300)),
            0..12,
        )
    ) {
        let sections: Vec<_> = sections
            .into_iter()
            .enumerate()
            .map(|(index, (id, kind, version, payload))| section(&format!("{index}{id}"), &kind, version, &payload))
            .collect();
        prop_assert_eq!(decode(&encode(&sections).unwrap()).unwrap(), sections);
    }

    /// Lengths, counts and bytes that are anything, under checksums that fit: an error, or sections that
    /// are no more than the file.
    #[test]
    fn lies_are_no_sections(
        changes in prop::collection::vec((0_usize..200, any::<u8>()), 1..6),
        sections in prop_oneof![0_u32..8, any::<u32>()],
        cut in 0_usize..40,
    ) {
        let whole = encode(&some()).unwrap();
        let (header, rest) = Header::ref_from_prefix(&whole).unwrap();
        let (table, payloads) = rest.split_at(usize::try_from(header.table_len.get()).unwrap());
        let mut table = table.to_vec();
        for (at, byte) in changes {
            let len = table.len();
            table[at % len] = byte;
        }
        let file = file(sections, &table, &payloads[..payloads.len().saturating_sub(cut)]);
        if let Ok(sections) = decode(&file) {
            let len: usize = sections.iter().map(|s| s.payload.len() + s.id.len() + s.kind.len() + 14).sum();
            prop_assert_eq!(len + Header::LEN, file.len());
        }
    }

    #[test]
    fn any_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&bytes).is_err());
    }

    /// The same under checksums that fit, with few and short sections as likely as many and long ones.
    #[test]
    fn what_is_read_could_have_been_written(
        numbers in prop::collection::vec(prop_oneof![Just(0_u16), 0_u16..6, any::<u16>()], 22..80),
        table_len in 0_u32..60,
        sections in 0_u32..4,
    ) {
        let mut file: Vec<u8> = numbers.into_iter().flat_map(u16::to_le_bytes).collect();
        change(&mut file, |header| {
            header.sections = sections.into();
            header.table_len = table_len.into();
        });
        super::mend(&mut file);
        let unreached = matches!(decode(&file), Err(Error::Checksum(_) | Error::Truncated { .. }));
        prop_assert!(!unreached);
        if let Ok(sections) = decode(&file) {
            prop_assert_eq!(decode(&encode(&sections).unwrap()).unwrap(), sections);
        }
    }
}
