//! A vCPU's failure in words that help.

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter};
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};

use crate::hypervisor::{Failure, FailureKind};

/// Prints a [`Failure`]: what happened, where, the instruction, the registers, what to do.
pub struct FailureReport<'a>(pub &'a Failure);

impl FailureReport<'_> {
    /// Bits of an address in the mode that the vCPU was in.
    fn bitness(&self) -> u32 {
        let sregs = &self.0.sregs;
        match (sregs.cs.l, sregs.cs.db) {
            (1, _) => 64,
            (_, 1) => 32,
            _ => 16,
        }
    }

    fn mode(&self) -> &'static str {
        match (self.bitness(), self.0.sregs.cr0 & 1) {
            (64, _) => "64-bit mode",
            (_, 0) => "real mode",
            (32, _) => "32-bit protected mode",
            _ => "16-bit protected mode",
        }
    }

    /// The instruction as an assembler would write it.
    fn disassembly(&self) -> Option<String> {
        let mut decoder =
            Decoder::with_ip(self.bitness(), &self.0.instruction, self.0.regs.rip, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        let mut text = String::new();
        IntelFormatter::new().format(&instruction, &mut text);
        Some(text)
    }

    fn what(&self) -> String {
        match self.0.kind {
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_EMULATION } => {
                "KVM could not emulate an instruction (internal error, suberror 1)".to_owned()
            }
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_SIMUL_EX } => {
                "KVM met two exceptions at once (internal error, suberror 2)".to_owned()
            }
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_DELIVERY_EV } => {
                "KVM could not deliver an event (internal error, suberror 3)".to_owned()
            }
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON } => {
                "the processor left the guest for a reason that KVM does not know (internal error, suberror 4)"
                    .to_owned()
            }
            FailureKind::Internal { suberror } => format!("KVM reports internal error, suberror {suberror}"),
            FailureKind::Entry { reason } => {
                format!("the processor refused to enter the guest (hardware reason {reason:#x})")
            }
            FailureKind::Memory { address } => {
                format!("the host could not provide the guest's memory at {address:#x}")
            }
            FailureKind::Unexpected { reason } => format!("KVM exit reason {reason}, which was never asked for"),
            FailureKind::Run { errno } => {
                format!("KVM_RUN failed: {}", std::io::Error::from_raw_os_error(errno))
            }
        }
    }

    fn remedy(&self) -> &'static str {
        match self.0.kind {
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_EMULATION }
                if self.0.instruction.is_empty() =>
            {
                "there is no memory at RIP: the guest jumped into a device's address or past its memory"
            }
            FailureKind::Internal { suberror: KVM_INTERNAL_ERROR_EMULATION } => {
                "on a host whose KVM interprets guest kernel code, only kernels built for it run; \
                 `bantam doctor` tells whether this is one"
            }
            FailureKind::Memory { .. } => "the host may be out of memory, or the memory has failed",
            FailureKind::Internal { .. } | FailureKind::Entry { .. } => {
                "the guest's state is one that this processor or KVM does not support; the host's kernel \
                 log may say more"
            }
            FailureKind::Unexpected { .. } | FailureKind::Run { .. } => "the host's kernel log may say more",
        }
    }
}

impl fmt::Display for FailureReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { vcpu, instruction, regs, sregs, .. } = self.0;
        writeln!(f, "vCPU {vcpu} cannot go on: {}", self.what())?;
        writeln!(f, "  at    RIP {:#018x}, CPL {}, {}", regs.rip, self.0.cpl(), self.mode())?;
        write!(f, "  code ")?;
        for byte in instruction {
            write!(f, " {byte:02x}")?;
        }
        match self.disassembly() {
            Some(text) => writeln!(f, "  {text}")?,
            None if instruction.is_empty() => writeln!(f, " (no memory there)")?,
            None => writeln!(f, "  (no valid instruction)")?,
        }
        let rows: [[(&str, u64); 4]; 6] = [
            [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx)],
            [("rsi", regs.rsi), ("rdi", regs.rdi), ("rsp", regs.rsp), ("rbp", regs.rbp)],
            [("r8", regs.r8), ("r9", regs.r9), ("r10", regs.r10), ("r11", regs.r11)],
            [("r12", regs.r12), ("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15)],
            [("cr0", sregs.cr0), ("cr2", sregs.cr2), ("cr3", sregs.cr3), ("cr4", sregs.cr4)],
            [
                ("efer", sregs.efer),
                ("flags", regs.rflags),
                ("cs", sregs.cs.selector.into()),
                ("ss", sregs.ss.selector.into()),
            ],
        ];
        for row in rows {
            write!(f, " ")?;
            for (name, value) in row {
                write!(f, " {name:>5} {value:016x}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  hint  {}", self.remedy())
    }
}
