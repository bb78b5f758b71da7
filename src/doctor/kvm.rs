//! `/dev/kvm` and what it offers.

use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DISABLE_QUIRKS2,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MAX_VCPUS, KVM_CAP_NR_VCPUS, KVM_CAP_SYNC_MMU,
    KVM_CAP_TSC_CONTROL, KVM_CAP_TSC_DEADLINE_TIMER, KVM_CAP_X2APIC_API, KVM_CAP_XSAVE2,
};

use super::Check;
use super::probes::{Kvm, Probes};
use super::processor::Processor;
use super::root::Root;
use super::speed::chain;
use crate::config::MAX_CPUS;
use crate::hypervisor::Error;

const DEVICE: &str = "dev/kvm";
const NO_KVM: &str = "not asked: no KVM that can be used";
const NEWER: &str = "use a newer host kernel";

/// The capabilities that are asked for.
pub(super) const ASKED: [u32; 11] = [
    KVM_CAP_NR_VCPUS,
    KVM_CAP_MAX_VCPUS,
    KVM_CAP_TSC_DEADLINE_TIMER,
    KVM_CAP_TSC_CONTROL,
    KVM_CAP_X2APIC_API,
    KVM_CAP_XSAVE2,
    KVM_CAP_SYNC_MMU,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
    KVM_CAP_DIRTY_LOG_RING,
    KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
    KVM_CAP_DISABLE_QUIRKS2,
];

/// What a machine is better off with: any of these capabilities, a name, and what lacking it costs.
const USEFUL: [(&[u32], &str, &str); 8] = [
    (&[KVM_CAP_TSC_DEADLINE_TIMER], "TSC-deadline timer", "guest timers take more exits"),
    (&[KVM_CAP_TSC_CONTROL], "TSC scaling", "snapshots keep their clock only on hosts of one TSC frequency"),
    (&[KVM_CAP_X2APIC_API], "x2APIC ids", "no local APIC ids from 255 on"),
    (&[KVM_CAP_XSAVE2], "XSAVE2", "processor state over 4 KiB, such as AMX, cannot be saved"),
    (&[KVM_CAP_SYNC_MMU], "MMU notifiers", "userfaultfd and swapping do not reach guest memory"),
    (
        &[KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2],
        "manual dirty log",
        "fetching the dirty log stops guests for longer",
    ),
    (
        &[KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL],
        "dirty ring",
        "finding what was written takes time for all memory",
    ),
    (&[KVM_CAP_DISABLE_QUIRKS2], "quirks that can be disabled", "KVM patches hypercalls in guest memory"),
];

pub(super) fn checks(root: &Root, probes: &Probes) -> Vec<Check> {
    let kvm = probes.kvm.as_ref();
    vec![
        device(root, kvm.err()),
        capabilities(kvm.err()),
        extras(kvm.ok()),
        vcpus(kvm.ok()),
        hypercalls(kvm.ok()),
        counter(kvm.ok()),
    ]
}

fn device(root: &Root, error: Option<&Error>) -> Check {
    const NAME: &str = "/dev/kvm";
    let whose = root.owner(DEVICE).map(|owner| {
        let user = root.name_of("etc/passwd", owner.user);
        (owner.mode, user, root.name_of("etc/group", owner.group))
    });
    let whose_text = whose
        .as_ref()
        .map_or_else(String::new, |(mode, user, group)| format!(" (mode {mode:04o}, {user}:{group})"));
    let check = match error {
        // These are about what answers, not about the door.
        None | Some(Error::ApiVersion(_) | Error::Capabilities(_)) => {
            return Check::ok(NAME, format!("opens{whose_text}")).required();
        }
        Some(Error::Missing) => {
            let finding = if root.exists(DEVICE) { "there is no driver behind it" } else { "does not exist" };
            Check::missing(NAME, finding).fix(Processor::of(root).way_to_kvm(root))
        }
        Some(Error::Permission) => {
            let fix = match whose {
                _ if root.is_superuser() => {
                    "root is refused: a container or a security module forbids it; give the \
                     container the device: `--device /dev/kvm`"
                        .to_owned()
                }
                Some((mode, _, group)) if mode & 0o060 == 0o060 && group != "root" => {
                    format!("`sudo usermod -aG {group} $USER`, then log in anew")
                }
                _ => "`sudo setfacl -m u:$USER:rw /dev/kvm`, or a udev rule that gives it to a group"
                    .to_owned(),
            };
            Check::missing(NAME, format!("permission denied{whose_text}")).fix(fix)
        }
        Some(error) => Check::missing(NAME, chain(error)).fix("`dmesg | grep -i kvm` may tell more"),
    };
    check.cost("no machine runs").required()
}

fn capabilities(error: Option<&Error>) -> Check {
    const NAME: &str = "KVM capabilities";
    let lack = |finding: String| Check::missing(NAME, finding).cost("no machine runs").fix(NEWER);
    let check = match error {
        None => Check::ok(NAME, "all that a machine needs"),
        Some(Error::ApiVersion(version)) if *version < 0 => {
            Check::missing(NAME, "what opens at /dev/kvm is not KVM")
                .cost("no machine runs")
                .fix("remove it, and `sudo mknod /dev/kvm c 10 232`")
        }
        Some(Error::ApiVersion(version)) => lack(format!("/dev/kvm speaks API version {version}, not 12")),
        Some(Error::Capabilities(names)) => lack(format!("lacks {names}")),
        Some(_) => Check::unknown(NAME, NO_KVM),
    };
    check.required()
}

fn extras(kvm: Option<&Kvm>) -> Check {
    const NAME: &str = "KVM extras";
    let Some(kvm) = kvm else { return Check::unknown(NAME, NO_KVM) };
    let lacks: Vec<_> =
        USEFUL.iter().filter(|(caps, ..)| caps.iter().all(|cap| kvm.extension(*cap) <= 0)).collect();
    let names = |of: &[&(&[u32], &'static str, &str)]| {
        of.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    if lacks.is_empty() {
        return Check::ok(NAME, names(&USEFUL.iter().collect::<Vec<_>>()));
    }
    let costs: Vec<_> = lacks.iter().map(|(_, _, cost)| *cost).collect();
    // TSC scaling is a thing of the processor, the others of the kernel.
    let fix = match lacks.as_slice() {
        [(caps, ..)] if caps.contains(&KVM_CAP_TSC_CONTROL) => {
            "use a host whose processor and KVM scale the TSC"
        }
        _ => NEWER,
    };
    Check::warn(NAME, format!("{} of {}; no {}", USEFUL.len() - lacks.len(), USEFUL.len(), names(&lacks)))
        .cost(costs.join("; "))
        .fix(fix)
}

fn vcpus(kvm: Option<&Kvm>) -> Check {
    const NAME: &str = "vCPUs";
    let Some(kvm) = kvm else { return Check::unknown(NAME, NO_KVM) };
    // KVM API, KVM_CREATE_VCPU: four where the first is not told, and as many as are recommended
    // where the second is not.
    let advised = Some(kvm.extension(KVM_CAP_NR_VCPUS)).filter(|count| *count > 0).unwrap_or(4);
    let most = Some(kvm.extension(KVM_CAP_MAX_VCPUS)).filter(|count| *count > 0).unwrap_or(advised);
    let own = i32::try_from(MAX_CPUS).unwrap_or(i32::MAX).min(most);
    Check::ok(NAME, format!("up to {own} a machine (KVM allows {most}, advises {advised})"))
}

fn hypercalls(kvm: Option<&Kvm>) -> Check {
    const NAME: &str = "hypercalls";
    let Some(kvm) = kvm else { return Check::unknown(NAME, NO_KVM) };
    let finding = match kvm.hypercalls {
        Some(true) => return Check::ok(NAME, "reach KVM"),
        Some(false) => "do not reach KVM",
        None => "a small machine that made one did not come back",
    };
    Check::warn(NAME, finding)
        .cost("guests with several vCPUs lock and interrupt the slow way")
        .fix("use a host with VT-x or AMD-V (here guests are offered none)")
}

fn counter(kvm: Option<&Kvm>) -> Check {
    const NAME: &str = "time-stamp counter";
    let Some(kvm) = kvm else { return Check::unknown(NAME, NO_KVM) };
    match kvm.tsc {
        Some(true) => Check::ok(NAME, "a guest's can be set"),
        Some(false) => Check::warn(NAME, "a guest's is the host's, whatever it is set to")
            .cost(
                "a guest that is restored sees the time for which it was kept, and is refused after a reboot of \
                 this host (--allow clock)",
            )
            .fix("use a host with VT-x or AMD-V"),
        None => Check::unknown(NAME, "KVM does not tell whether a guest's can be set"),
    }
}

impl Kvm {
    fn extension(&self, cap: u32) -> i32 {
        self.extensions.iter().find(|(asked, _)| *asked == cap).map_or(0, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests;
