//! Frequencies, so that a guest need not measure them.

use super::table::{Table, Vendor};

/// KVM's local APICs count nanoseconds (`APIC_BUS_CYCLE_NS`): their clock has 1 GHz.
pub(super) const APIC_KHZ: u32 = 1_000_000;

/// The ratio between the time-stamp counter and the core crystal clock (leaf 0x15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ratio {
    pub(super) denominator: u32,
    pub(super) numerator: u32,
    pub(super) crystal_khz: u32,
}

/// Leaves 0x15 and 0x16, Intel's; AMD has neither, and its guests have leaf 0x4000_0010 and
/// kvm-clock.
pub(super) fn apply(table: &mut Table, vendor: Vendor, tsc_khz: Option<u32>) {
    let (Vendor::Intel, Some(tsc_khz)) = (vendor, tsc_khz) else { return };
    let Some(ratio) = ratio(tsc_khz) else { return };
    table.set(0x15, [ratio.denominator, ratio.numerator, ratio.crystal_khz * 1000, 0]);
    // Base, maximum and bus frequency in MHz, 16 bits each.
    let mhz = ((u64::from(tsc_khz) + 500) / 1000).min(0xffff);
    let mhz = u32::try_from(mhz).unwrap_or(0xffff);
    table.set(0x16, [mhz, mhz, 100, 0]);
}

/// The ratio from which a guest computes exactly `tsc_khz`.
///
/// Linux multiplies kHz in 32 bits, `crystal * numerator / denominator`, and takes the crystal to
/// be the local APIC timer's clock as well, so the crystal should have [`APIC_KHZ`] and its
/// product with the numerator must not overflow. Frequencies such as 2,500,000 kHz have such a
/// ratio. Others, such as 2,499,998, get one whose crystal is within a thousandth of that and
/// which the division's rounding down makes exact. Who needs the timer better than that measures
/// it, or uses its deadline mode. `None` if there is not even that.
pub(super) fn ratio(tsc_khz: u32) -> Option<Ratio> {
    /// Enough for every frequency from 100 MHz to 6 GHz.
    const DENOMINATORS: u32 = 1024;
    const TOLERANCE: u32 = APIC_KHZ / 1000;

    let divisor = gcd(tsc_khz, APIC_KHZ);
    let (numerator, denominator) = (tsc_khz / divisor, APIC_KHZ / divisor);
    if numerator > 0 && APIC_KHZ.checked_mul(numerator).is_some() {
        return Some(Ratio { denominator, numerator, crystal_khz: APIC_KHZ });
    }
    (1..=DENOMINATORS)
        .flat_map(|denominator| {
            let ideal = u64::from(tsc_khz) * u64::from(denominator) / u64::from(APIC_KHZ);
            [ideal, ideal + 1].map(|numerator| exact(tsc_khz, numerator, denominator))
        })
        .flatten()
        .find(|ratio| ratio.crystal_khz.abs_diff(APIC_KHZ) < TOLERANCE)
}

/// The ratio of these two, if there is a crystal that makes it exact.
fn exact(tsc_khz: u32, numerator: u64, denominator: u32) -> Option<Ratio> {
    let product = u64::from(tsc_khz) * u64::from(denominator);
    // The least crystal that does not give too little; what it gives too much must round away.
    let crystal = product.checked_add(numerator)?.checked_sub(1)?.checked_div(numerator)?;
    let reached = crystal * numerator;
    if reached >= product + u64::from(denominator) || reached > u64::from(u32::MAX) {
        return None;
    }
    Some(Ratio {
        denominator,
        numerator: u32::try_from(numerator).ok()?,
        crystal_khz: u32::try_from(crystal).ok()?,
    })
}

/// The greatest common divisor; of 0 and `b`, `b`.
fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
