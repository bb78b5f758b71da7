use super::*;
use crate::irq::fake::FakeLine;
use crate::memory::layout;

fn id(memory: &GuestMemory) -> [u8; LEN] {
    let mut id = [0; LEN];
    memory.read_slice(&mut id, GuestAddress(GENERATION_ID)).unwrap();
    id
}

#[test]
fn each_id_is_new_and_told_of() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let line = Arc::new(FakeLine::default());
    let mut device = VmGenId::new(memory.clone(), line.clone());
    let mut seen = vec![id(&memory)];
    assert_eq!((seen[0], line.rises()), ([0; LEN], 0));
    for rises in 1..=100 {
        device.renew().unwrap();
        let new = id(&memory);
        assert!(!seen.contains(&new), "{new:x?}");
        seen.push(new);
        assert_eq!((line.rises(), line.is_high()), (rises, false));
    }
    // Each bit is now and then another: all of them are random.
    let [ones, zeroes] =
        [0, !0].map(|flip| seen[1..].iter().fold(0, |bits, id| bits | u128::from_le_bytes(*id) ^ flip));
    assert_eq!((ones, zeroes), (!0, !0));
}

#[test]
fn nothing_beside_the_id_is_written() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    VmGenId::new(memory.clone(), Arc::new(FakeLine::default())).renew().unwrap();
    let mut page = [0; 4096];
    memory.read_slice(&mut page, GuestAddress(GENERATION_ID)).unwrap();
    assert_ne!(page[..LEN], [0; LEN]);
    assert!(page[LEN..].iter().all(|byte| *byte == 0));
}

/// Aligned to 8 bytes, and where the memory map says reserved.
#[test]
fn the_id_is_where_the_specification_wants_it() {
    assert_eq!(GENERATION_ID % layout::PAGE_SIZE, 0);
    assert!((layout::CONVENTIONAL_END..layout::HIGH_MEMORY).contains(&GENERATION_ID));
    for taken in [layout::MP_POINTER..0xa_0000, layout::MP_TABLE..layout::MP_TABLE_END] {
        assert!(!taken.contains(&GENERATION_ID));
    }
}

#[test]
fn without_memory_there_is_no_id_and_no_event() {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0xa_0000)]).unwrap();
    let line = Arc::new(FakeLine::default());
    let error = VmGenId::new(memory, line.clone()).renew().unwrap_err();
    assert!(matches!(error, Error::Write(_)), "{error}");
    assert_eq!(line.rises(), 0);
}
