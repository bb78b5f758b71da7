//! Where the time of an exit goes, which only Bantam tells; whether the parts make up the round trip; and whether
//! all who count exits count the same.

use anyhow::ensure;

use super::counted::Counted;
use super::{Kind, MEMORY_MIB, Takes, WARM_UP, exits};
use crate::bench::results::{Case, Figure, Unit};
use crate::bench::rounds::{Contest, Sample};
use crate::bench::{BANTAM, Progress, Setup, hold};
use crate::hypervisor::Hypervisor;

const WHOLE: &str = "whole";
const VMM: &str = "vmm";
const ACCOUNTED: &str = "accounted";
/// Of the whole.
const PARTS: [(&str, &str); 3] = [
    ("guest", "the guest's own instructions"),
    ("kvm", "in KVM_RUN but for the guest's instructions"),
    (VMM, "in the VMM"),
];

/// What KVM counts by itself: its name, what of Bantam's is beside it, and the levels at which the guest has it.
const COUNTERS: [(&str, &str, &[u8]); 4] = [
    ("io_exits", "port exits by KVM's own count, for each that Bantam counts", &[3, 0]),
    ("mmio_exits", "MMIO exits by KVM's own count, for each that Bantam counts", &[3, 0]),
    ("halt_exits", "HLT by KVM's own count, for each of the guest's", &[0]),
    ("exits", "all exits by KVM's own count, for each that comes to Bantam", &[3, 0]),
];

pub(super) fn parts(
    setup: &Setup,
    cpl: u8,
    hypervisor: &Hypervisor,
    progress: Progress<'_>,
) -> anyhow::Result<Vec<Case>> {
    let hypercalls = hypervisor.hypercalls_work();
    let kinds: Vec<_> = Kind::at(cpl)
        // Who waits for a device's interrupt does so in the guest: that time has no parts.
        .filter(|kind| kind.word != "interrupt" && (hypercalls || kind.takes != Takes::Hypercalls))
        .collect();
    let figures =
        kinds.iter().flat_map(|kind| of_kind(kind, cpl)).chain(counters(cpl).map(|(_, figure)| figure));
    let mut contest = Contest::new(figures.collect(), WARM_UP, setup.rounds(3, 12));
    for kind in &kinds {
        contest.gap(BANTAM, id(kind, cpl, VMM), "KVM does it alone");
    }
    for (counter, figure) in counters(cpl) {
        contest.gap(BANTAM, figure.id, format!("KVM_GET_STATS_FD shows no {counter} of this KVM's"));
    }
    contest.add(BANTAM, move || once(hypervisor, &kinds, exits(setup), cpl));
    for vmm in setup.vmms.iter().filter(|vmm| vmm.name != BANTAM) {
        contest.lacks(&vmm.name, "it does not count its exits and their time");
    }
    hold(contest, &format!("exits from CPL {cpl}, in parts"), progress)
}

fn id(kind: &Kind, cpl: u8, part: &str) -> String {
    format!("{}/{part}", kind.id(cpl))
}

/// The figures of one kind of exit.
fn of_kind(kind: &Kind, cpl: u8) -> Vec<Figure> {
    let titled = |title: &str| format!("{}, CPL {cpl}: {title}", kind.title);
    let whole = id(kind, cpl, WHOLE);
    let mut figures = vec![Figure::lower(&whole, titled("mean, with statistics"), Unit::Nanoseconds)];
    figures.extend(PARTS.map(|(part, title)| {
        Figure::lower(id(kind, cpl, part), titled(title), Unit::Nanoseconds).part_of(&whole)
    }));
    let accounted = titled("the parts, by the host's clock, of the whole, by the guest's");
    figures.push(Figure::neither(id(kind, cpl, ACCOUNTED), accounted, Unit::Count));
    figures
}

/// KVM's counters, by its names.
fn counters(cpl: u8) -> impl Iterator<Item = (&'static str, Figure)> {
    COUNTERS.iter().filter(move |(_, _, levels)| levels.contains(&cpl)).map(move |(counter, title, _)| {
        let id = format!("exits/kvm-{}-cpl{cpl}", counter.replace('_', "-"));
        (*counter, Figure::neither(id, format!("{title}, CPL {cpl}"), Unit::Count))
    })
}

/// One run of a guest with all kinds.
fn once(hypervisor: &Hypervisor, kinds: &[&Kind], exits: u64, cpl: u8) -> anyhow::Result<Sample> {
    let words: Vec<_> = kinds.iter().map(|kind| kind.word).collect();
    let counted = Counted::run(hypervisor, MEMORY_MIB, exits, &words, cpl)?;
    let mut sample = Sample::new();
    for kind in kinds {
        let parts = counted.parts(kind.word)?;
        let (made, exits) = (parts.made, parts.exits);
        ensure!(
            made == exits || !matches!(kind.takes, Takes::Vmm | Takes::Serial),
            "the guest has made {made} exits by {}, and {exits} were counted",
            kind.word
        );
        let all = [
            (WHOLE, parts.whole),
            ("guest", parts.guest),
            ("kvm", parts.kvm),
            (ACCOUNTED, parts.accounted()),
        ];
        let all = all.into_iter().chain(parts.vmm.map(|vmm| (VMM, vmm)));
        sample.extend(all.map(|(part, value)| (id(kind, cpl, part), value)));
    }
    sample
        .extend(counters(cpl).filter_map(|(counter, figure)| Some((figure.id, counted.agreement(counter)?))));
    Ok(sample)
}
