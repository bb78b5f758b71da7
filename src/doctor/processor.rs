//! The processor, what is between it and this host, and KVM's module for it.

use super::probes::Probes;
use super::root::Root;
use super::{Check, Status};

const CPUINFO: &str = "proc/cpuinfo";
const NESTED_FIX: &str = "turn on nested virtualization in the hypervisor of this host";
const FIRMWARE_FIX: &str = "enable VT-x (Intel) or SVM (AMD) in the firmware";

/// How hypervisors sign in CPUID, and their names.
const SIGNATURES: [(&[u8; 12], &str); 10] = [
    (b"KVMKVMKVM\0\0\0", "KVM"),
    (b"Linux KVM Hv", "KVM"),
    (b"Microsoft Hv", "Hyper-V"),
    (b"VMwareVMware", "VMware"),
    (b"XenVMMXenVMM", "Xen"),
    (b"TCGTCGTCGTCG", "QEMU without KVM"),
    (b"VBoxVBoxVBox", "VirtualBox"),
    (b"bhyve bhyve ", "bhyve"),
    (b"ACRNACRNACRN", "ACRN"),
    (b" lrpepyh  vr", "Parallels"),
];

pub(super) fn checks(root: &Root, probes: &Probes) -> Vec<Check> {
    let processor = Processor::of(root);
    vec![
        kernel(root),
        virtualization(root, &processor),
        host(root, &processor, probes.hypervisor_signature),
        module(root, &processor, probes.kvm.is_ok()),
        nested_paging(root, &processor),
        nested_machines(root),
        mitigations(root),
    ]
}

/// What `/proc/cpuinfo` says.
pub(super) struct Processor {
    /// `VT-x` or `AMD-V`, where the processor offers it to this host.
    extension: Option<&'static str>,
    amd: bool,
    guest: bool,
    known: bool,
}

impl Processor {
    pub(super) fn of(root: &Root) -> Self {
        let flags = root.field(CPUINFO, "flags").unwrap_or_default();
        let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
        let extension = match () {
            () if has("vmx") => Some("VT-x"),
            () if has("svm") => Some("AMD-V"),
            () => None,
        };
        let vendor = root.field(CPUINFO, "vendor_id").unwrap_or_default();
        let amd = extension.map_or(vendor != "GenuineIntel", |extension| extension == "AMD-V");
        Self { extension, amd, guest: has("hypervisor"), known: !flags.is_empty() }
    }

    /// The module that would drive this processor.
    fn module(&self) -> &'static str {
        if self.amd { "kvm_amd" } else { "kvm_intel" }
    }

    /// What to do where there is no `/dev/kvm`.
    pub(super) fn way_to_kvm(&self, root: &Root) -> String {
        // The driver has registered, and its device is not to be seen: a container's /dev.
        let drivers = root.read("proc/misc").unwrap_or_default();
        if drivers.lines().any(|line| line.split_whitespace().nth(1) == Some("kvm")) {
            return "give the container the device: `--device /dev/kvm`".to_owned();
        }
        if self.known && self.extension.is_none() {
            return self.way_to_extension().to_owned();
        }
        format!("`sudo modprobe {}`; if it refuses, {FIRMWARE_FIX}", self.module())
    }

    fn way_to_extension(&self) -> &'static str {
        if self.guest { NESTED_FIX } else { FIRMWARE_FIX }
    }
}

fn kernel(root: &Root) -> Check {
    const NAME: &str = "kernel";
    match root.read("proc/sys/kernel/osrelease") {
        Some(release) => Check::ok(NAME, format!("Linux {release}")),
        None => Check::unknown(NAME, "/proc/sys/kernel/osrelease cannot be read"),
    }
}

fn virtualization(root: &Root, processor: &Processor) -> Check {
    const NAME: &str = "VT-x or AMD-V";
    let model = root.field(CPUINFO, "model name").unwrap_or_else(|| "unnamed processor".to_owned());
    if let Some(extension) = processor.extension {
        return Check::ok(NAME, format!("{extension}, {model}"));
    }
    if !processor.known {
        return Check::unknown(NAME, "/proc/cpuinfo tells no processor flags");
    }
    Check::missing(NAME, format!("none on {model}"))
        .cost("kvm_intel and kvm_amd cannot run here")
        .fix(processor.way_to_extension())
}

fn host(root: &Root, processor: &Processor, signature: Option<[u8; 12]>) -> Check {
    const NAME: &str = "host";
    if !processor.known && signature.is_none() {
        return Check::unknown(NAME, "/proc/cpuinfo tells no processor flags");
    }
    let board: Vec<_> = ["sys/class/dmi/id/sys_vendor", "sys/class/dmi/id/product_name"]
        .into_iter()
        .filter_map(|path| root.read(path))
        .filter(|text| !text.is_empty())
        .collect();
    let board = if board.is_empty() { String::new() } else { format!(" ({})", board.join(", ")) };
    if !processor.guest && signature.is_none() {
        return Check::ok(NAME, format!("real hardware{board}"));
    }
    let hypervisor = signature.map_or_else(|| "an unnamed hypervisor".to_owned(), signed);
    Check::warn(NAME, format!("itself a guest of {hypervisor}{board}"))
        .cost("exits may pass through the outer hypervisor: slower, and uneven")
        .fix("use real hardware where latency matters, and for benchmarks")
}

fn signed(signature: [u8; 12]) -> String {
    match SIGNATURES.iter().find(|(letters, _)| **letters == signature) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("a hypervisor that signs \"{}\"", signature.escape_ascii()),
    }
}

/// KVM's vendor modules that are loaded.
fn modules(root: &Root) -> Vec<String> {
    root.list("sys/module").into_iter().filter(|name| name.starts_with("kvm_")).collect()
}

fn module(root: &Root, processor: &Processor, kvm_opens: bool) -> Check {
    const NAME: &str = "KVM module";
    let modules = modules(root);
    if let Some(own) = modules.iter().find(|name| ["kvm_intel", "kvm_amd"].contains(&name.as_str())) {
        return Check::ok(NAME, own);
    }
    if !modules.is_empty() {
        let check = Check::warn(NAME, format!("{}: neither kvm_intel nor kvm_amd", modules.join(", ")))
            .cost("guests run by means other than VT-x or AMD-V: see guest speed");
        return match processor.extension {
            Some(_) => check.fix(format!("`sudo modprobe {}`", processor.module())),
            None => check,
        };
    }
    if kvm_opens {
        return Check::unknown(NAME, "built into the kernel, or hidden: /sys/module names none");
    }
    Check::missing(NAME, "none loaded").cost("there is no KVM").fix(processor.way_to_kvm(root))
}

fn nested_paging(root: &Root, processor: &Processor) -> Check {
    const NAME: &str = "nested paging";
    let ept = root.switch("sys/module/kvm_intel/parameters/ept");
    let npt = root.switch("sys/module/kvm_amd/parameters/npt");
    let unrestricted = root.switch("sys/module/kvm_intel/parameters/unrestricted_guest");
    let off = |which: &str, module: &str| {
        Check::warn(NAME, format!("{which} is off"))
            .cost("KVM shadows guest page tables: page faults and process switches exit")
            .fix(format!(
                "reload {module} without a parameter that turns {which} off, or use a newer processor"
            ))
    };
    match (ept, npt) {
        (Some(true), _) if unrestricted == Some(false) => Check::warn(NAME, "EPT, but no unrestricted guest")
            .cost("KVM interprets a guest's real-mode code, such as the start of further vCPUs")
            .fix("reload kvm_intel without unrestricted_guest=0, or use a newer processor"),
        (Some(true), _) => Check::ok(NAME, "EPT"),
        (_, Some(true)) => Check::ok(NAME, "NPT"),
        (Some(false), _) => off("EPT", "kvm_intel"),
        (_, Some(false)) => off("NPT", "kvm_amd"),
        (None, None) if processor.known && processor.extension.is_none() => {
            Check::missing(NAME, "none: EPT is part of VT-x, NPT of AMD-V")
                .cost("KVM shadows guest page tables in software: slow page faults")
                .fix(processor.way_to_extension())
        }
        (None, None) => Check::unknown(NAME, "no KVM module tells of EPT or NPT"),
    }
}

/// Nothing of Bantam's needs it, so that it is off is no remark.
fn nested_machines(root: &Root) -> Check {
    const NAME: &str = "KVM in guests";
    let of = |module: &str| {
        Some((root.switch(&format!("sys/module/{module}/parameters/nested"))?, module.to_owned()))
    };
    match of("kvm_intel").or_else(|| of("kvm_amd")) {
        Some((true, _)) => Check::ok(NAME, "possible: nested is on"),
        Some((false, module)) => Check::ok(NAME, format!("not possible: nested is off in {module}"))
            .cost("guests cannot run virtual machines of their own")
            .fix(format!("load the module anew: `sudo modprobe {module} nested=1`")),
        None if modules(root).is_empty() => Check::unknown(NAME, "no KVM module tells"),
        None => Check::ok(NAME, "not possible with this KVM module")
            .cost("guests cannot run virtual machines of their own"),
    }
}

fn mitigations(root: &Root) -> Check {
    const NAME: &str = "CPU flaws";
    const FOLDER: &str = "sys/devices/system/cpu/vulnerabilities";
    let flaws = root.list(FOLDER);
    if flaws.is_empty() {
        return Check::unknown(NAME, format!("/{FOLDER} cannot be read"));
    }
    let open: Vec<_> = flaws
        .iter()
        .filter(|flaw| {
            root.read(&format!("{FOLDER}/{flaw}"))
                .is_some_and(|text| text.to_ascii_lowercase().contains("vulnerable"))
        })
        .map(String::as_str)
        .collect();
    if open.is_empty() {
        return Check::ok(NAME, "the kernel knows of none without a mitigation");
    }
    Check::new(NAME, Status::Warn, format!("not wholly mitigated: {}", open.join(", ")))
        .cost("a hostile guest may read memory of its host or of other guests")
        .fix("update microcode and kernel; `lscpu | grep -i vulnerable` tells more")
}

#[cfg(test)]
mod tests;
