//! What the benchmarks measure with: numbers, processes, and the host they ran on.

#![allow(dead_code, reason = "no benchmark uses all of it")]

pub(crate) mod host;
pub(crate) mod results;
pub(crate) mod stats;

/// Whether there is KVM; says why not.
pub(crate) fn have_kvm() -> bool {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &opened {
        println!("skipped: /dev/kvm: {error}");
    }
    opened.is_ok()
}
