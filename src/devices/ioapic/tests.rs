use proptest::prelude::*;

use super::*;

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const LOGICAL: u32 = 1 << 11;
const ACTIVE_LOW: u32 = 1 << 13;
const REMOTE_IRR: u32 = 1 << 14;

fn read(core: &mut Core, register: u8) -> u32 {
    assert_eq!(core.write(IOREGSEL, register.into()), Pins::default());
    core.read(IOWIN)
}

fn write(core: &mut Core, register: u8, value: u32) -> Vec<Message> {
    assert_eq!(core.write(IOREGSEL, register.into()), Pins::default());
    let pins = core.write(IOWIN, value);
    core.messages(pins).collect()
}

/// Writes an entry: destination first, as guests do.
fn program(core: &mut Core, pin: u8, low: u32, destination: u8) -> Vec<Message> {
    let mut sent = write(core, REDIRECTION + 2 * pin + 1, u32::from(destination) << 24);
    sent.extend(write(core, REDIRECTION + 2 * pin, low));
    sent
}

fn low_half(core: &mut Core, pin: u8) -> u32 {
    read(core, REDIRECTION + 2 * pin)
}

fn set(core: &mut Core, pin: u8, asserted: bool) -> usize {
    let pins = core.set_level(pin, asserted);
    core.messages(pins).count()
}

fn eoi(core: &mut Core, vector: u8) -> usize {
    let pins = core.eoi(vector);
    core.messages(pins).count()
}

#[test]
fn registers_after_reset() {
    let mut core = Core::default();
    assert_eq!(read(&mut core, ID), 0);
    assert_eq!(read(&mut core, VERSION), 0x0017_0020);
    assert_eq!(read(&mut core, ARBITRATION), 0);
    for pin in 0..PINS {
        assert_eq!(low_half(&mut core, pin), MASKED);
        assert_eq!(read(&mut core, REDIRECTION + 2 * pin + 1), 0);
    }
    assert_eq!(read(&mut core, REDIRECTION + 2 * PINS), 0);
    assert_eq!(core.read(IOREGSEL), 0x40);
    assert_eq!(core.level_routes().count(), 0);
}

#[test]
fn writable_bits() {
    let mut core = Core::default();
    for (register, expected) in [
        (ID, 0x0f00_0000),
        (VERSION, 0x0017_0020),
        (ARBITRATION, 0x0f00_0000),
        (REDIRECTION + 6, 0x0001_afff),
        (REDIRECTION + 7, 0xff00_0000),
        (REDIRECTION + 2 * PINS, 0),
        (0xff, 0),
    ] {
        assert_eq!(write(&mut core, register, u32::MAX), []);
        assert_eq!(read(&mut core, register), expected, "register {register:#x}");
    }
}

#[test]
fn an_entry_is_a_message() {
    for (low, destination, address, data) in [
        (0x31, 0, 0xfee0_0000, 0x31),
        (0x31 | ACTIVE_LOW, 7, 0xfee0_7000, 0x31),
        (0x31 | LOGICAL, 0xff, 0xfeef_f004, 0x31),
        (0x31 | 1 << 8, 1, 0xfee0_1000, 0x131),
        (0x31 | LEVEL, 1, 0xfee0_1000, 0xc031),
        (0x131 | LEVEL | LOGICAL, 3, 0xfee0_3004, 0xc131),
        // NMI is an edge whatever the trigger mode says.
        (4 << 8 | LEVEL, 1, 0xfee0_1000, 0x400),
    ] {
        let mut core = Core::default();
        program(&mut core, 5, low, destination);
        let pins = core.set_level(5, true);
        let sent: Vec<_> = core.messages(pins).collect();
        assert_eq!(sent, [Message { address, data }], "{low:#x}");
    }
}

#[test]
fn an_edge_delivers_once() {
    let mut core = Core::default();
    program(&mut core, 4, 0x24, 0);
    assert_eq!(set(&mut core, 4, true), 1);
    assert_eq!(set(&mut core, 4, true), 0);
    assert_eq!(eoi(&mut core, 0x24), 0);
    assert_eq!(set(&mut core, 4, false), 0);
    assert_eq!(set(&mut core, 4, true), 1);
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let mut core = Core::default();
    program(&mut core, 4, 0x24 | MASKED, 0);
    assert_eq!(set(&mut core, 4, true), 0);
    assert_eq!(program(&mut core, 4, 0x24, 0), []);
    assert_eq!(set(&mut core, 4, false), 0);
    assert_eq!(set(&mut core, 4, true), 1);
}

#[test]
fn a_level_delivers_until_it_falls() {
    let mut core = Core::default();
    program(&mut core, 9, 0x39 | LEVEL, 0);
    assert_eq!(set(&mut core, 9, true), 1);
    assert_eq!(low_half(&mut core, 9), 0x39 | LEVEL | REMOTE_IRR);
    assert_eq!(set(&mut core, 9, true), 0, "one until its EOI");
    assert_eq!(set(&mut core, 9, false), 0);
    assert_eq!(set(&mut core, 9, true), 0);
    assert_eq!(eoi(&mut core, 0x38), 0, "another vector's EOI");
    assert_eq!(eoi(&mut core, 0x39), 1, "still asserted");
    set(&mut core, 9, false);
    assert_eq!(eoi(&mut core, 0x39), 0);
    assert_eq!(low_half(&mut core, 9), 0x39 | LEVEL);
    assert_eq!(eoi(&mut core, 0x39), 0, "an EOI without an interrupt");
    assert_eq!(set(&mut core, 9, true), 1);
}

#[test]
fn unmasking_an_asserted_level_delivers() {
    let mut core = Core::default();
    program(&mut core, 9, 0x39 | LEVEL | MASKED, 2);
    assert_eq!(set(&mut core, 9, true), 0);
    let expected = Message { address: 0xfee0_2000, data: 0xc039 };
    assert_eq!(write(&mut core, REDIRECTION + 18, 0x39 | LEVEL), [expected]);
    // Masked while under way, as a threaded handler does: the EOI clears remote IRR, and the
    // unmasking delivers.
    assert_eq!(write(&mut core, REDIRECTION + 18, 0x39 | LEVEL | MASKED), []);
    assert_eq!(eoi(&mut core, 0x39), 0);
    assert_eq!(low_half(&mut core, 9), 0x39 | LEVEL | MASKED);
    assert_eq!(write(&mut core, REDIRECTION + 18, 0x39 | LEVEL), [expected]);
}

#[test]
fn turning_to_edge_and_back_clears_remote_irr() {
    // Linux ends an interrupt this way where it finds no EOI register (`__eoi_ioapic_pin`).
    let mut core = Core::default();
    program(&mut core, 9, 0x39 | LEVEL, 0);
    set(&mut core, 9, true);
    assert_eq!(write(&mut core, REDIRECTION + 18, 0x39 | MASKED), []);
    assert_eq!(low_half(&mut core, 9), 0x39 | MASKED);
    assert_eq!(write(&mut core, REDIRECTION + 18, 0x39 | LEVEL).len(), 1);
}

#[test]
fn one_eoi_serves_all_pins_of_its_vector() {
    let mut core = Core::default();
    for pin in [3, 7, 23] {
        program(&mut core, pin, 0x50 | LEVEL, pin);
        assert_eq!(set(&mut core, pin, true), 1);
    }
    set(&mut core, 7, false);
    let pins = core.write(IOEOI, 0x50);
    let sent: Vec<_> = core.messages(pins).map(|message| message.address).collect();
    assert_eq!(sent, [0xfee0_3000, 0xfee1_7000]);
    assert_eq!(low_half(&mut core, 7) & REMOTE_IRR, 0);
}

#[test]
fn pins_that_do_not_exist_lead_nowhere() {
    let mut core = Core::default();
    for pin in [24, 31, 32, 255] {
        assert_eq!(set(&mut core, pin, true), 0);
        assert_eq!(core.save().levels, 0);
        assert_eq!(set(&mut core, pin, false), 0);
    }
}

#[test]
fn routes_change_with_level_entries_only() {
    let mut core = Core::default();
    assert!(!core.take_routes_changed());
    program(&mut core, 4, 0x24, 0);
    assert!(!core.take_routes_changed(), "an edge");
    program(&mut core, 9, 0x39 | LEVEL, 1);
    assert!(core.take_routes_changed());
    let route = (9, Message { address: 0xfee0_1000, data: 0xc039 });
    assert_eq!(core.level_routes().collect::<Vec<_>>(), [route]);
    set(&mut core, 9, true);
    program(&mut core, 9, 0x39 | LEVEL | MASKED, 1);
    eoi(&mut core, 0x39);
    program(&mut core, 9, 0x39 | LEVEL, 1);
    assert!(!core.take_routes_changed(), "masking and unmasking");
    assert_eq!(core.level_routes().collect::<Vec<_>>(), [route]);
    program(&mut core, 9, 0x39 | LEVEL, 2);
    assert!(core.take_routes_changed(), "another destination");
    program(&mut core, 9, MASKED, 0);
    assert!(core.take_routes_changed(), "given up");
    assert_eq!(core.level_routes().count(), 0);
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Deliver(Message),
    Routes(Vec<(u8, Message)>),
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.0))
    }
}

impl MsiSink for Log {
    fn deliver(&self, message: Message) {
        lock(&self.0).push(Event::Deliver(message));
    }

    fn set_level_routes(&self, routes: &[(u8, Message)]) {
        lock(&self.0).push(Event::Routes(routes.to_vec()));
    }
}

fn device() -> (IoApic, Log) {
    let log = Log::default();
    (IoApic::new(Box::new(log.clone())), log)
}

fn mmio_write(ioapic: &mut IoApic, offset: u64, data: &[u8]) {
    assert_eq!(ioapic.write(offset, data), Effect::None);
}

fn mmio_read<const N: usize>(ioapic: &mut IoApic, offset: u64) -> [u8; N] {
    let mut data = [0xaa; N];
    ioapic.read(offset, &mut data);
    data
}

#[test]
fn routes_are_published_before_their_first_message() {
    let (mut ioapic, log) = device();
    ioapic.set_level(1, true);
    mmio_write(&mut ioapic, IOREGSEL, &[0x12, 0, 0, 0]);
    mmio_write(&mut ioapic, IOWIN, &(0x44 | LEVEL).to_le_bytes());
    let message = Message { address: 0xfee0_0000, data: 0xc044 };
    assert_eq!(log.take(), [Event::Routes(vec![(1, message)]), Event::Deliver(message)]);
    ioapic.end_of_interrupt(0x44);
    assert_eq!(log.take(), [Event::Deliver(message)]);
    mmio_write(&mut ioapic, IOEOI, &[0x44, 0, 0, 0]);
    assert_eq!(log.take(), [Event::Deliver(message)]);
}

#[test]
fn other_widths_are_sane() {
    let (mut ioapic, _) = device();
    mmio_write(&mut ioapic, IOREGSEL, &[VERSION]);
    assert_eq!(mmio_read::<1>(&mut ioapic, IOREGSEL), [VERSION]);
    assert_eq!(mmio_read::<4>(&mut ioapic, IOWIN), [0x20, 0, 0x17, 0]);
    assert_eq!(mmio_read::<8>(&mut ioapic, IOWIN), [0x20, 0, 0x17, 0, 0, 0, 0, 0]);
    assert_eq!(mmio_read::<1>(&mut ioapic, IOWIN + 2), [0x17]);
    assert_eq!(mmio_read::<3>(&mut ioapic, IOWIN + 2), [0x17, 0, 0]);
    assert_eq!(mmio_read::<4>(&mut ioapic, 0x20), [0; 4]);
    assert_eq!(mmio_read::<4>(&mut ioapic, u64::MAX), [0; 4]);
    mmio_write(&mut ioapic, IOREGSEL, &[0x10, 0, 0, 0, 9, 9, 9, 9]);
    mmio_write(&mut ioapic, IOWIN, &[0x77]);
    mmio_write(&mut ioapic, IOWIN, &[]);
    mmio_write(&mut ioapic, IOWIN + 1, &[1, 2, 3, 4]);
    assert_eq!(mmio_read::<4>(&mut ioapic, IOWIN), MASKED.to_le_bytes());
    mmio_write(&mut ioapic, IOWIN, &[0x77, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(mmio_read::<4>(&mut ioapic, IOWIN), [0x77, 0, 0, 0]);
}

#[test]
fn pins_are_interrupt_lines() {
    let (mut ioapic, log) = device();
    mmio_write(&mut ioapic, IOREGSEL, &[REDIRECTION + 8, 0, 0, 0]);
    mmio_write(&mut ioapic, IOWIN, &[0x24, 0, 0, 0]);
    let ioapic = Arc::new(Mutex::new(ioapic));
    let line = IoApicPin::new(Arc::clone(&ioapic), 4);
    line.set_level(true);
    line.set_level(true);
    line.set_level(false);
    line.pulse();
    assert_eq!(log.take().len(), 2);
    assert_eq!(lock(&ioapic).save().levels, 0);
}

#[test]
fn restore_publishes_routes_and_delivers_nothing() {
    let (mut ioapic, _) = device();
    mmio_write(&mut ioapic, IOREGSEL, &[REDIRECTION, 0, 0, 0]);
    mmio_write(&mut ioapic, IOWIN, &(0x44 | LEVEL).to_le_bytes());
    ioapic.set_level(0, true);
    let state = ioapic.save();
    let (mut copy, log) = device();
    copy.restore(&state);
    let message = Message { address: 0xfee0_0000, data: 0xc044 };
    assert_eq!(log.take(), [Event::Routes(vec![(0, message)])]);
    assert_eq!(copy.save(), state);
    copy.end_of_interrupt(0x44);
    assert_eq!(log.take(), [Event::Deliver(message)]);
}

#[test]
fn restore_of_nonsense_is_bounded() {
    let mut core = Core::default();
    core.restore(&IoApicState { id: u32::MAX, select: 0xff, entries: [u64::MAX; 24], levels: u32::MAX });
    let state = core.save();
    assert_eq!((state.id, state.levels), (0x0f00_0000, 0x00ff_ffff));
    // Delivery mode 7 is ExtINT, an edge: no remote IRR.
    assert_eq!(state.entries, [0xff00_0000_0001_afff; 24]);
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    /// A well-formed write of an entry's half.
    Entry(u8, u32),
    Level(u8, bool),
    Eoi(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = || prop_oneof![8 => prop::sample::select(vec![0, 0x10, 0x40]), 1 => any::<u64>()];
    // Few vectors, so that EOIs meet their pins.
    let low = (0x30..0x33_u32, any::<u32>(), any::<bool>()).prop_map(|(vector, bits, fixed)| {
        let mode = if fixed { 0 } else { bits & 0x700 };
        vector | mode | bits & !0x7ff
    });
    prop_oneof![
        1 => (offset(), 0..9_usize).prop_map(|(at, len)| Step::Read(at, len)),
        2 => (offset(), prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(at, data)| Step::Write(at, data)),
        4 => (0..PINS * 2, low).prop_map(|(half, value)| Step::Entry(half, value)),
        6 => (0..26_u8, any::<bool>()).prop_map(|(pin, asserted)| Step::Level(pin, asserted)),
        3 => (0x2f..0x34_u8).prop_map(Step::Eoi),
    ]
}

fn apply(ioapic: &mut IoApic, step: &Step) -> Vec<u8> {
    let mut read = Vec::new();
    match step {
        Step::Read(at, len) => {
            read.resize(*len, 0);
            ioapic.read(*at, &mut read);
        }
        Step::Write(at, data) => mmio_write(ioapic, *at, data),
        Step::Entry(half, value) => {
            mmio_write(ioapic, IOREGSEL, &[REDIRECTION + half]);
            mmio_write(ioapic, IOWIN, &value.to_le_bytes());
        }
        Step::Level(pin, asserted) => ioapic.set_level(*pin, *asserted),
        Step::Eoi(vector) => ioapic.end_of_interrupt(*vector),
    }
    read
}

/// An end of interrupt gets lost with the machine that was about to tell of it.
#[test]
fn what_no_local_apic_has_any_more_has_ended() {
    let mut core = Core::default();
    for (pin, vector) in [(5, 0x35), (6, 0x36), (7, 0x37)] {
        program(&mut core, pin, vector | LEVEL, 0);
        assert_eq!(set(&mut core, pin, true), 1);
    }
    program(&mut core, 8, 0x38, 0);
    assert_eq!(set(&mut core, 8, true), 1);
    assert_eq!(set(&mut core, 6, false), 0);
    let mut copy = Core::default();
    copy.restore(&core.save());
    // The first is asserted still, the second no longer, and the third in service. The last is an edge.
    let pins = copy.settle(|vector| vector == 0x37);
    assert_eq!(copy.messages(pins).map(|message| message.data & 0xff).collect::<Vec<_>>(), [0x35]);
    let waits = [5, 6, 7, 8].map(|pin| low_half(&mut copy, pin) & REMOTE_IRR != 0);
    assert_eq!(waits, [true, false, true, false]);
    assert_eq!(set(&mut copy, 6, true), 1);
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_invariants(steps in prop::collection::vec(step(), 0..200)) {
        let (mut ioapic, log) = device();
        let mut published = Vec::new();
        for step in &steps {
            apply(&mut ioapic, step);
            for event in log.take() {
                match event {
                    Event::Routes(routes) => published = routes,
                    Event::Deliver(message) if message.data & LEVEL != 0 && message.data & 0xff >= 16 => {
                        let known = published.iter().any(|(_, route)| *route == message);
                        prop_assert!(known, "an EOI that would not be reported");
                    }
                    Event::Deliver(_) => {}
                }
            }
            let state = ioapic.save();
            let routes: Vec<_> = ioapic.core.level_routes().collect();
            prop_assert_eq!(&routes, &published);
            prop_assert_eq!(state.levels >> PINS, 0);
            for (pin, value) in state.entries.into_iter().enumerate() {
                let irr = value & entry::REMOTE_IRR != 0;
                let level = value & entry::LEVEL != 0 && value & entry::DELIVERY_MODE <= 0x100;
                prop_assert!(level || !irr);
                // An asserted level that is not masked was delivered.
                let due = level && value & entry::MASKED == 0 && state.levels & 1 << pin != 0;
                prop_assert!(irr || !due);
            }
        }
    }

    #[test]
    fn a_restored_one_goes_on_as_the_saved_one(
        before in prop::collection::vec(step(), 0..100),
        after in prop::collection::vec(step(), 0..100),
    ) {
        let (mut ioapic, log) = device();
        for step in &before {
            apply(&mut ioapic, step);
        }
        let (mut copy, copy_log) = device();
        copy.restore(&ioapic.save());
        log.take();
        copy_log.take();
        for step in &after {
            prop_assert_eq!(apply(&mut copy, step), apply(&mut ioapic, step));
            prop_assert_eq!(copy.save(), ioapic.save());
            prop_assert_eq!(copy_log.take(), log.take());
        }
    }
}
