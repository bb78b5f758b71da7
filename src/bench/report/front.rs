//! What comes before and after the figures: what was measured, on what, how well, and what could not be.

use super::super::results::{Better, Outcome, Results, Unit};
use super::super::{BANTAM, FLOOR, REFERENCES};
use super::text::{advantage, escape, show};
use super::{Page, Plot, to_reference};

/// What a group measures.
pub(super) fn about(group: &str) -> &'static str {
    match group {
        "start" => {
            "From the start of the process to the guest’s first byte, to its end, and until all is gone."
        }
        "exits" => "Round trips from the guest to its VMM and back, by kind.",
        "memory" => "What a VMM takes of the host’s memory beside its guest’s.",
        "restore" => "From opening a snapshot to the guest’s first instruction.",
        "fork" => "Many copies of one snapshot.",
        "block" => "Reads and writes of a disk.",
        "net" => "Frames to and from a tap.",
        "vsock" => "Streams between guest and host.",
        "scale" => "Machines a second, and how many fit.",
        "linux" => "From exec to a marker on a Linux’s console.",
        _ => "",
    }
}

pub(super) fn title(page: &Page<'_>) -> String {
    let about = page.runs.first().map(|run| format!(", {}, {}", run.began, run.host.cpu));
    format!("Bantam bench{}", about.unwrap_or_default())
}

/// The name of the page, whether to trust it, and a figure of each group.
pub(super) fn header(page: &Page<'_>) -> String {
    let Some(run) = page.runs.first() else {
        return "<header class=\"top\"><h1>Bantam bench</h1><p>No results.</p></header>\n".to_owned();
    };
    let measured = run
        .vmms
        .iter()
        .filter(|vmm| vmm.name != FLOOR)
        .map(|vmm| format!("<bdi>{}</bdi>", escape(&vmm.name)));
    let tiles: String = page.groups().into_iter().filter_map(|group| tile(page, group)).collect();
    let tiles = if tiles.is_empty() { tiles } else { format!("<ul class=\"tiles\">\n{tiles}</ul>\n") };
    format!(
        "<header class=\"top\">\n<p class=\"kicker\">Bantam bench</p>\n<h1>{}</h1>\n<p class=\"lead\">{}, {} · {} run of {}, {} · Linux {}</p>\n{}{}{tiles}</header>\n",
        measured.collect::<Vec<_>>().join(", "),
        escape(&run.host.cpu),
        cores(run.host.cores),
        escape(&run.effort),
        escape(&run.began),
        show(run.took_s * 1e9, Unit::Nanoseconds),
        escape(&run.host.kernel),
        flags(run),
        runs(page),
    )
}

/// The runs by their letters, where there are several.
fn runs(page: &Page<'_>) -> String {
    if page.runs.len() < 2 {
        return String::new();
    }
    let line = |(index, run): (usize, &Results)| {
        let quiet = run.quiet.disturbed.is_empty();
        let (class, word) = if quiet { ("better", "✓ quiet") } else { ("worse", "⚠ not quiet") };
        let (badge, began, cpu) = (page.badge(index), escape(&run.began), escape(&run.host.cpu));
        format!(
            "<li>{badge} <a href=\"#machine\">{began}</a>, {cpu}, <span class=\"{class}\">{word}</span></li>\n"
        )
    };
    format!("<ul class=\"runs\">\n{}</ul>\n", page.runs.iter().enumerate().map(line).collect::<String>())
}

fn cores(count: usize) -> String {
    if count == 1 { "one core".to_owned() } else { format!("{count} cores") }
}

/// What to know before looking at a run's figures.
fn flags(run: &Results) -> String {
    let mut flags = if run.quiet.disturbed.is_empty() {
        "<p class=\"flag quiet\"><b>✓ Quiet.</b> Nothing else of note went on while this was measured.</p>\n"
            .to_owned()
    } else {
        let why: Vec<_> = run.quiet.disturbed.iter().map(|why| escape(why)).collect();
        format!(
            "<p class=\"flag noisy\"><b>⚠ Not quiet:</b> {}. Ratios count for more than times.</p>\n",
            why.join("; ")
        )
    };
    if run.host.guest_code.starts_with("interpreted") {
        flags += &format!(
            "<p class=\"flag\"><b>Guest kernel code is interpreted here</b> ({}): with VT-x or AMD-V, times are others.</p>\n",
            escape(&run.host.guest_code)
        );
    }
    flags
}

/// The first figure of a group that Bantam has; of a curve, its end.
fn tile(page: &Page<'_>, group: &str) -> Option<String> {
    let is_there = |plot: &&Plot<'_>| plot.figure.group() == group && plot.measured(0, BANTAM).is_some();
    let first = page.plots.iter().find(is_there)?;
    let end = page.curve(first).into_iter().rfind(is_there);
    let plot = end.filter(|_| first.figure.point.is_some()).unwrap_or(first);
    let measured = plot.measured(0, BANTAM)?;
    let reference = to_reference(measured).map(|ratio| format!("<li>{ratio}</li>"));
    let peers = page.vmms.iter().filter(|vmm| **vmm != BANTAM && !REFERENCES.contains(*vmm));
    let peers = peers.filter_map(|peer| {
        Some(format!("<li>{} than <bdi>{}</bdi></li>", against(plot, peer)?, escape(peer)))
    });
    Some(format!(
        "<li><a href=\"#{}\"><span class=\"kicker\">{}</span><b>{}</b><span>{}</span></a><ul>{}</ul></li>\n",
        page.home(plot),
        escape(group),
        show(measured.summary.p50, plot.figure.unit),
        escape(&plot.figure.title),
        reference.into_iter().chain(peers).collect::<String>()
    ))
}

/// How Bantam compares with a peer, in words.
fn against(plot: &Plot<'_>, peer: &str) -> Option<String> {
    let ratio = match plot.figure.better {
        Better::Lower | Better::Neither => plot.measured(0, peer)?.ratio_to(BANTAM)?,
        Better::Higher => plot.measured(0, BANTAM)?.ratio_to(peer)?,
    };
    Some(advantage(ratio))
}

pub(super) fn contents(sections: &[(String, String)]) -> String {
    let links =
        sections.iter().map(|(id, title)| format!("<li><a href=\"#{id}\">{}</a></li>\n", escape(title)));
    format!("<nav aria-label=\"Contents\"><ol>\n{}</ol></nav>\n", links.collect::<String>())
}

/// The machine of each run, and who took part.
pub(super) fn machines(page: &Page<'_>) -> Option<String> {
    if page.runs.is_empty() {
        return None;
    }
    let runs: String = page.runs.iter().enumerate().map(|(index, run)| machine(page, index, run)).collect();
    Some(format!(
        "<section id=\"machine\" aria-labelledby=\"machine-title\">\n<h2 id=\"machine-title\">Machine and runs</h2>\n\
         <p class=\"lead\">What a figure is to be taken with.</p>\n<div class=\"cards\">\n{runs}</div>\n</section>\n"
    ))
}

fn machine(page: &Page<'_>, index: usize, run: &Results) -> String {
    let (host, quiet) = (&run.host, &run.quiet);
    let mut list = String::new();
    let mut tell = |name: &str, value: &str| {
        if !value.is_empty() {
            list += &format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escape(value));
        }
    };
    tell("Processor", &host.cpu);
    tell("Logical processors", &host.cores.to_string());
    #[allow(clippy::cast_precision_loss, reason = "shown to three digits")]
    tell("Memory", &show(host.memory as f64, Unit::Bytes));
    tell("Kernel", &format!("Linux {}", host.kernel));
    tell("KVM", &host.kvm.join(", "));
    tell("Guest kernel code", &host.guest_code);
    tell("Itself a guest of", host.nested.as_deref().unwrap_or_default());
    tell("Frequency governor", host.governor.as_deref().unwrap_or_default());
    tell("Time-stamp counter", &host.tsc_hz.map_or_else(String::new, |hz| format!("{:.3} MHz", hz / 1e6)));
    tell("Load before and after", &format!("{:.2}, {:.2}", quiet.load_before, quiet.load_after));
    tell("Stolen by its host", &format!("{:.1} %", quiet.stolen * 100.0));
    tell("Used by others", &format!("{:.2} cores", quiet.others));
    tell(
        "Measured by",
        &format!(
            "Bantam {}{}",
            run.bantam,
            run.commit.iter().map(|commit| format!(", commit {commit}")).collect::<String>()
        ),
    );
    let mitigations: String = host
        .mitigations
        .iter()
        .map(|(name, state)| format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(state)))
        .collect();
    let mitigations = if mitigations.is_empty() {
        String::new()
    } else {
        format!("<details><summary>Processor vulnerabilities</summary><dl>\n{mitigations}</dl></details>\n")
    };
    let which = if index == 0 { "newest, " } else { "" };
    let title =
        if page.runs.len() > 1 { format!("Run {}: {which}", page.letter(index)) } else { String::new() };
    format!(
        "<article class=\"card\"><header><h3>{title}{began}</h3><p class=\"note\">{effort}, {took}</p></header>\n{flags}<dl>\n{list}</dl>\n{vmms}{mitigations}</article>\n",
        began = escape(&run.began),
        effort = escape(&run.effort),
        took = show(run.took_s * 1e9, Unit::Nanoseconds),
        flags = if index > 0 { flags(run) } else { String::new() },
        vmms = contenders(page, run),
    )
}

fn contenders(page: &Page<'_>, run: &Results) -> String {
    let rows = run.vmms.iter().map(|vmm| {
        let version = match &vmm.version {
            Some(version) => escape(version),
            None if vmm.name == FLOOR => "the bare calls to KVM, which no VMM can leave out".to_owned(),
            None => String::new(),
        };
        let program = vmm.program.as_deref().map(|program| format!("<br><code>{}</code>", escape(program)));
        format!(
            "<tr><th scope=\"row\" class=\"who {}\">{}</th><td class=\"words\">{version}{}</td></tr>\n",
            page.class(&vmm.name),
            page.name(&vmm.name),
            program.unwrap_or_default()
        )
    });
    format!(
        "<table class=\"vmms\"><caption class=\"hidden\">Who took part</caption><tbody>\n{}</tbody></table>\n",
        rows.collect::<String>()
    )
}

/// How a row of a distribution is to be read.
pub(super) fn key() -> &'static str {
    "<aside class=\"key v1\" aria-label=\"How to read the rows\">\
     <svg class=\"strip\" viewBox=\"0 0 220 28\" width=\"220\" height=\"28\" aria-hidden=\"true\" focusable=\"false\">\
     <rect class=\"box\" x=\"50\" y=\"4\" width=\"80\" height=\"20\"/><rect class=\"interval\" x=\"74\" y=\"8\" width=\"30\" height=\"12\"/>\
     <path class=\"dots\" d=\"M22 14h0M44 20h0M56 8h0M66 17h0M76 22h0M82 10h0M90 16h0M97 6h0M108 19h0M120 11h0M138 21h0M160 8h0M204 15h0\"/>\
     <path class=\"median\" d=\"M88 1V27\"/></svg>\
     <p>Each dot is a round. The line is the median, the inner box its 95 % interval, the outer box the middle half of the samples. \
     Nothing is left out: a dot far away is an outlier, and an arrow at the end stands for those beyond the axis, which the logarithmic view has. All VMMs ran the same guest in turns.</p></aside>\n"
}

/// What could not be had, with the reason, once for each.
pub(super) fn not_supported(page: &Page<'_>) -> Option<String> {
    let mut reasons: Vec<(&str, &str, Vec<&Plot<'_>>)> = Vec::new();
    for plot in &page.plots {
        for series in plot.cases.first().copied().flatten().into_iter().flat_map(|case| &case.series) {
            let Outcome::NotSupported(why) = &series.outcome else { continue };
            match reasons.iter_mut().find(|(vmm, reason, _)| *vmm == series.vmm && reason == why) {
                Some((.., plots)) => plots.push(plot),
                None => reasons.push((&series.vmm, why, vec![plot])),
            }
        }
    }
    let rows = reasons.iter().map(|(vmm, why, plots)| {
        let links = plots.iter().map(|plot| {
            format!("<a href=\"#{}\"><code>{}</code></a>", page.home(plot), escape(&plot.figure.id))
        });
        format!(
            "<tr><th scope=\"row\" class=\"who {}\">{}</th><td class=\"words\">{}</td><td class=\"words\">{}</td></tr>\n",
            page.class(vmm),
            page.name(vmm),
            escape(why),
            links.collect::<Vec<_>>().join(", ")
        )
    });
    let rows: String = rows.collect();
    if rows.is_empty() {
        return None;
    }
    Some(format!(
        "<section id=\"not-supported\" aria-labelledby=\"not-supported-title\">\n<h2 id=\"not-supported-title\">Not supported</h2>\n\
         <p class=\"lead\">What could not be had in the newest run, and why.</p>\n<div class=\"card scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Not supported\">\
         <table class=\"gaps\"><thead><tr><th scope=\"col\">VMM</th><th scope=\"col\">reason</th><th scope=\"col\">figures</th></tr></thead><tbody>\n{rows}</tbody></table></div>\n</section>\n"
    ))
}

pub(super) fn footer() -> &'static str {
    "<footer><p>Made by <code>bantam bench report</code>. This page needs no network and no scripts.</p></footer>\n"
}
