//! The same at several points of an axis: medians with their intervals, over a band of the middle halves.

use super::super::results::{Measured, Unit};
use super::scale::Scale;
use super::strips::{article, picker, ticks_of, views};
use super::text::{anchor, because, escape};
use super::{Page, Plot, numbers};

/// The plane that lines are drawn on before it is stretched.
const SIZE: f64 = 2000.0;
/// An axis with no more points than this has a tick at each.
const FEW: usize = 8;

/// One contender's line in one run.
struct Line<'a> {
    run: usize,
    vmm: &'a str,
    points: Vec<(f64, &'a Measured)>,
}

/// The card of a curve, whose points are in the order of its axis.
pub(super) fn card(page: &Page<'_>, points: &[&Plot<'_>]) -> String {
    let Some((first, point)) = points.first().and_then(|plot| Some((plot, plot.figure.point.as_ref()?)))
    else {
        return String::new();
    };
    let unit = first.figure.unit;
    let lines = lines(page, points);
    let all = || lines.iter().flat_map(|line| line.points.iter().map(|(_, measured)| measured.summary));
    let values: Vec<_> =
        all().flat_map(|summary| [summary.p25, summary.p75, summary.low, summary.high]).collect();
    let medians: Vec<_> = all().map(|summary| summary.p50).collect();
    let mut scales = Scale::views(&values, &medians, f64::INFINITY);
    if lines.is_empty() {
        scales.clear();
    }
    let places: Vec<_> = points.iter().filter_map(|plot| Some(plot.figure.point.as_ref()?.at)).collect();
    let along = Scale::along(&places);
    let legend: String = page
        .vmms
        .iter()
        .filter(|vmm| lines.iter().any(|line| line.vmm == **vmm))
        .map(|vmm| format!("<li class=\"{}\">{}</li>", page.class(vmm), page.name(vmm)))
        .collect();
    let planes = views(&scales, |class, scale| plane(page, &lines, class, &along, &places, scale, unit));
    let earlier = if page.runs.len() > 1 { " · dashed: earlier runs" } else { "" };
    let id = anchor(&first.figure.id);
    let names: Vec<_> = scales.iter().map(|scale| scale.view.name()).collect();
    let body = format!(
        "<figure class=\"fig curve\">{picker}<ul class=\"legend\">{legend}</ul>{planes}<figcaption>{axis}</figcaption></figure>\n{silent}{numbers}",
        picker = picker(&format!("{id}-scale"), "Scale", &names),
        axis = escape(&point.axis),
        silent = silent(page, points),
        numbers = numbers::of_curve(page, points),
    );
    let titles: Vec<_> = points.iter().map(|plot| plot.figure.title.as_str()).collect();
    let note = format!("<code>{}</code> · {}{earlier}", escape(&point.curve), first.direction());
    article(&id, &in_common(&titles).unwrap_or_else(|| point.curve.clone()), &note, &body)
}

/// What titles have in common, in whole words; where they differ, an ellipsis.
pub(super) fn in_common(titles: &[&str]) -> Option<String> {
    let (first, others) = titles.split_first()?;
    if others.iter().all(|other| other == first) {
        return Some((*first).to_owned());
    }
    let letters: Vec<char> = first.chars().collect();
    let same = |letters: &mut dyn Iterator<Item = (char, char)>| {
        letters.take_while(|(one, other)| one == other).count()
    };
    let before = others.iter().map(|other| same(&mut first.chars().zip(other.chars()))).min()?;
    let after = others.iter().map(|other| same(&mut first.chars().rev().zip(other.chars().rev()))).min()?;
    let after = after.min(letters.len() - before);
    let head: String = letters.get(..before)?.iter().collect();
    let tail: String = letters.get(letters.len() - after..)?.iter().collect();
    let head = head.trim_end_matches(char::is_alphanumeric);
    let tail = tail.trim_start_matches(char::is_alphanumeric);
    (head.len() + tail.len() > 0).then(|| format!("{head}…{tail}"))
}

fn lines<'a>(page: &Page<'a>, points: &[&Plot<'a>]) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    // The newest last: it is drawn over the others.
    for run in (0..page.runs.len()).rev() {
        for vmm in &page.vmms {
            let point = |plot: &&Plot<'a>| Some((plot.figure.point.as_ref()?.at, plot.measured(run, vmm)?));
            let points: Vec<_> = points.iter().filter_map(point).collect();
            if !points.is_empty() {
                lines.push(Line { run, vmm, points });
            }
        }
    }
    lines
}

fn plane(
    page: &Page<'_>,
    lines: &[Line<'_>],
    class: &str,
    along: &Scale,
    places: &[f64],
    scale: &Scale,
    unit: Unit,
) -> String {
    let rows = scale.ticks(unit);
    let mut columns = if places.len() <= FEW {
        places.iter().map(|at| (*at, format!("{at}"))).collect()
    } else {
        along.ticks(Unit::Count)
    };
    columns.dedup_by(|one, other| one.0 == other.0);
    let grid = columns.iter().map(|(at, _)| format!("M{:.0} 0v{SIZE:.0}", along.place(*at) * SIZE));
    let grid = grid.chain(
        rows.iter().map(|(value, _)| format!("M0 {:.0}h{SIZE:.0}", (1.0 - scale.place(*value)) * SIZE)),
    );
    let grid: String = grid.collect();
    let names = rows.iter().map(|(value, name)| {
        format!("<span style=\"bottom:{:.2}%\">{name}</span>", scale.place(*value) * 100.0)
    });
    let (mut drawn, mut marks) = (String::new(), String::new());
    for line in lines {
        let class = page.class(line.vmm) + if line.run > 0 { " earlier" } else { "" };
        drawn += &format!("<g class=\"{class}\">{}</g>", path(line, along, scale));
        if line.run == 0 {
            marks += &format!("<g class=\"{class}\">{}</g>", points(page, line, along, scale));
        }
    }
    format!(
        "<div class=\"plane {class}\" aria-hidden=\"true\"><div class=\"left\">{names}</div><svg height=\"260\" focusable=\"false\"><svg viewBox=\"0 0 {SIZE:.0} {SIZE:.0}\" width=\"100%\" height=\"100%\" preserveAspectRatio=\"none\"><path class=\"grid\" d=\"{grid}\"/>{drawn}</svg>{marks}</svg><div class=\"ticks\">{}</div></div>",
        ticks_of(along, &columns),
        names = names.collect::<String>(),
    )
}

/// The line through the medians; of the newest run, over the band from quartile to quartile.
fn path(line: &Line<'_>, along: &Scale, scale: &Scale) -> String {
    let at = |at: f64, value: f64| {
        format!("{:.0} {:.0}", along.place(at) * SIZE, (1.0 - scale.place(value)) * SIZE)
    };
    let join = |points: Vec<String>| points.join("L");
    let line_of = |of: fn(&Measured) -> f64| {
        join(line.points.iter().map(|(x, measured)| at(*x, of(measured))).collect())
    };
    let back = join(line.points.iter().rev().map(|(x, measured)| at(*x, measured.summary.p25)).collect());
    let medians = line_of(|measured| measured.summary.p50);
    let band = format!(r#"<path class="band" d="M{}L{back}z"/>"#, line_of(|measured| measured.summary.p75));
    let band = if line.run == 0 { band } else { String::new() };
    format!(r#"{band}<path class="line" d="M{medians}"/>"#)
}

/// The marks of the medians, with their intervals.
fn points(page: &Page<'_>, line: &Line<'_>, along: &Scale, scale: &Scale) -> String {
    let y = |value: f64| (1.0 - scale.place(value)) * 100.0;
    let mark = |(at, measured): &(f64, &Measured)| {
        let (x, summary) = (along.place(*at) * 100.0, measured.summary);
        let mark = page.mark(line.vmm, &format!(r#"x="{x:.2}%" y="{:.2}%""#, y(summary.p50)));
        format!(
            r#"<line class="whisker" x1="{x:.2}%" x2="{x:.2}%" y1="{:.2}%" y2="{:.2}%"/>{mark}"#,
            y(summary.low),
            y(summary.high)
        )
    };
    line.points.iter().map(mark).collect()
}

/// Who has no or not all points, and why.
fn silent(page: &Page<'_>, points: &[&Plot<'_>]) -> String {
    let all =
        page.vmms.iter().flat_map(|vmm| points.iter().filter_map(|plot| Some((*vmm, plot.lacking(vmm)?))));
    let reasons = because(all);
    if reasons.is_empty() {
        reasons
    } else {
        format!("<p class=\"none\">not supported, at least at some points: {reasons}</p>\n")
    }
}
