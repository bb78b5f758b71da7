use super::*;

saved! {
    "lamp", version 3, fingerprint 711862012, upgraded by Lamp::from_earlier;
    /// A part's state.
    #[derive(Eq)]
    struct Lamp {
        on: bool,
        name: String,
    }
}

impl Lamp {
    /// Version 2 had no name.
    fn from_earlier(version: u16, payload: &[u8]) -> Option<Self> {
        let on = postcard::from_bytes(payload).ok().filter(|_| version == 2)?;
        Some(Self { on, name: "old".into() })
    }
}

fn lamp() -> Lamp {
    Lamp { on: true, name: "hall".into() }
}

#[test]
fn what_is_put_in_comes_out_once() {
    let mut state = State::default();
    state.put("a", &lamp()).unwrap();
    state.put("b", &Lamp { on: false, name: String::new() }).unwrap();
    assert_eq!(state.get::<Lamp>("a").unwrap(), lamp());
    assert_eq!(state.take::<Lamp>("a").unwrap(), lamp());
    assert_eq!(state.take::<Lamp>("a"), Err(Error::Missing { id: "a".into(), kind: "lamp" }));
    assert_eq!(state.finish(), Err(Error::Leftover { id: "b".into(), kind: "lamp".into() }));
    state.take::<Lamp>("b").unwrap();
    state.finish().unwrap();
}

#[test]
fn a_section_has_to_be_what_it_says() {
    let whole = Section::of("a", &lamp()).unwrap();
    let damaged = Err(Error::Damaged { id: "a".into(), kind: "lamp".into() });
    for len in 0..whole.payload.len() {
        let cut = Section { payload: whole.payload[..len].to_vec(), ..whole.clone() };
        assert_eq!(cut.open::<Lamp>(), damaged, "{len} bytes");
    }
    let long = Section { payload: [&whole.payload[..], &[0]].concat(), ..whole.clone() };
    assert_eq!(long.open::<Lamp>(), damaged);
    let other = Section { kind: "door".into(), ..whole.clone() };
    assert_eq!(other.open::<Lamp>(), damaged);
    let older = Section { version: 2, payload: vec![1], ..whole.clone() };
    assert_eq!(older.open::<Lamp>().unwrap(), Lamp { on: true, name: "old".into() });
    let too_old = Section { version: 1, ..older };
    assert!(matches!(too_old.open::<Lamp>(), Err(Error::Version { found: 1, known: 3, .. })));
    let newer = Section { version: 4, ..whole };
    assert_eq!(
        newer.open::<Lamp>(),
        Err(Error::Version { id: "a".into(), kind: "lamp", found: 4, known: 3 })
    );
}

#[test]
fn the_fingerprint_is_of_the_fields_and_not_of_their_layout() {
    assert_eq!(fingerprint("a: u8,b: Vec<u8>"), fingerprint("a : u8, b : Vec < u8 >"));
    assert_ne!(fingerprint("a: u8"), fingerprint("a: u16"));
}
