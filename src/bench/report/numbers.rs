//! The numbers of each chart, as a table beneath it.

use super::super::results::{Measured, Outcome};
use super::super::stats::Summary;
use super::text::{escape, show, with_interval};
use super::{Page, Plot, to_reference};

/// A table under a line that opens it. It scrolls by itself, by keys too.
pub(super) fn details(name: &str, caption: &str, head: &[String], rows: &str) -> String {
    let head: String = head.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let caption = escape(caption);
    format!(
        "<details><summary>{name}<span class=\"hidden\">: {caption}</span></summary><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name}: {caption}\"><table><caption class=\"hidden\">{caption}</caption><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div></details>\n"
    )
}

/// A figure's: a line for each contender, in each run that has it.
pub(super) fn of_plot(page: &Page<'_>, plot: &Plot<'_>) -> String {
    let others: Vec<_> = page
        .vmms
        .iter()
        .filter(|vmm| plot.all(page).any(|(.., measured)| measured.ratio_to(vmm).is_some()))
        .collect();
    let names = ["VMM", "n", "min", "p25", "median", "95\u{a0}% interval", "p75", "p90", "p99", "outliers"];
    let head: Vec<_> = names
        .into_iter()
        .map(str::to_owned)
        .chain(others.iter().map(|other| format!("÷\u{a0}<bdi>{}</bdi>", escape(other))))
        .collect();
    let mut rows = String::new();
    for vmm in &page.vmms {
        for (run, case) in plot.cases.iter().enumerate() {
            let Some(series) = case.and_then(|case| case.of(vmm)) else { continue };
            let cells = match &series.outcome {
                Outcome::Measured(measured) => cells(plot, measured, &others),
                Outcome::NotSupported(why) => {
                    format!(
                        "<td class=\"why\" colspan=\"{}\">not supported: {}</td>",
                        head.len() - 1,
                        escape(why)
                    )
                }
            };
            rows += &format!(
                "<tr><th scope=\"row\"><bdi>{}</bdi>{}</th>{cells}</tr>\n",
                escape(vmm),
                page.badge(run)
            );
        }
    }
    details("Numbers", &plot.figure.title, &head, &rows)
}

fn cells(plot: &Plot<'_>, measured: &Measured, others: &[&&str]) -> String {
    let Summary { n, min, p25, p50, p75, p90, p99, low, high, outliers } = measured.summary;
    let value = |value| show(value, plot.figure.unit);
    let ratio = |other: &&&str| {
        let ratio = measured.ratio_to(other);
        ratio.map_or_else(String::new, |ratio| with_interval(ratio.p50, ratio.low, ratio.high))
    };
    let texts = [
        n.to_string(),
        value(min),
        value(p25),
        format!("<b>{}</b>", value(p50)),
        format!("{}–{}", value(low), value(high)),
        value(p75),
        value(p90),
        value(p99),
        outliers.to_string(),
    ];
    texts.into_iter().chain(others.iter().map(ratio)).map(|text| format!("<td>{text}</td>")).collect()
}

/// The columns of tables in which contenders stand beside each other: who has any of it, in which run. Why the others
/// have none is told beneath the chart.
fn columns<'a>(page: &Page<'a>, plots: &[(String, &Plot<'a>)]) -> Vec<(usize, &'a str)> {
    let there = |run: usize, vmm: &str| plots.iter().any(|(_, plot)| plot.measured(run, vmm).is_some());
    let all = page.vmms.iter().flat_map(|vmm| (0..page.runs.len()).map(move |run| (run, *vmm)));
    all.filter(|(run, vmm)| there(*run, vmm)).collect()
}

/// A line for each of some figures, which begins with what tells it from the others.
fn side_by_side<'a>(
    page: &Page<'a>,
    (name, caption): (&str, &str),
    first: &str,
    plots: &[(String, &Plot<'a>)],
) -> String {
    let columns = columns(page, plots);
    let names = columns.iter().map(|(run, vmm)| format!("<bdi>{}</bdi>{}", escape(vmm), page.badge(*run)));
    let head: Vec<_> = [first.to_owned()].into_iter().chain(names).collect();
    let rows = plots.iter().map(|(which, plot)| {
        let cells: String = columns.iter().map(|(run, vmm)| cell_of(plot, *run, vmm)).collect();
        format!(
            "<tr><th scope=\"row\"><b>{which}</b>: {} <code>{}</code></th>{cells}</tr>\n",
            escape(&plot.figure.title),
            escape(&plot.figure.id)
        )
    });
    details(name, caption, &head, &rows.collect::<String>())
}

fn cell_of(plot: &Plot<'_>, run: usize, vmm: &str) -> String {
    let series = plot.cases.get(run).copied().flatten().and_then(|case| case.of(vmm));
    match series.map(|series| &series.outcome) {
        Some(Outcome::Measured(measured)) => {
            let value = |value| show(value, plot.figure.unit);
            let Summary { p50, low, high, .. } = measured.summary;
            let ratio = to_reference(measured).map(|ratio| format!("<br>{ratio}"));
            let (value, low, high) = (value(p50), value(low), value(high));
            format!("<td><b>{value}</b><br>[{low}, {high}]{}</td>", ratio.unwrap_or_default())
        }
        Some(Outcome::NotSupported(why)) => format!("<td class=\"why\">not supported: {}</td>", escape(why)),
        None => "<td></td>".to_owned(),
    }
}

/// A line for each part.
pub(super) fn of_parts<'a>(page: &Page<'a>, whole: &str, parts: &[&Plot<'a>]) -> String {
    let title = page.plot(whole).map_or(whole, |plot| plot.figure.title.as_str());
    let plots: Vec<_> =
        parts.iter().enumerate().map(|(index, part)| ((index + 1).to_string(), *part)).collect();
    side_by_side(page, ("Numbers of the parts", title), "part", &plots)
}

/// A line for each point.
pub(super) fn of_curve<'a>(page: &Page<'a>, points: &[&Plot<'a>]) -> String {
    let point = points.first().and_then(|plot| plot.figure.point.as_ref());
    let (curve, axis) = point.map_or(("", ""), |point| (&point.curve, &point.axis));
    let at =
        |plot: &Plot<'_>| plot.figure.point.as_ref().map_or_else(String::new, |point| point.at.to_string());
    let plots: Vec<_> = points.iter().map(|plot| (at(plot), *plot)).collect();
    side_by_side(page, ("Numbers", curve), &escape(axis), &plots)
}
