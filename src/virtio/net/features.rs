//! Feature bits (VIRTIO 1.2, section 5.1.3), and what they are to a tap.

/// Checksums of sent frames are left to the device.
pub(super) const CSUM: u64 = 1 << 0;
/// Checksums of received frames are left to the driver.
pub(super) const GUEST_CSUM: u64 = 1 << 1;
/// The driver changes the offloads of received frames as it goes.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
pub(super) const MTU: u64 = 1 << 3;
pub(super) const MAC: u64 = 1 << 5;
pub(super) const GUEST_TSO4: u64 = 1 << 7;
pub(super) const GUEST_TSO6: u64 = 1 << 8;
pub(super) const GUEST_ECN: u64 = 1 << 9;
pub(super) const GUEST_UFO: u64 = 1 << 10;
pub(super) const HOST_TSO4: u64 = 1 << 11;
pub(super) const HOST_TSO6: u64 = 1 << 12;
pub(super) const HOST_ECN: u64 = 1 << 13;
pub(super) const HOST_UFO: u64 = 1 << 14;
/// A received frame may take several chains.
pub(super) const MRG_RXBUF: u64 = 1 << 15;
pub(super) const STATUS: u64 = 1 << 16;
pub(super) const CTRL_VQ: u64 = 1 << 17;
pub(super) const MQ: u64 = 1 << 22;
/// Segmentation of UDP: in Linux since 6.2, in the specification from 1.3 on.
pub(super) const GUEST_USO4: u64 = 1 << 54;
pub(super) const GUEST_USO6: u64 = 1 << 55;
pub(super) const HOST_USO: u64 = 1 << 56;

/// What frames for the guest may have left undone, with what tells the tap so.
const GUEST_OFFLOADS: [(u64, u32); 7] = [
    (GUEST_CSUM, libc::TUN_F_CSUM),
    (GUEST_TSO4, libc::TUN_F_TSO4),
    (GUEST_TSO6, libc::TUN_F_TSO6),
    (GUEST_ECN, libc::TUN_F_TSO_ECN),
    (GUEST_UFO, libc::TUN_F_UFO),
    (GUEST_USO4, libc::TUN_F_USO4),
    (GUEST_USO6, libc::TUN_F_USO6),
];

/// Segmentation of UDP, which a tap does for both kinds of IP or for none.
pub(super) const TAP_USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
/// All that a tap can leave undone.
pub(super) const TAP: u32 =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN | libc::TUN_F_UFO | TAP_USO;

/// The offloads to offer when a tap has these.
pub(super) fn offloads(tap: u32) -> u64 {
    let mut features = 0;
    if tap & libc::TUN_F_CSUM != 0 {
        features |= CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_UFO | CTRL_GUEST_OFFLOADS;
        features |= GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_UFO;
    }
    if tap & TAP_USO == TAP_USO {
        features |= HOST_USO | GUEST_USO4 | GUEST_USO6;
    }
    features
}

/// The offloads for frames to the guest that are in `features`.
pub(super) fn guest_offloads(features: u64) -> u64 {
    GUEST_OFFLOADS.iter().fold(0, |all, (feature, _)| all | features & feature)
}

/// What a tap may leave undone for a driver with these features. All needs the checksum (section
/// 5.1.3.1), ECN a segmentation of TCP, and that of UDP both kinds of IP.
pub(super) fn to_tap(features: u64) -> u32 {
    if features & GUEST_CSUM == 0 {
        return 0;
    }
    let mut tap = GUEST_OFFLOADS
        .iter()
        .filter(|(feature, _)| features & feature != 0)
        .fold(0, |all, (_, flag)| all | flag);
    if tap & TAP_USO != TAP_USO {
        tap &= !TAP_USO;
    }
    if tap & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
        tap &= !libc::TUN_F_TSO_ECN;
    }
    tap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_leaves_undone_what_the_driver_takes() {
        assert_eq!(to_tap(0), 0);
        assert_eq!(to_tap(offloads(TAP)), TAP);
        assert_eq!(to_tap(offloads(TAP & !TAP_USO)), TAP & !TAP_USO);
        // Nothing without the checksum, one kind of UDP segmentation alone, ECN alone.
        assert_eq!(to_tap(GUEST_TSO4 | GUEST_UFO), 0);
        assert_eq!(to_tap(GUEST_CSUM | GUEST_USO4 | GUEST_ECN), libc::TUN_F_CSUM);
        assert_eq!(
            to_tap(GUEST_CSUM | GUEST_TSO6 | GUEST_ECN),
            libc::TUN_F_CSUM | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN
        );
        assert_eq!(offloads(0), 0);
        assert_eq!(guest_offloads(offloads(TAP)) & (CSUM | HOST_TSO4 | CTRL_GUEST_OFFLOADS), 0);
    }
}
