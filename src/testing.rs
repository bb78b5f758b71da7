//! What tests of several modules share.

use std::io::Write;

use crate::hypervisor::Hypervisor;

/// Says why a test is skipped, past the test harness, which shows only a failed test's output.
pub(crate) fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("\n{}: skipped: {reason}\n", thread.name().unwrap_or("test"));
    // In one piece, among the harness's own lines.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The host's KVM; prints why a test is skipped where there is none.
pub(crate) fn hypervisor() -> Option<Hypervisor> {
    match Hypervisor::open() {
        Ok(hypervisor) => Some(hypervisor),
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}
