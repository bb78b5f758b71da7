//! Guest memory whose pages come from elsewhere, and then do not.

use std::sync::mpsc;

use super::*;
use crate::config::Size;
use crate::memory::{Error, fault};

/// Where nothing can be had.
const BROKEN: u64 = 24 << 20;

/// Zeroes, but for one page.
struct Cut;

impl fault::PageSource for Cut {
    fn read(&mut self, offset: u64, page: &mut [u8]) -> io::Result<()> {
        page.fill(0);
        if offset == BROKEN { Err(io::Error::other("the wire is cut")) } else { Ok(()) }
    }
}

#[test]
fn zeroes_in_the_place_of_what_cannot_be_had_do_not_get_onto_the_disk() {
    for engine in ENGINES {
        let (tell, failed) = mpsc::channel();
        let memory = match fault::serve(Size::mib(32), Cut, Box::new(move |at, _| tell.send(at).unwrap())) {
            Err(error @ Error::Userfaultfd(_)) => return crate::testing::skip(&error.to_string()),
            memory => memory.unwrap(),
        };
        let (_folder, disk) = image();
        let disk = Disk { engine, ..disk };
        let mut driver = GuestDriver::on_memory(disk.open(&PLACE).unwrap(), memory);
        driver.set_up(0);
        assert_eq!(write(&mut driver, 7, &[0xaa; 512]), 0);
        // One buffer of the guest's was last written before its memory came from elsewhere.
        let head = driver.offer(0, &[&header(OUT, 3), &[0xbb; 512]], &[1]);
        driver.descriptor(GuestDriver::ring(0).0, head + 1, BROKEN - 256, 512, 1, head + 2);
        driver.kick(0);
        driver.wait_needs_reset();
        assert_eq!(failed.recv().unwrap(), BROKEN);
        assert_eq!(driver.used(0), None);
        // Nor does what comes later.
        driver.offer(0, &[&header(OUT, 4), &[0xcc; 512]], &[1]);
        driver.kick(0);
        driver.settle();
        drop(driver);
        let bytes = fs::read(&disk.path).unwrap();
        let expected = [[2; 512], [3; 512], [4; 512]].concat();
        assert_eq!((&bytes[1024..2560], &bytes[3584..4096]), (&expected[..], &[0xaa; 512][..]), "{engine:?}");
    }
}
