//! Time: the TSC's frequency, kvm-clock, and the CMOS clock.

use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu::{self, HYPERVISOR_LEAF, cpuid, in8, out8};
use crate::trap;

/// How the TSC's frequency became known.
#[derive(Clone, Copy)]
pub struct Frequency {
    pub hertz: u64,
    pub source: &'static str,
}

impl Frequency {
    /// From CPUID 0x15, CPUID 0x40000010, or kvm-clock.
    pub fn known() -> Option<Self> {
        let from = |source| move |hertz| Frequency { hertz, source };
        crystal()
            .map(from("CPUID 0x15"))
            .or_else(|| hypervisor_frequency().map(from("CPUID 0x40000010")))
            .or_else(|| KvmClock::enable().and_then(|clock| clock.frequency()).map(from("kvm-clock")))
    }

    /// As known, or else measured over a second of the CMOS clock.
    pub fn find() -> Option<Self> {
        Frequency::known().or_else(|| measure().map(|hertz| Frequency { hertz, source: "CMOS clock" }))
    }

    /// What the first CPU found, for stopwatches and for all other CPUs: 4 GHz if nobody can tell, as then
    /// limits are long rather than short.
    pub fn shared() -> Self {
        if HERTZ.load(Ordering::Relaxed) == 0 {
            let hertz = Frequency::find().map_or(4_000_000_000, |frequency| frequency.hertz);
            HERTZ.store(hertz.max(1), Ordering::Relaxed);
        }
        Frequency { hertz: HERTZ.load(Ordering::Relaxed), source: "" }
    }

    pub fn nanoseconds(self, ticks: u64) -> u64 {
        // In two parts, so that nothing overflows below 18 GHz.
        ticks / self.hertz * 1_000_000_000 + ticks % self.hertz * 1_000_000_000 / self.hertz
    }

    pub fn ticks(self, microseconds: u64) -> u64 {
        microseconds.saturating_mul(self.hertz / 1_000_000)
    }
}

/// Intel SDM vol. 2, CPUID leaf 0x15: crystal clock times a ratio.
fn crystal() -> Option<u64> {
    if cpuid(0, 0).eax < 0x15 {
        return None;
    }
    let leaf = cpuid(0x15, 0);
    let hertz = u64::from(leaf.ecx) * u64::from(leaf.ebx);
    hertz.checked_div(leaf.eax.into()).filter(|&hertz| hertz != 0)
}

/// The timing leaf that VMware started and others took over: kHz in EAX.
fn hypervisor_frequency() -> Option<u64> {
    let (_, last) = cpu::hypervisor()?;
    let leaf = HYPERVISOR_LEAF + 0x10;
    let kilohertz = if last >= leaf { cpuid(leaf, 0).eax } else { 0 };
    (kilohertz != 0).then_some(u64::from(kilohertz) * 1000)
}

fn measure() -> Option<u64> {
    if cmos(register::A) == u8::MAX {
        return None;
    }
    // The second changes within 1.1 seconds; 10^10 ticks are more at any clock rate.
    let edge = || {
        let (start, second) = (cpu::tsc(), cmos(register::SECONDS));
        while cmos(register::SECONDS) == second {
            if cpu::tsc().wrapping_sub(start) > 10_000_000_000 {
                return None;
            }
        }
        Some(cpu::tsc())
    };
    let start = edge()?;
    Some(edge()?.wrapping_sub(start))
}

/// Time since a moment, by the TSC.
#[derive(Clone, Copy)]
pub struct Stopwatch {
    start: u64,
    frequency: Frequency,
}

/// The TSC's frequency, once somebody has asked; zero before.
static HERTZ: AtomicU64 = AtomicU64::new(0);

impl Stopwatch {
    pub fn start() -> Self {
        let frequency = Frequency::shared();
        Stopwatch { start: cpu::tsc(), frequency }
    }

    pub fn restart(&mut self) {
        self.start = cpu::tsc();
    }

    pub fn nanoseconds(&self) -> u64 {
        self.frequency.nanoseconds(cpu::tsc().wrapping_sub(self.start))
    }

    pub fn seconds(&self) -> u64 {
        cpu::tsc().wrapping_sub(self.start) / self.frequency.hertz
    }
}

/// A moment to come, by the TSC.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

impl Deadline {
    /// In so many microseconds; never, if the TSC does not count as far.
    pub fn after(microseconds: u64) -> Self {
        Deadline(cpu::tsc().saturating_add(Frequency::shared().ticks(microseconds)))
    }

    pub fn is_over(self) -> bool {
        cpu::tsc() >= self.0
    }
}

/// Waits without knowing the frequency any better than 4 GHz at most.
pub fn spin(microseconds: u64) {
    let start = cpu::tsc();
    while cpu::tsc().wrapping_sub(start) < microseconds * 4000 {
        cpu::pause();
    }
}

/// `struct pvclock_vcpu_time_info` (Linux, Documentation/virt/kvm/x86/msr.rst).
#[repr(C, align(64))]
struct TimeInfo {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    pad2: [u8; 2],
}

/// `struct pvclock_wall_clock`.
#[repr(C, align(64))]
struct WallClock {
    version: u32,
    seconds: u32,
    nanoseconds: u32,
}

struct Shared<T>(UnsafeCell<T>);

// SAFETY: the hypervisor writes, the first CPU reads volatile copies.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn read(&self) -> T {
        // SAFETY: integers only, so any content is valid.
        unsafe { self.0.get().read_volatile() }
    }
}

static TIME_INFO: Shared<TimeInfo> = Shared(UnsafeCell::new(TimeInfo {
    version: 0,
    pad: 0,
    tsc_timestamp: 0,
    system_time: 0,
    multiplier: 0,
    shift: 0,
    flags: 0,
    pad2: [0; 2],
}));
static WALL_CLOCK: Shared<WallClock> =
    Shared(UnsafeCell::new(WallClock { version: 0, seconds: 0, nanoseconds: 0 }));

const MSR_KVM_WALL_CLOCK_NEW: u64 = 0x4b56_4d00;
const MSR_KVM_SYSTEM_TIME_NEW: u64 = 0x4b56_4d01;
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;

/// KVM's clock, switched on. It is that of the CPU which has switched it on.
pub struct KvmClock {
    info: u64,
}

impl KvmClock {
    /// If KVM offers it (CPUID 0x40000001).
    pub fn enable() -> Option<Self> {
        let (signature, last) = cpu::hypervisor()?;
        let offered = signature == *b"KVMKVMKVM\0\0\0"
            && (last == 0 || last > HYPERVISOR_LEAF)
            && cpuid(HYPERVISOR_LEAF + 1, 0).eax & KVM_FEATURE_CLOCKSOURCE2 != 0;
        if !offered {
            return None;
        }
        extern "sysv64" fn write(_: u64) -> u64 {
            let (time, wall) = (TIME_INFO.0.get().addr() as u64, WALL_CLOCK.0.get().addr() as u64);
            // SAFETY: both structures live for ever and are large and aligned enough.
            unsafe {
                cpu::ring0(cpu::ring0_wrmsr, MSR_KVM_SYSTEM_TIME_NEW, time | 1, 0);
                cpu::ring0(cpu::ring0_wrmsr, MSR_KVM_WALL_CLOCK_NEW, wall, 0)
            }
        }
        trap::guarded(write, 0).map(|_| KvmClock { info: TIME_INFO.0.get().addr() as u64 })
    }

    /// For a CPU other than the first, which has found the clock: it is to be in this page of zeroes.
    pub fn enable_in(page: u64) -> Self {
        // SAFETY: the page is large and aligned enough, and from now on the clock's.
        unsafe { cpu::ring0(cpu::ring0_wrmsr, MSR_KVM_SYSTEM_TIME_NEW, page | 1, 0) };
        KvmClock { info: page }
    }

    fn read(&self) -> TimeInfo {
        // SAFETY: the structure lives for ever; integers only, so any content is valid.
        unsafe { (self.info as *const TimeInfo).read_volatile() }
    }

    /// A copy that was not written meanwhile: its version is even and stays.
    fn time_info(&self) -> Option<TimeInfo> {
        (0..1000)
            .map(|_| (self.read(), self.read().version))
            .find(|(info, version)| info.version == *version && version % 2 == 0 && *version != 0)
            .map(|(info, _)| info)
    }

    pub fn frequency(&self) -> Option<u64> {
        let info = self.time_info().filter(|info| info.multiplier != 0)?;
        let hertz = (1_000_000_000 << 32) / u64::from(info.multiplier);
        let shift = u32::from(info.shift.unsigned_abs()).min(31);
        Some(if info.shift < 0 { hertz << shift } else { hertz >> shift })
    }

    /// Nanoseconds since the machine's start.
    pub fn nanoseconds(&self) -> Option<u64> {
        let info = self.time_info()?;
        let delta = cpu::tsc().wrapping_sub(info.tsc_timestamp);
        let shift = u32::from(info.shift.unsigned_abs()).min(31);
        let delta = if info.shift < 0 { delta >> shift } else { delta << shift };
        Some(info.system_time.wrapping_add(((u128::from(delta) * u128::from(info.multiplier)) >> 32) as u64))
    }

    /// Seconds since 1970 at the machine's start.
    pub fn start(&self) -> u64 {
        WALL_CLOCK.read().seconds.into()
    }
}

/// Registers of the CMOS clock (Motorola MC146818A data sheet).
mod register {
    pub const SECONDS: u8 = 0x00;
    pub const MINUTES: u8 = 0x02;
    pub const HOURS: u8 = 0x04;
    pub const DAY: u8 = 0x07;
    pub const MONTH: u8 = 0x08;
    pub const YEAR: u8 = 0x09;
    pub const A: u8 = 0x0a;
    pub const B: u8 = 0x0b;
    pub const CENTURY: u8 = 0x32;
}

const A_UPDATE_IN_PROGRESS: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;

fn cmos(register: u8) -> u8 {
    out8(0x70, register);
    in8(0x71)
}

/// What the CMOS clock shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Date {
    pub year: u64,
    pub month: u64,
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
}

impl Date {
    /// Two equal readings, or nothing: no clock answers or it makes no sense.
    pub fn read() -> Option<Self> {
        let mut date = Date::read_once()?;
        for _ in 0..100 {
            let again = Date::read_once()?;
            if again == date {
                return Some(date);
            }
            date = again;
        }
        None
    }

    fn read_once() -> Option<Self> {
        if cmos(register::A) == u8::MAX {
            return None;
        }
        // A clock that updates for ever is none either.
        (0..1000).find(|_| cmos(register::A) & A_UPDATE_IN_PROGRESS == 0)?;
        let format = cmos(register::B);
        let number = |value: u8| {
            u64::from(if format & B_BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) })
        };
        let value = |register| number(cmos(register));
        let hours = cmos(register::HOURS);
        let mut hour = number(hours & 0x7f);
        if format & B_24_HOURS == 0 {
            hour = hour % 12 + if hours & 0x80 != 0 { 12 } else { 0 };
        }
        let century = value(register::CENTURY);
        let century = if (19..=21).contains(&century) { century } else { 20 };
        let date = Date {
            year: century * 100 + value(register::YEAR),
            month: value(register::MONTH),
            day: value(register::DAY),
            hour,
            minute: value(register::MINUTES),
            second: value(register::SECONDS),
        };
        let sensible = (1..=12).contains(&date.month) && (1..=31).contains(&date.day) && date.hour < 24;
        sensible.then_some(date)
    }

    /// Seconds since 1970 if this is UTC (days by the civil calendar).
    pub fn unix(self) -> u64 {
        let leaps = |year: u64| year / 4 - year / 100 + year / 400;
        let before: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap =
            self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let month = before.get(self.month as usize - 1).unwrap_or(&0);
        let leap_day = u64::from(leap && self.month > 2);
        let years = self.year.saturating_sub(1970) * 365 + leaps(self.year - 1) - leaps(1969);
        let days = years + month + leap_day + self.day - 1;
        ((days * 24 + self.hour) * 60 + self.minute) * 60 + self.second
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Date { year, month, day, hour, minute, second } = self;
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}
