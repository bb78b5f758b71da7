//! A guest with one job, in Bantam or in QEMU, and what it says of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::support::process;
use crate::support::program;

const MEMORY: &str = "256M";

/// What a job has said: the words of its last line.
pub(crate) struct Said(BTreeMap<String, String>);

impl Said {
    /// The result of the guest's job: the last line `kind op=.. key=value ..` of its output.
    fn parse(output: &str, kind: &str) -> Option<Self> {
        let line = output.lines().rfind(|line| line.starts_with(kind) && line.contains(" ns="))?;
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        Some(Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    /// A number that the job tells.
    pub(crate) fn number(&self, key: &str) -> anyhow::Result<f64> {
        let word = self.0.get(key).with_context(|| format!("the guest does not say {key}="))?;
        word.parse().with_context(|| format!("{key}={word}"))
    }

    /// Something a second, for what the job took.
    pub(crate) fn a_second(&self, key: &str) -> anyhow::Result<f64> {
        Ok(self.number(key)? / self.seconds()?)
    }

    pub(crate) fn seconds(&self) -> anyhow::Result<f64> {
        Ok(self.number("ns")? / 1e9)
    }
}

/// Runs a machine with further arguments and takes the result of its job, which must have gone well.
fn run(program: &Path, arguments: &[&str], job: &str, patience: Duration) -> anyhow::Result<Said> {
    let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
    let output = process::output(&mut process::command(program, &arguments), patience)?;
    let kind = job.split('=').next().unwrap_or_default();
    let said = Said::parse(&output, kind)
        .with_context(|| format!("{} {job}: the guest says {output:?}", program.display()))?;
    for key in ["errors", "wrong"].into_iter().filter(|key| said.0.contains_key(*key)) {
        ensure!(said.number(key)? == 0.0, "{} {job}: the guest says {output:?}", program.display());
    }
    Ok(said)
}

/// Runs a job in Bantam.
pub(crate) fn bantam(
    program: &Path,
    device: [&str; 2],
    job: &str,
    patience: Duration,
) -> anyhow::Result<Said> {
    let words = format!("{job} quiet");
    let arguments = [["run", "--memory"], [MEMORY, device[0]], [device[1], "--cmdline"]];
    let arguments: Vec<_> = arguments.into_iter().flatten().chain([words.as_str()]).collect();
    run(program, &arguments, job, patience)
}

/// Runs a job in QEMU with the machine that is nearest, and as little else as it lets one leave out.
pub(crate) fn qemu(program: &Path, device: &[&str], job: &str, patience: Duration) -> anyhow::Result<Said> {
    let words = format!("{job} quiet");
    let arguments = [
        ["-machine", "microvm,accel=kvm,pit=off,pic=off,rtc=on,isa-serial=on,x-option-roms=off"],
        ["-cpu", "host,migratable=off,pmu=off,-kvm-pv-unhalt,-kvm-pv-ipi,-kvm-pv-sched-yield"],
        ["-m", MEMORY],
        ["-kernel", program::GUEST],
        ["-append", &words],
        ["-serial", "stdio"],
        ["-display", "none"],
        ["-global", "virtio-mmio.force-legacy=false"],
    ];
    let more = ["-nodefaults", "-no-user-config", "-no-reboot"];
    let arguments: Vec<_> = arguments.iter().flatten().chain(&more).chain(device).copied().collect();
    run(program, &arguments, job, patience)
}
