//! What a figure is made of: its parts' medians, one after the other. Parts have numbers, so that they can be told apart
//! without their colours.

use super::strips::{article, picker, views};
use super::text::{because, escape, show};
use super::{Page, Plot, numbers};

/// Colours of parts; with more parts they come again.
const COLOURS: usize = 8;
/// A part that is narrower than this, in per cent of the row, has no room for its number.
const ROOM: f64 = 3.5;
/// Less of a whole than this part need not be explained: medians do not add up.
const REST: f64 = 0.02;
/// Where wholes differ by more than this factor, shares are shown first: of the least, no parts could be seen.
const FAR: f64 = 5.0;

const REST_OF_LEGEND: &str = "<li><svg class=\"bars\" width=\"20\" height=\"18\" aria-hidden=\"true\" \
     focusable=\"false\"><rect class=\"rest\" width=\"20\" height=\"18\" rx=\"3\"/></svg> the rest of it</li>\n";

/// Parts of one contender in one run: medians, of those that it has.
struct Row<'a> {
    run: usize,
    vmm: &'a str,
    parts: Vec<Option<f64>>,
    whole: Option<f64>,
}

impl Row<'_> {
    /// The parts together, and the whole where that is more.
    fn total(&self) -> f64 {
        self.whole.unwrap_or_default().max(self.sum())
    }

    fn sum(&self) -> f64 {
        self.parts.iter().flatten().map(|part| part.max(0.0)).sum()
    }

    /// Whether there is more to the whole than the parts that are told.
    fn has_rest(&self) -> bool {
        self.sum() < self.total() * (1.0 - REST)
    }
}

/// How wide the parts are drawn.
#[derive(Clone, Copy)]
enum Width {
    Share,
    /// With so much as the width of the row.
    Of(f64),
}

/// The parts of a figure that was not measured itself.
pub(super) fn orphans(page: &Page<'_>, whole: &str) -> String {
    let tables: String = page.parts(whole).into_iter().map(|part| numbers::of_plot(page, part)).collect();
    let note = "parts of a figure that was not measured itself";
    of(page, whole)
        .map_or_else(String::new, |stack| article(&super::anchor(whole), whole, note, &(stack + &tables)))
}

/// A chart of a figure's parts, if it has any.
pub(super) fn of(page: &Page<'_>, whole: &str) -> Option<String> {
    let parts = page.parts(whole);
    let unit = parts.first()?.figure.unit;
    let rows = rows(page, whole, &parts);
    let totals = rows.iter().map(Row::total);
    let most = totals.clone().reduce(f64::max).filter(|most| *most > 0.0)?;
    let far = totals.reduce(f64::min).is_some_and(|least| most > least * FAR);
    let widths = match rows.len() {
        1 => vec![(Width::Of(most), "to scale")],
        _ if far => vec![(Width::Share, "shares"), (Width::Of(most), "to scale")],
        _ => vec![(Width::Of(most), "to scale"), (Width::Share, "shares")],
    };
    let bars: String = rows
        .iter()
        .map(|row| {
            format!(
                "<div class=\"row {}\"><div class=\"who\">{}{}</div><div class=\"what\">{}</div><div class=\"value\"><b>{}</b></div></div>\n",
                page.class(row.vmm),
                page.name(row.vmm),
                page.badge(row.run),
                views(&widths, |class, (width, _)| bar(row, class, *width)),
                show(row.total(), unit),
            )
        })
        .collect();
    let rest = if rows.iter().any(Row::has_rest) { REST_OF_LEGEND } else { "" };
    let legend = parts
        .iter()
        .enumerate()
        .map(|(index, part)| format!("<li>{} {}</li>\n", swatch(index), escape(&part.figure.title)));
    let names: Vec<_> = widths.iter().map(|(_, name)| *name).collect();
    Some(format!(
        "<figure class=\"fig stack\"><figcaption>What it is made of (medians)</figcaption>{}<div class=\"rows\">\n{bars}</div>\n<ul class=\"legend\">\n{}{rest}</ul>{}</figure>\n{}",
        picker(&format!("{}-parts", super::anchor(whole)), "Widths", &names),
        legend.collect::<String>(),
        silent(page, &parts),
        numbers::of_parts(page, whole, &parts),
    ))
}

fn rows<'a>(page: &Page<'a>, whole: &str, parts: &[&Plot<'a>]) -> Vec<Row<'a>> {
    let whole = page.plot(whole);
    let mut rows = Vec::new();
    for vmm in &page.vmms {
        for run in 0..page.runs.len() {
            let median = |plot: &Plot<'_>| plot.measured(run, vmm).map(|measured| measured.summary.p50);
            let parts: Vec<_> = parts.iter().map(|part| median(part)).collect();
            if parts.iter().any(Option::is_some) {
                rows.push(Row { run, vmm, parts, whole: whole.and_then(median) });
            }
        }
    }
    rows
}

/// A row's parts, and a line where the median of the whole is: medians do not add up.
fn bar(row: &Row<'_>, class: &str, width: Width) -> String {
    let all = match width {
        Width::Share => row.total(),
        Width::Of(most) => most,
    };
    let per_cent = |value: f64| if all > 0.0 { value.max(0.0) / all * 100.0 } else { 0.0 };
    let (mut bars, mut at) = (String::new(), 0.0);
    for (index, part) in row.parts.iter().enumerate() {
        let Some(wide) = part.map(per_cent) else { continue };
        let colour = index % COLOURS;
        bars += &format!(r#"<rect class="p{colour}" x="{at:.2}%" y="3" width="{wide:.2}%" height="22"/>"#);
        if wide >= ROOM {
            bars += &format!(
                r#"<text class="t{colour}" x="{:.2}%" y="18">{}</text>"#,
                at + wide / 2.0,
                index + 1
            );
        }
        at += wide;
    }
    if let Some(whole) = row.whole.map(per_cent) {
        if row.has_rest() {
            bars +=
                &format!(r#"<rect class="rest" x="{at:.2}%" y="3" width="{:.2}%" height="22"/>"#, whole - at);
        }
        bars += &format!(r#"<line class="whole" x1="{whole:.2}%" x2="{whole:.2}%" y1="0" y2="28"/>"#);
    }
    format!(r#"<svg class="bars {class}" height="28" aria-hidden="true" focusable="false">{bars}</svg>"#)
}

/// A part's number on its colour.
fn swatch(index: usize) -> String {
    let colour = index % COLOURS;
    format!(
        r#"<svg class="bars" width="20" height="18" aria-hidden="true" focusable="false"><rect class="p{colour}" width="20" height="18" rx="3"/><text class="t{colour}" x="10" y="13">{}</text></svg>"#,
        index + 1
    )
}

/// Who has none of the parts, and why.
fn silent(page: &Page<'_>, parts: &[&Plot<'_>]) -> String {
    let has_some = |vmm: &str| parts.iter().any(|part| part.measured(0, vmm).is_some());
    let silent = page.vmms.iter().filter(|vmm| !has_some(vmm));
    let reasons = silent.flat_map(|vmm| parts.iter().filter_map(|part| Some((*vmm, part.lacking(vmm)?))));
    let reasons = because(reasons);
    if reasons.is_empty() { reasons } else { format!("<p class=\"none\">not supported: {reasons}</p>\n") }
}
