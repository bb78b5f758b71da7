//! The assembly of the guest, one file a topic, assembled as one piece.

core::arch::global_asm!(
    include_str!("entry.s"),
    include_str!("trap.s"),
    include_str!("ring0.s"),
    include_str!("registers.s"),
    include_str!("trampoline.s"),
    options(raw)
);
