//! The machine that figures come from, and whether it had other things to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::doctor::Mips;

/// Steal time above this part of all processor time disturbs what is measured.
const MOST_STOLEN: f64 = 0.01;
/// Processor time of others above this part of a core disturbs it too.
const MOST_OF_OTHERS: f64 = 0.25;

/// What a machine is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// KVM's modules for a processor vendor: `kvm_intel`, `kvm_amd`, or another way to make guests.
    pub kvm: Vec<String>,
    /// How the guest's kernel code runs: `native`, or `interpreted` with the speed that was measured.
    pub guest_code: String,
    /// Whether this host is a guest itself, and of what, if the processor tells.
    pub nested: Option<String>,
    /// The frequency governor of the first processor.
    pub governor: Option<String>,
    /// `sysfs`'s word for each processor vulnerability.
    pub mitigations: BTreeMap<String, String>,
    /// Ticks of the time-stamp counter a second, against the monotonic clock.
    pub tsc_hz: Option<f64>,
}

impl Host {
    /// This host. What it does not tell is empty.
    #[must_use]
    pub fn look() -> Self {
        Self {
            cpu: cpu().unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: total_memory().unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease"),
            kvm: kvm_modules(),
            guest_code: guest_code(),
            nested: nested(),
            governor: some(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            mitigations: mitigations(),
            tsc_hz: super::clock::tsc_hz(),
        }
    }

    /// Whether figures of the two can be compared at all.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let key = |host: &Self| (host.cpu.clone(), host.cores, host.kvm.clone());
        key(self) == key(other)
    }
}

/// What else went on while something was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quiet {
    /// Runnable threads in the last minute before the run.
    pub load_before: f64,
    /// And in its last minute, its own among them.
    pub load_after: f64,
    /// The part of all processor time that this machine's own host took away.
    pub stolen: f64,
    /// Processor time of other processes, in cores.
    pub others: f64,
    /// Why the figures are to be taken with care; none if the machine was quiet.
    pub disturbed: Vec<String>,
}

/// Watches the machine while something is measured.
#[derive(Debug)]
pub struct Watch {
    began: Instant,
    load: f64,
    before: Ticks,
    own: f64,
}

impl Watch {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self { began: Instant::now(), load: load(), before: Ticks::read(), own: own_seconds() }
    }

    /// What was seen since.
    #[must_use]
    pub fn finish(self) -> Quiet {
        let (now, seconds) = (Ticks::read(), self.began.elapsed().as_secs_f64().max(1e-3));
        let all = (now.all - self.before.all).max(1.0);
        let stolen = (now.stolen - self.before.stolen) / all;
        let busy = (now.busy - self.before.busy) / Ticks::a_second();
        let others = ((busy - (own_seconds() - self.own)) / seconds).max(0.0);
        let mut disturbed = Vec::new();
        if stolen > MOST_STOLEN {
            disturbed.push(format!(
                "{:.1} % of the processor time was stolen by this machine's host",
                stolen * 100.0
            ));
        }
        if others > MOST_OF_OTHERS {
            disturbed.push(format!("other processes used {others:.2} cores"));
        }
        Quiet { load_before: self.load, load_after: load(), stolen, others, disturbed }
    }
}

/// Processor time of all processors together, in ticks of a clock.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    all: f64,
    busy: f64,
    stolen: f64,
}

impl Ticks {
    /// The first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal, ...
    fn read() -> Self {
        let stat = read("/proc/stat");
        let numbers: Vec<f64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|word| word.parse().ok())
            .collect();
        let [user, nice, system, idle, waiting, hard, soft, stolen] = numbers[..] else {
            return Self::default();
        };
        let busy = user + nice + system + hard + soft;
        Self { all: busy + idle + waiting + stolen, busy, stolen }
    }

    fn a_second() -> f64 {
        rustix::param::clock_ticks_per_second() as f64
    }
}

/// Processor time of this process and of its children that have ended, in seconds.
fn own_seconds() -> f64 {
    // The name, in parentheses, may hold anything; of the numbers after it the 12th to 15th are the ticks in user
    // space and in the kernel, and those of children (proc(5)).
    let stat = read("/proc/self/stat");
    let numbers = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = numbers.split_whitespace().skip(11).take(4).filter_map(|word| word.parse::<f64>().ok());
    ticks.sum::<f64>() / Ticks::a_second()
}

/// The commit of the checkout that a program was built in, where it still lies in its `target` folder.
#[must_use]
pub fn commit(program: &Path) -> Option<String> {
    let checkout = program.ancestors().find(|folder| folder.join(".git").exists())?;
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(checkout).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { format!("{commit}, changed") } else { commit })
}

fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The value of a line `name : value`.
fn value(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn cpu() -> Option<String> {
    value(&read("/proc/cpuinfo"), "model name")
}

fn total_memory() -> Option<u64> {
    let kib = value(&read("/proc/meminfo"), "MemTotal")?;
    kib.split(' ').next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn kvm_modules() -> Vec<String> {
    let names = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let mut modules: Vec<_> = names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("kvm_"))
        .collect();
    modules.sort();
    modules
}

fn guest_code() -> String {
    match crate::doctor::examine().guest_mips {
        Some(Mips { cpl0, .. }) if cpl0 < INTERPRETED_MIPS => {
            format!("interpreted, {cpl0:.2} million instructions a second")
        }
        Some(_) => "native".to_owned(),
        None => String::new(),
    }
}

fn nested() -> Option<String> {
    let flags = value(&read("/proc/cpuinfo"), "flags")?;
    let guest = flags.split(' ').any(|flag| flag == "hypervisor");
    let by = || some(read("/sys/class/dmi/id/sys_vendor")).unwrap_or_else(|| "unknown".to_owned());
    guest.then(by)
}

fn mitigations() -> BTreeMap<String, String> {
    let files = fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    files.map(|file| (file.file_name().to_string_lossy().into_owned(), read(file.path()))).collect()
}

/// A guest's kernel code that runs slower than this is interpreted.
const INTERPRETED_MIPS: f64 = 50.0;
