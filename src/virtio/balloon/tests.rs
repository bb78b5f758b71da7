use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use super::config::Balloon as Config;
use super::*;
use crate::memory::tests::resident;
use crate::virtio::testing::{GuestDriver, PLACE, conformance, reg, wait};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATS: usize = 2;
const HINTING: usize = 3;
const REPORTING: usize = 4;

/// Where the pages are that the tests do without.
const FREE: u64 = 32 << 20;
const FREE_LEN: usize = 64 << 20;

fn all() -> Config {
    Config {
        target: Some(Size::mib(1)),
        deflate_on_oom: true,
        stats: Some(1),
        reporting: true,
        hinting: true,
        id: None,
    }
}

fn driver(config: &Config) -> GuestDriver {
    GuestDriver::with_memory(config.open(&PLACE).unwrap(), Size::mib(128))
}

/// A driver that takes everything, and has all of [`FREE`] touched.
fn touched() -> GuestDriver {
    let mut driver = driver(&all());
    let offered = driver.offered();
    driver.set_up(offered);
    touch(&driver);
    driver
}

fn touch(driver: &GuestDriver) {
    driver.memory.write_slice(&vec![7; FREE_LEN], GuestAddress(FREE)).unwrap();
    assert_eq!(kept(driver), FREE_LEN / 4096);
}

/// Pages of [`FREE`] that the host keeps.
fn kept(driver: &GuestDriver) -> usize {
    resident(&driver.memory, FREE, FREE_LEN / 4096)
}

fn numbers(numbers: impl IntoIterator<Item = u32>) -> Vec<u8> {
    numbers.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn free_numbers() -> std::ops::Range<u32> {
    let first = u32::try_from(FREE >> 12).unwrap();
    first..first + u32::try_from(FREE_LEN >> 12).unwrap()
}

fn metric(driver: &GuestDriver, name: &str) -> Option<u64> {
    let metrics = driver.handle.metrics().unwrap();
    metrics.into_iter().find(|(own, _)| *own == name).map(|(_, value)| value)
}

fn word(driver: &GuestDriver, offset: u64) -> u32 {
    u32::from_le_bytes(driver.config(offset))
}

#[test]
fn conforms() {
    let exchange = |driver: &mut GuestDriver| {
        driver.memory.write_obj(7_u8, GuestAddress(0x100_0000)).unwrap();
        assert_eq!(driver.request(INFLATE, &[&numbers([0x1000])], &[]).0, 0);
        assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(0x100_0000)).unwrap(), 0);
        assert_eq!(driver.request(DEFLATE, &[&numbers([0x1000])], &[]).0, 0);
    };
    conformance(|| Config::default().open(&PLACE).unwrap(), exchange);
    conformance(|| all().open(&PLACE).unwrap(), exchange);
}

#[test]
fn features_are_those_that_are_asked_for() {
    let offered = |config: &Config| config.open(&PLACE).unwrap().describe().features;
    assert_eq!(offered(&Config::default()), 0);
    assert_eq!(offered(&all()), 0b10_1110);
    assert_eq!(offered(&Config { reporting: true, ..Config::default() }), 1 << 5);
    assert_eq!(offered(&Config { deflate_on_oom: true, ..Config::default() }), 1 << 2);
}

#[test]
fn inflated_pages_go_to_the_host_and_come_back_when_they_are_touched() {
    let mut driver = touched();
    for _ in 0..2 {
        // Linux sends 256 at a time, highest first.
        let pages: Vec<_> = free_numbers().rev().collect();
        for chain in pages.chunks(256) {
            driver.request(INFLATE, &[&numbers(chain.iter().copied())], &[]);
        }
        assert_eq!(kept(&driver), 0);
        driver.request(DEFLATE, &[&numbers(free_numbers().take(256))], &[]);
        assert_eq!(driver.memory.read_obj::<u64>(GuestAddress(FREE)).unwrap(), 0);
        touch(&driver);
    }
    assert_eq!(metric(&driver, "discarded_bytes"), Some(2 * FREE_LEN as u64));
    assert_eq!(metric(&driver, "foreign_pages"), Some(0));
}

#[test]
fn a_chain_may_have_more_pages_than_one_event_takes() {
    let mut driver = touched();
    let all = numbers(free_numbers());
    assert!(all.len() / 4 > 3 * NUMBERS_AT_ONCE);
    let (one, rest) = all.split_at(1001);
    driver.request(INFLATE, &[one, rest], &[]);
    assert_eq!(kept(&driver), 0);
    // The next chain is looked at from its beginning.
    touch(&driver);
    driver.request(INFLATE, &[&all[..4096]], &[]);
    assert_eq!(kept(&driver), (FREE_LEN >> 12) - 1024);
}

#[test]
fn pages_that_are_none_of_the_guests_are_counted_and_nothing_else() {
    let mut driver = touched();
    let first = free_numbers().start;
    let end = (128 << 20 >> 12) as u32;
    let mixed = [u32::MAX, first, end, first, u32::MAX - 1, first + 1, end - 1, 0xc_0000, 0x10_0000];
    let mut bytes = numbers(mixed);
    bytes.extend([1, 2, 3]);
    driver.request(INFLATE, &[&bytes], &[]);
    assert_eq!(kept(&driver), (FREE_LEN >> 12) - 2);
    assert_eq!(metric(&driver, "foreign_pages"), Some(5));
    driver.request(INFLATE, &[&[1, 2]], &[]);
    driver.request(INFLATE, &[], &[64]);
}

#[test]
fn the_target_is_the_drivers_to_see_and_what_it_has_is_told() {
    let driver = touched();
    assert_eq!(word(&driver, 0), 256);
    let rises = driver.line.rises();
    driver.handle.command(Command::BalloonTarget(Size::mib(64))).unwrap();
    assert_eq!(word(&driver, 0), 64 << 20 >> 12);
    assert_eq!(driver.line.rises(), rises + 1);
    let error = driver.handle.command(Command::BalloonTarget(Size::mib(129))).unwrap_err().to_string();
    assert_eq!(error, "a target of 129M is more than the guest's memory of 128M");
    assert!(driver.handle.command(Command::BalloonTarget(Size::gib(1 << 20))).is_err());
    assert_eq!(word(&driver, 0), 64 << 20 >> 12);
    assert!(matches!(driver.handle.command(Command::DiskResized), Err(CommandError::Unknown(_))));

    driver.write(reg::CONFIG, 5);
    driver.write(reg::CONFIG + 4, 100);
    driver.write(reg::CONFIG + 8, 5);
    assert_eq!([0, 4, 8].map(|offset| word(&driver, offset)), [64 << 20 >> 12, 100, 0]);
    assert_eq!(metric(&driver, "actual_bytes"), Some(100 << 12));
    assert_eq!(metric(&driver, "target_bytes"), Some(64 << 20));
}

#[test]
fn a_new_driver_finds_the_target_and_an_empty_balloon() {
    let mut driver = touched();
    driver.handle.command(Command::BalloonTarget(Size::mib(3))).unwrap();
    driver.handle.command(Command::BalloonHinting(true)).unwrap();
    driver.write(reg::CONFIG + 4, 100);
    driver.reset();
    assert_eq!([0, 4, 8].map(|offset| word(&driver, offset)), [3 << 20 >> 12, 0, CMD_ID_STOP]);
    // Without a driver as well.
    driver.handle.command(Command::BalloonTarget(Size::mib(2))).unwrap();
    assert_eq!(word(&driver, 0), 2 << 20 >> 12);
    assert!(driver.handle.command(Command::BalloonHinting(true)).is_err());
}

#[test]
fn reported_pages_go_to_the_host() {
    let mut driver = touched();
    let table = GuestDriver::ring(REPORTING).0;
    // Ranges as Linux reports them, and one of no whole pages: 96 MiB are more than one event takes.
    let ranges = [(FREE, 4 << 20), (FREE + (4 << 20), 60 << 20), (FREE + 1, 4096), (FREE, 32 << 20)];
    for (index, (address, len)) in (0..).zip(ranges) {
        driver.descriptor(table, index, address, len, if index < 3 { 3 } else { 2 }, index + 1);
    }
    driver.make_available(REPORTING, 0);
    driver.kick(REPORTING);
    assert_eq!(driver.wait_used(REPORTING).1, 0);
    assert_eq!(kept(&driver), 0);
}

#[test]
fn statistics_are_asked_for_in_time() {
    let mut driver = driver(&all());
    driver.set_up(feature::STATS_VQ);
    let entry = |tag: u16, value: u64| [tag.to_le_bytes().as_slice(), &value.to_le_bytes()].concat();
    let told = [entry(4, 1000), entry(5, 2000), entry(99, 1), entry(u16::MAX, 1), vec![6]].concat();
    let start = Instant::now();
    let head = driver.offer(STATS, &[&told], &[]);
    driver.kick(STATS);
    // A second one is one too many.
    let other = driver.offer(STATS, &[&entry(4, 1001)], &[]);
    driver.kick(STATS);
    assert_eq!(driver.wait_used(STATS).0, other);
    assert_eq!(metric(&driver, "guest_free_bytes"), Some(1001));
    assert_eq!(metric(&driver, "guest_memory_bytes"), Some(2000));
    assert_eq!(metric(&driver, "guest_available_bytes"), None);
    assert_eq!(driver.wait_used(STATS).0, head);
    assert!(start.elapsed() >= Duration::from_millis(900));
    // And again, also over a pause, which gives the chain back.
    driver.offer(STATS, &[&entry(4, 3000)], &[]);
    driver.kick(STATS);
    driver.wait_used(STATS);
    driver.offer(STATS, &[&entry(6, 4000)], &[]);
    driver.kick(STATS);
    driver.settle();
    driver.pause();
    assert!(driver.used(STATS).is_some());
    driver.resume();
    assert_eq!(metric(&driver, "guest_free_bytes"), Some(3000));
    assert_eq!(metric(&driver, "guest_available_bytes"), Some(4000));
    driver.reset();
    assert_eq!(metric(&driver, "guest_free_bytes"), None);
}

/// A hint: a free range.
fn hint(driver: &mut GuestDriver, address: u64, len: u32) {
    driver.descriptor(GuestDriver::ring(HINTING).0, 100, address, len, 2, 0);
    driver.make_available(HINTING, 100);
    driver.kick(HINTING);
    driver.wait_used(HINTING);
}

fn say(driver: &mut GuestDriver, id: u32) {
    driver.request(HINTING, &[&id.to_le_bytes()], &[]);
}

#[test]
fn hints_are_taken_in_their_round_only() {
    let mut driver = touched();
    let pages = FREE_LEN / 4096;
    hint(&mut driver, FREE, 1 << 20);
    assert_eq!(kept(&driver), pages);
    let rises = driver.line.rises();
    driver.handle.command(Command::BalloonHinting(true)).unwrap();
    let id = word(&driver, 8);
    assert!(id > CMD_ID_DONE);
    assert_eq!(driver.line.rises(), rises + 1);
    assert_eq!(metric(&driver, "hinting"), Some(1));
    // Not before the driver has taken the round up; not for another one.
    hint(&mut driver, FREE, 1 << 20);
    say(&mut driver, id - 1);
    hint(&mut driver, FREE, 1 << 20);
    say(&mut driver, CMD_ID_STOP);
    assert_eq!((kept(&driver), word(&driver, 8)), (pages, id));
    say(&mut driver, id);
    hint(&mut driver, FREE, 4 << 20);
    hint(&mut driver, FREE + (4 << 20), 4 << 20);
    assert_eq!(kept(&driver), pages - 2048);
    say(&mut driver, CMD_ID_STOP);
    wait("the round does not end", || word(&driver, 8) == CMD_ID_DONE);
    hint(&mut driver, FREE + (8 << 20), 4 << 20);
    assert_eq!(kept(&driver), pages - 2048);

    driver.handle.command(Command::BalloonHinting(true)).unwrap();
    assert_eq!(word(&driver, 8), id + 1);
    say(&mut driver, id + 1);
    driver.handle.command(Command::BalloonHinting(false)).unwrap();
    assert_eq!(word(&driver, 8), CMD_ID_DONE);
    hint(&mut driver, FREE + (8 << 20), 4 << 20);
    assert_eq!(kept(&driver), pages - 2048);
    assert_eq!(metric(&driver, "hinting"), Some(0));
}

#[test]
fn hinting_that_is_off_is_refused() {
    let driver = driver(&Config::default());
    let error = driver.handle.command(Command::BalloonHinting(true)).unwrap_err().to_string();
    assert_eq!(error, "it has no hinting: give --balloon hinting");
}

#[test]
fn queues_are_where_the_driver_has_put_them() {
    let places = |features, open: &[usize]| Role::places(features, |queue| open.contains(&queue));
    let [inflate, deflate, stats, hinting, reporting] = ROLES.map(Some);
    let both = feature::STATS_VQ | feature::PAGE_REPORTING;
    assert_eq!(places(0, &[0, 1]), [inflate, deflate, None, None, None]);
    assert_eq!(places(both, &[0, 1, 2, 4]), [inflate, deflate, stats, None, reporting]);
    assert_eq!(places(both, &[0, 1, 2, 3]), [inflate, deflate, stats, reporting, None]);
    let reports = feature::PAGE_REPORTING;
    assert_eq!(places(reports, &[0, 1, 2]), [inflate, deflate, reporting, None, None]);
    assert_eq!(places(reports, &[0, 1, 2, 3, 4]), [inflate, deflate, None, None, reporting]);
    assert_eq!(places(!0, &[0, 1, 2, 3, 4]), [inflate, deflate, stats, hinting, reporting]);
}

#[test]
fn options_are_read_and_checked() {
    let parse = crate::config::parse_options::<Config>;
    let given = "target=1M,deflate-on-oom,stats=1,reporting,hinting";
    assert_eq!(parse(given).unwrap(), all());
    assert_eq!(parse("").unwrap(), Config::default());
    assert!(parse("target=much").unwrap_err().to_string().contains("'much' is no size"));
    let machine = |balloon: &str| {
        let mut config = crate::config::MachineConfig::default();
        config.devices.balloon = vec![parse(balloon).unwrap()];
        config.validate().map_err(|error| error.to_string())
    };
    assert_eq!(machine("target=256M"), Ok(()));
    let error = "balloon0: a target of 257M is more than the guest's memory of 256M: give less";
    assert_eq!(machine("target=257M"), Err(error.to_owned()));
    let error = "one: stats=0: give a number of seconds from 1 on, or leave it out";
    assert_eq!(machine("stats=0,id=one"), Err(error.to_owned()));
}

#[test]
fn a_balloon_goes_on_in_another_machine() {
    let features = feature::STATS_VQ | feature::FREE_PAGE_HINT | feature::PAGE_REPORTING;
    let mut driver = GuestDriver::new(all().open(&PLACE).unwrap());
    driver.set_up(features);
    driver.handle.command(Command::BalloonTarget(Size::mib(3))).unwrap();
    driver.handle.command(Command::BalloonHinting(true)).unwrap();
    let round = word(&driver, 8);
    say(&mut driver, round);
    driver.write(reg::CONFIG + 4, 100);
    driver.write_bytes(reg::CONFIG + 12, &[1; 4]);
    let entry = [&4_u16.to_le_bytes()[..], &1000_u64.to_le_bytes()].concat();
    let head = driver.offer(STATS, &[&entry], &[]);
    driver.kick(STATS);
    driver.settle();
    assert_eq!(driver.used(STATS), None);
    driver.pause();
    driver.hand_over(Config { target: Some(Size::mib(9)), ..all() }.open(&PLACE).unwrap());
    let first = driver.predecessor.take().unwrap();
    assert_eq!(driver.config::<16>(0), first.config(0));
    assert_eq!(driver.read(0xfc), first.read(0xfc));
    assert_eq!([0, 4, 8].map(|offset| word(&driver, offset)), [3 << 20 >> 12, 100, round]);
    // The driver has its chain back, and gives it with new numbers.
    assert_eq!(driver.used(STATS).map(|used| used.0), Some(head));
    driver.resume();
    driver.offer(STATS, &[&entry], &[]);
    driver.kick(STATS);
    driver.settle();
    assert_eq!(metric(&driver, "guest_free_bytes"), Some(1000));
    driver.wait_used(STATS);
    // The round of hints goes on, and reports are taken.
    for (queue, address) in [(HINTING, 0x100_0000), (REPORTING, 0x110_0000)] {
        driver.memory.write_obj(7_u8, GuestAddress(address)).unwrap();
        driver.descriptor(GuestDriver::ring(queue).0, 100, address, 4096, 2, 0);
        driver.make_available(queue, 100);
        driver.kick(queue);
        driver.wait_used(queue);
        assert_eq!(driver.memory.read_obj::<u8>(GuestAddress(address)).unwrap(), 0, "{queue}");
    }
    say(&mut driver, CMD_ID_STOP);
    wait("the round does not end", || word(&driver, 8) == CMD_ID_DONE);
}

#[test]
fn queues_that_close_ranks_do_so_after_a_restore() {
    let mut balloon = Balloon::new(&all(), &PLACE, None);
    balloon.activate(feature::PAGE_REPORTING);
    for places in [Role::closed_ranks(feature::PAGE_REPORTING), Role::fixed_places(feature::PAGE_REPORTING)] {
        balloon.places = Some(places);
        balloon.done = [0, 4, 8, 0, u32::MAX as usize];
        let mut state = State::default();
        balloon.save("b", &mut state).unwrap();
        let mut other = Balloon::new(&all(), &PLACE, None);
        other.activate(feature::PAGE_REPORTING);
        let config = other.config.clone();
        let mut from = Restore { id: "b", state: &mut state, config: &config, allow: Default::default() };
        other.restore(&mut from).unwrap();
        assert_eq!((other.places, other.done), (balloon.places, balloon.done));
    }
}
