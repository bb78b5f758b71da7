//! `time`: the CMOS clock and kvm-clock, in seconds since 1970.

use crate::clock::{Date, KvmClock};
use crate::console::{print, println};

pub fn run() {
    print!("time rtc=");
    match Date::read() {
        Some(date) => print!("{}", date.unix()),
        None => print!("none"),
    }
    match KvmClock::enable().and_then(|clock| Some((clock.nanoseconds()?, clock.start()))) {
        Some((nanoseconds, start)) => {
            println!(" kvmclock={} uptime_ns={nanoseconds}", start + nanoseconds / 1_000_000_000);
        }
        None => println!(" kvmclock=none"),
    }
}
