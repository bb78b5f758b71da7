use super::*;

/// Remembers the last write and reads back offset and width.
#[derive(Default)]
struct Probe {
    written: Option<(u64, Vec<u8>)>,
}

impl Registers for Probe {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(u8::try_from(offset).unwrap());
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        self.written = Some((offset, data.to_vec()));
        Effect::Reset
    }
}

fn probe() -> Arc<Mutex<Probe>> {
    Arc::new(Mutex::new(Probe::default()))
}

#[test]
fn an_access_reaches_the_device_with_its_offset() {
    let mut bus = Bus::ports();
    let (low, high) = (probe(), probe());
    bus.insert(0x3f8, 8, high.clone()).unwrap();
    bus.insert(0x60, 5, low.clone()).unwrap();

    let mut data = [0; 2];
    bus.read(0x3fd, &mut data);
    assert_eq!(data, [5, 5]);
    assert_eq!(bus.write(0x64, &[0xfe]), Effect::Reset);
    assert_eq!(lock(&low).written, Some((4, vec![0xfe])));
    assert_eq!(lock(&high).written, None);
}

#[test]
fn an_empty_place_reads_ones_and_drops_writes() {
    let mut bus = Bus::mmio();
    bus.insert(0x1000, 0x10, probe()).unwrap();
    for address in [0, 0xfff, 0x1010, u64::MAX] {
        let mut data = [0; 8];
        bus.read(address, &mut data);
        assert_eq!(data, [0xff; 8], "{address:#x}");
        assert_eq!(bus.write(address, &data), Effect::None);
    }
}

#[test]
fn overlaps_and_impossible_ranges_are_refused() {
    let mut bus = Bus::ports();
    bus.insert(0x100, 0x10, probe()).unwrap();
    for (base, len) in [(0x100, 1), (0x10f, 1), (0xf0, 0x11), (0x0, 0x1_0000), (0x108, 0x100)] {
        let error = bus.insert(base, len, probe()).unwrap_err();
        assert!(matches!(error, Error::Overlap { other: 0x100, .. }), "{base:#x}+{len:#x}: {error}");
    }
    for (base, len) in [(0x200, 0), (0xffff, 2), (0x1_0000, 1), (u64::MAX, u64::MAX)] {
        let error = bus.insert(base, len, probe()).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{base:#x}+{len:#x}: {error}");
    }
    bus.insert(0xf0, 0x10, probe()).unwrap();
    bus.insert(0x110, 1, probe()).unwrap();
    bus.insert(0xffff, 1, probe()).unwrap();

    let mut whole = Bus::mmio();
    whole.insert(u64::MAX, 1, probe()).unwrap();
    whole.insert(0, u64::MAX, probe()).unwrap();
}
