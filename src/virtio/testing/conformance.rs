//! The suite that every device has to pass.

use super::*;

/// What every device has to pass. `exchange` does one piece of I/O with a device that is set up, and
/// checks it; `make` makes the device, and others that could be its successors ([`GuestDriver::which`] says
/// which).
pub(crate) fn conformance(
    mut make: impl FnMut() -> Box<dyn Device>,
    mut exchange: impl FnMut(&mut GuestDriver),
) {
    let ring_features = [0, feature::RING_EVENT_IDX, feature::RING_INDIRECT_DESC, feature::OF_TRANSPORT];
    let mut driver = GuestDriver::new(make());
    kicks_before_activation_do_nothing(&mut driver);
    features_are_kept_apart(&mut driver);
    for features in ring_features {
        driver.set_up(features);
        exchange(&mut driver);
        exchange(&mut driver);
        driver.pause();
        driver.resume();
        exchange(&mut driver);
        driver.reset();
    }
    // The machine is paused before there is a driver.
    driver.pause();
    driver.resume();
    // Everything that the device offers.
    let offered = driver.offered();
    driver.set_up(offered);
    driver.reset();

    let queues = (0..).take_while(|queue| driver.queue_max(*queue) > 0).count();
    for queue in 0..queues {
        for attack in ATTACKS {
            driver.set_up(feature::OF_TRANSPORT);
            attack(&mut driver, queue);
            driver.settle();
            driver.pause();
            driver.resume();
            driver.reset();
        }
        refused_queues(&mut driver, queue);
    }
    driver.set_up(feature::OF_TRANSPORT);
    exchange(&mut driver);
    driver.reset();
    saving::conformance(driver, make, exchange);
}

fn kicks_before_activation_do_nothing(driver: &mut GuestDriver) {
    for queue in [0, 1, 1000, u32::MAX] {
        driver.write(reg::QUEUE_NOTIFY, queue);
    }
    assert_ne!(driver.read(reg::DEVICE_ID), 0);
    // DRIVER_OK is no way around the features.
    driver.write(reg::STATUS, u32::from(bit::ACKNOWLEDGE | bit::DRIVER | bit::DRIVER_OK));
    assert_eq!(driver.status() & bit::DRIVER_OK, 0);
    driver.reset();
}

fn features_are_kept_apart(driver: &mut GuestDriver) {
    let offered = driver.offered();
    assert_eq!(offered & feature::OF_TRANSPORT, feature::OF_TRANSPORT);
    let absent = (0..64).map(|shift| 1_u64 << shift).find(|bit| offered & bit == 0).unwrap();
    for features in [0, feature::RING_EVENT_IDX, feature::VERSION_1 | absent] {
        assert!(!driver.negotiate(features), "features {features:#x}");
        driver.reset();
    }
}

/// A queue whose areas are not where and as they have to be.
fn refused_queues(driver: &mut GuestDriver, queue: usize) {
    let most = u32::from(driver.queue_max(queue));
    let sizes = [0, 3, most * 2, 32768, 65536 + most, u32::MAX].map(|size| (reg::QUEUE_NUM, size));
    let places = [
        (reg::QUEUE_DESC, 0x10_0008),
        (reg::QUEUE_DESC + 4, u32::MAX),
        (reg::QUEUE_DRIVER, MEMORY.bytes() as u32 - 2),
        (reg::QUEUE_DRIVER, 0x10_0001),
        (reg::QUEUE_DEVICE, MEMORY.bytes() as u32 - 4),
        (reg::QUEUE_DEVICE + 4, 1),
    ];
    for (register, value) in sizes.into_iter().chain(places).filter(|case| case.1 != most) {
        assert!(driver.negotiate(feature::VERSION_1));
        driver.queues.clear();
        for other in 0..=queue {
            let size = driver.queue_max(other);
            if other < queue {
                driver.place_queue(other, size);
            }
        }
        driver.write(register, value);
        driver.write(reg::QUEUE_READY, 1);
        driver.driver_ok();
        driver.wait_needs_reset();
        driver.kick(queue);
        driver.settle();
        driver.reset();
    }
}

type Attack = fn(&mut GuestDriver, usize);

/// What a hostile driver does with a ring. Nothing more than that the device lives is expected here.
const ATTACKS: [Attack; 9] = [
    // A chain that is a loop.
    |driver, queue| {
        let table = GuestDriver::ring(queue).0;
        driver.descriptor(table, 0, BUFFERS, 16, NEXT, 1);
        driver.descriptor(table, 1, BUFFERS, 16, NEXT | WRITE, 0);
        offer_raw(driver, queue, 0);
    },
    // Buffers outside memory, and lengths near the end of all numbers.
    |driver, queue| {
        let table = GuestDriver::ring(queue).0;
        for (at, (address, len)) in
            (0..).zip([(u64::MAX, 16), (BUFFERS, u32::MAX), (1 << 40, 1), (u64::MAX - 15, u32::MAX)])
        {
            for flags in [0, WRITE] {
                driver.descriptor(table, at, address, len, flags, 0);
                offer_raw(driver, queue, at);
            }
        }
    },
    // Heads that the queue does not have.
    |driver, queue| offer_raw(driver, queue, u16::MAX),
    // An index that jumps.
    |driver, queue| {
        driver.publish(queue, 0x8000);
        driver.kick(queue);
        driver.wait_needs_reset();
    },
    // The device's bytes after the driver's.
    |driver, queue| {
        let table = GuestDriver::ring(queue).0;
        driver.descriptor(table, 0, BUFFERS, 16, NEXT | WRITE, 1);
        driver.descriptor(table, 1, BUFFERS, 16, 0, 0);
        offer_raw(driver, queue, 0);
    },
    // An indirect table in an indirect table, one of no whole number of entries, one outside memory.
    |driver, queue| {
        let table = GuestDriver::ring(queue).0;
        driver.descriptor(BUFFERS, 0, BUFFERS, 16, INDIRECT, 0);
        for (at, (address, len)) in (0..).zip([(BUFFERS, 16), (BUFFERS, 17), (1 << 40, 16), (BUFFERS, 0)]) {
            driver.descriptor(table, at, address, len, INDIRECT, 0);
            offer_raw(driver, queue, at);
        }
    },
    // Empty buffers, and no buffers but one that is empty.
    |driver, queue| {
        let table = GuestDriver::ring(queue).0;
        driver.descriptor(table, 0, BUFFERS, 0, 0, 0);
        driver.descriptor(table, 1, BUFFERS, 0, WRITE, 0);
        offer_raw(driver, queue, 0);
        offer_raw(driver, queue, 1);
    },
    // The same chain as often as the queue is long, and once more.
    |driver, queue| {
        let table = GuestDriver::ring(queue).0;
        driver.descriptor(table, 0, BUFFERS, 64, NEXT, 1);
        driver.descriptor(table, 1, BUFFERS + 64, 64, WRITE, 0);
        for _ in 0..=driver.queue_max(queue) {
            offer_raw(driver, queue, 0);
        }
    },
    // A reset with work in flight.
    |driver, queue| {
        for _ in 0..8 {
            driver.offer(queue, &[&[0xff; 64]], &[64]);
        }
        driver.kick(queue);
    },
];

fn offer_raw(driver: &mut GuestDriver, queue: usize, head: u16) {
    driver.make_available(queue, head);
    driver.kick(queue);
}
