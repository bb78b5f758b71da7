//! Distributions: a row for each contender, with a dot for each round's sample over the box of the middle half, the
//! interval of the median and the median. Earlier runs have a narrower row each.

use super::super::results::{Measured, Outcome, Unit};
use super::super::stats::Summary;
use super::scale::{Scale, View};
use super::text::{escape, show};
use super::{Page, Plot, numbers, stacks, to_reference};

/// The width that rows are drawn with before they are stretched.
const WIDTH: f64 = 2000.0;
/// Classes of the views of a chart, of which one is shown.
const CLASSES: [&str; 3] = ["one", "two", "three"];
const HEIGHT: f64 = 28.0;
const HEIGHT_OF_EARLIER: f64 = 14.0;
/// An axis in equal steps ends so many times as far as nine of ten samples reach: outliers may be further.
const LIMIT: f64 = 1.25;
/// Dots lie beside each other by this part of the row, the golden ratio: no two neighbours meet.
const JITTER: f64 = 0.618_034;

/// A figure's card: its rows, what it is made of, its numbers.
pub(super) fn card(page: &Page<'_>, plot: &Plot<'_>) -> String {
    let samples: Vec<f64> =
        plot.all(page).flat_map(|(.., measured)| measured.samples.iter().flatten().copied()).collect();
    let medians: Vec<f64> = plot.all(page).map(|(.., measured)| measured.summary.p50).collect();
    let usual = plot.all(page).map(|(.., measured)| measured.summary.p90).fold(0.0, f64::max);
    let scales = Scale::views(&samples, &medians, usual * LIMIT);
    let rows: String = page.vmms.iter().map(|vmm| rows(page, plot, vmm, &scales)).collect();
    let axis = if samples.is_empty() { String::new() } else { axis(plot, &scales) };
    let body = format!(
        "{picker}<div class=\"rows\">\n{rows}{axis}</div>",
        picker = picker(
            &format!("{}-scale", page.home(plot)),
            "Scale",
            &scales.iter().map(|scale| scale.view.name()).collect::<Vec<_>>()
        ),
    );
    let stack = stacks::of(page, &plot.figure.id).unwrap_or_default();
    article(
        &page.home(plot),
        &plot.figure.title,
        &format!("<code>{}</code> · {}", escape(&plot.figure.id), plot.direction()),
        &format!("<figure class=\"fig\">{body}</figure>\n{stack}{}", numbers::of_plot(page, plot)),
    )
}

/// A card: its note and body are HTML.
pub(super) fn article(id: &str, title: &str, note: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<article class=\"card\" id=\"{id}\" aria-labelledby=\"{id}-title\">\n<header><h3 id=\"{id}-title\">{title} <a class=\"anchor\" href=\"#{id}\" aria-label=\"Link to {title}\">#</a></h3><p class=\"note\">{note}</p></header>\n{body}\n</article>\n"
    )
}

/// Buttons that choose a view; nothing where there is one only.
pub(super) fn picker(name: &str, what: &str, views: &[&str]) -> String {
    if views.len() < 2 {
        return String::new();
    }
    let buttons = views.iter().enumerate().map(|(index, view)| {
        let (class, checked) = (CLASSES.get(index).unwrap_or(&""), if index == 0 { " checked" } else { "" });
        format!("<label><input type=\"radio\" name=\"{name}\" class=\"pick-{class}\"{checked}><span>{view}</span></label>")
    });
    format!(
        "<fieldset class=\"views\"><legend class=\"hidden\">{what}</legend>{}</fieldset>\n",
        buttons.collect::<String>()
    )
}

/// The same once for each view, of which one is shown.
pub(super) fn views<T>(views: &[T], draw: impl Fn(&str, &T) -> String) -> String {
    let classes: &[&str] = if views.len() > 1 { &CLASSES } else { &[""] };
    classes.iter().zip(views).map(|(class, view)| draw(class, view)).collect()
}

/// A contender's rows in all runs.
fn rows(page: &Page<'_>, plot: &Plot<'_>, vmm: &str, scales: &[Scale]) -> String {
    let mut rows = String::new();
    for (run, case) in plot.cases.iter().enumerate() {
        let Some(series) = case.and_then(|case| case.of(vmm)) else { continue };
        let (plot, value) = match &series.outcome {
            Outcome::Measured(measured) => {
                let draw =
                    |class: &str, scale: &Scale| strip(class, scale, measured, run == 0, plot.figure.unit);
                (views(scales, draw), value(plot, measured))
            }
            Outcome::NotSupported(_) if run > 0 => continue,
            Outcome::NotSupported(why) => {
                (format!("<p class=\"none\">not supported: {}</p>", escape(why)), String::new())
            }
        };
        rows += &format!(
            "<div class=\"row {class}{earlier}\"><div class=\"who\">{name}{badge}</div><div class=\"what\">{plot}</div><div class=\"value\">{value}</div></div>\n",
            class = page.class(vmm),
            earlier = if run > 0 { " earlier" } else { "" },
            name = page.name(vmm),
            badge = page.badge(run),
        );
    }
    rows
}

/// The median, and how it compares with what is measured without a VMM.
fn value(plot: &Plot<'_>, measured: &Measured) -> String {
    let ratio = to_reference(measured).map(|ratio| format!("<small>{ratio}</small>"));
    format!("<b>{}</b>{}", show(measured.summary.p50, plot.figure.unit), ratio.unwrap_or_default())
}

fn strip(class: &str, scale: &Scale, measured: &Measured, newest: bool, unit: Unit) -> String {
    let height = if newest { HEIGHT } else { HEIGHT_OF_EARLIER };
    let x = |value: f64| scale.place(value) * WIDTH;
    let Summary { p25, p50, p75, low, high, .. } = measured.summary;
    let bar = |class: &str, from: f64, to: f64, inset: f64| {
        let (from, wide, high) = (x(from), (x(to) - x(from)).max(1.0), height - 2.0 * inset);
        format!(r#"<rect class="{class}" x="{from:.0}" y="{inset}" width="{wide:.0}" height="{high:.0}"/>"#)
    };
    let grid = scale
        .ticks(unit)
        .iter()
        .fold(String::new(), |grid, (value, _)| grid + &format!("M{:.0} 0v{height}", x(*value)));
    let stem =
        if scale.view == View::Zero { bar("stem", 0.0, p50, height / 2.0 - 1.0) } else { String::new() };
    format!(
        "<svg class=\"strip {class}\" viewBox=\"0 0 {WIDTH} {height}\" height=\"{height}\" preserveAspectRatio=\"none\" \
         aria-hidden=\"true\" focusable=\"false\"><path class=\"grid\" d=\"{grid}\"/>{stem}{}{}{}\
         <path class=\"median\" d=\"M{:.0} 1V{}\"/></svg>",
        bar("box", p25, p75, if newest { 4.0 } else { 2.0 }),
        bar("interval", low, high, if newest { 8.0 } else { 4.0 }),
        if newest { dots(measured, scale) } else { String::new() },
        x(p50),
        height - 1.0,
    )
}

/// Lines of no length with round ends: dots that stay round when the row is stretched. At the end of the axis, an
/// arrow to those that are beyond it.
fn dots(measured: &Measured, scale: &Scale) -> String {
    let (mut dots, mut level, mut beyond) = (String::new(), 0.5, "");
    for sample in measured.samples.iter().flatten() {
        if scale.is_beyond(*sample) {
            beyond = r#"<path class="beyond" d="M1986 8L2000 14L1986 20"/>"#;
        } else {
            dots += &format!("M{:.0} {:.0}h0", scale.place(*sample) * WIDTH, 3.0 + level * (HEIGHT - 6.0));
        }
        level = (level + JITTER) % 1.0;
    }
    format!(r#"<path class="dots" d="{dots}"/>{beyond}"#)
}

fn axis(plot: &Plot<'_>, scales: &[Scale]) -> String {
    let draw = |class: &str, scale: &Scale| {
        let ticks = scale.ticks(plot.figure.unit);
        format!("<div class=\"ticks {class}\">{}</div>", ticks_of(scale, &ticks))
    };
    format!(
        "<div class=\"row axis\" aria-hidden=\"true\"><div class=\"what\">{}</div></div>\n",
        views(scales, draw)
    )
}

/// Names of ticks along an axis. Those that would lie on each other where the page is narrow are left out there.
pub(super) fn ticks_of(scale: &Scale, ticks: &[(f64, String)]) -> String {
    let names = ticks.iter().enumerate().map(|(index, (value, name))| {
        let odd = if index % 2 == 1 && ticks.len() > 3 { " class=\"odd\"" } else { "" };
        format!("<span{odd} style=\"left:{:.2}%\">{name}</span>", scale.place(*value) * 100.0)
    });
    names.collect()
}
