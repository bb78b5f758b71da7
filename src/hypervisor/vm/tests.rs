use super::*;
use crate::config::Size;
use crate::memory;
use crate::memory::layout::{HOLE_END, HOLE_START};

#[test]
fn memory_of_any_size_is_slots_that_kvm_takes() {
    // Mapped only: nobody touches it.
    let memory = memory::allocate(Size::new(9 << 40)).unwrap();
    let high = (9 << 40) - HOLE_START;
    let slot_max = SLOT_MAX as u64;
    let got: Vec<_> = slots(&memory)
        .map(|slot| {
            assert_eq!(slot.kvm.memory_size, slot.len as u64);
            let region =
                memory.iter().find(|region| std::ptr::eq(MmapRegion::bitmap(region), slot.log)).unwrap();
            assert_eq!(slot.kvm.guest_phys_addr, region.start_addr().0 + slot.offset as u64);
            assert_eq!(slot.kvm.userspace_addr, region.as_ptr() as u64 + slot.offset as u64);
            (slot.kvm.slot, slot.kvm.guest_phys_addr, slot.kvm.memory_size)
        })
        .collect();
    let expected = [
        (0, 0, HOLE_START),
        (1, HOLE_END, slot_max),
        (2, HOLE_END + slot_max, slot_max),
        (3, HOLE_END + 2 * slot_max, high - 2 * slot_max),
    ];
    assert_eq!(got, expected);
}
