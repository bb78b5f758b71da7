//! One contender against each of the others: how many times as good it is, figure by figure, with the intervals.

use super::super::BANTAM;
use super::super::results::{Better, Unit};
use super::super::stats::Ratio;
use super::numbers::details;
use super::scale::Scale;
use super::strips::ticks_of;
use super::text::{advantage, escape, with_interval};
use super::{Page, Plot};

/// The height of one comparison's line.
const LINE: usize = 20;

/// A figure, and how many times as good the one that is asked about is as others.
struct Row<'p> {
    plot: &'p Plot<'p>,
    others: Vec<(&'p str, &'p Ratio)>,
}

/// The section, with a pane for each contender that can be asked about; nothing if there is nothing to compare.
pub(super) fn section(page: &Page<'_>) -> Option<String> {
    let bases = bases(page);
    if bases.is_empty() {
        return None;
    }
    let buttons = bases.iter().enumerate().map(|(index, base)| {
        let checked = if index == 0 { " checked" } else { "" };
        format!(
            "<label><input type=\"radio\" name=\"base\" id=\"base-{index}\"{checked}><span><bdi>{}</bdi></span></label>",
            escape(base)
        )
    });
    let panes = bases.iter().enumerate().map(|(index, base)| pane(page, index, base));
    Some(format!(
        "<section id=\"ratios\" aria-labelledby=\"ratios-title\">\n<h2 id=\"ratios-title\">Ratios</h2>\n\
         <p class=\"lead\">How many times as good one is as each of the others, round by round: the median of the ratios, \
         and its 95 % interval. What slows a whole round down slows both, and falls out.</p>\n\
         <fieldset class=\"views bases\"><legend>Compare</legend>{}</fieldset>\n{}</section>\n",
        buttons.collect::<String>(),
        panes.collect::<String>()
    ))
}

/// Rules that show the pane that is asked for.
pub(super) fn views(page: &Page<'_>) -> String {
    let shown = |index| format!("body:has(#base-{index}:checked) #pane-{index}{{display:block}}");
    let rules: String = (0..bases(page).len()).map(shown).collect();
    format!("@supports selector(:has(a)){{.pane{{display:none}}{rules}}}")
}

/// Those of the newest run who can be compared with others: Bantam first.
fn bases<'a>(page: &Page<'a>) -> Vec<&'a str> {
    let mut bases = page.vmms.clone();
    bases.retain(|base| page.plots.iter().any(|plot| !row(page, plot, base).others.is_empty()));
    bases.sort_by_key(|base| *base != BANTAM);
    bases
}

fn row<'p>(page: &'p Page<'p>, plot: &'p Plot<'p>, base: &str) -> Row<'p> {
    let ratio = |other: &&'p str| {
        // Of a time, how much longer the others'; of a rate, how much higher this one's.
        let ratio = match plot.figure.better {
            Better::Lower | Better::Neither => plot.measured(0, other)?.ratio_to(base)?,
            Better::Higher => plot.measured(0, base)?.ratio_to(other)?,
        };
        Some((*other, ratio))
    };
    Row { plot, others: page.vmms.iter().filter(|other| **other != base).filter_map(ratio).collect() }
}

/// Figures that stand for themselves: of a curve, its end.
fn rows<'p>(page: &'p Page<'p>, base: &str) -> Vec<Row<'p>> {
    let stands = |plot: &&Plot<'_>| {
        plot.figure.point.is_none()
            || page.curve(plot).last().is_some_and(|last| last.figure.id == plot.figure.id)
    };
    let rows = page.plots.iter().filter(stands).map(|plot| row(page, plot, base));
    rows.filter(|row| !row.others.is_empty()).collect()
}

fn pane(page: &Page<'_>, index: usize, base: &str) -> String {
    let rows = rows(page, base);
    let values: Vec<f64> =
        rows.iter().flat_map(|row| &row.others).flat_map(|(_, ratio)| [ratio.low, ratio.high]).collect();
    let scale = Scale::around_one(&values);
    let ticks: Vec<_> =
        scale.ticks(Unit::Count).into_iter().map(|(value, name)| (value, format!("{name}×"))).collect();
    let mut drawn = String::new();
    let mut group = "";
    for row in &rows {
        if row.plot.figure.group() != group {
            group = row.plot.figure.group();
            drawn += &format!("<p class=\"group\">{}</p>\n", escape(&super::capitalized(group)));
        }
        drawn += &draw(page, row, &scale, &ticks);
    }
    let legend = others(page, &rows)
        .into_iter()
        .map(|vmm| format!("<li class=\"{}\">than {}</li>", page.class(vmm), page.name(vmm)));
    format!(
        "<div class=\"pane\" id=\"pane-{index}\"><div class=\"card\"><ul class=\"legend\">{legend}</ul>\n\
         <figure class=\"fig forest\"><figcaption class=\"sides\"><span>← <bdi>{name}</bdi> is worse</span><span><bdi>{name}</bdi> is better →</span></figcaption>\
         <div class=\"rows\">\n{drawn}<div class=\"row axis\" aria-hidden=\"true\"><div class=\"what\"><div class=\"ticks\">{ticks}</div></div></div></div></figure>\n{table}</div></div>\n",
        name = escape(base),
        legend = legend.collect::<String>(),
        ticks = ticks_of(&scale, &ticks),
        table = table(page, base, &rows),
    )
}

fn draw(page: &Page<'_>, row: &Row<'_>, scale: &Scale, ticks: &[(f64, String)]) -> String {
    let x = |value: f64| format!("{:.2}%", scale.place(value) * 100.0);
    let height = row.others.len() * LINE + 4;
    let line = |at: &str, class: &str| {
        format!(r#"<line class="{class}" x1="{at}" x2="{at}" y1="0" y2="{height}"/>"#)
    };
    let mut marks: String = ticks.iter().map(|(value, _)| line(&x(*value), "grid")).collect();
    marks += &line(&x(1.0), "one-line");
    let mut words = String::new();
    for (index, (other, ratio)) in row.others.iter().enumerate() {
        let (class, y) = (page.class(other), index * LINE + LINE / 2 + 2);
        let mark = page.mark(other, &format!(r#"x="{}" y="{y}""#, x(ratio.p50)));
        marks += &format!(
            r#"<g class="{class}"><line class="whisker" x1="{}" x2="{}" y1="{y}" y2="{y}"/>{mark}</g>"#,
            x(ratio.low),
            x(ratio.high),
        );
        let told = advantage(ratio);
        words +=
            &format!("<span>{told} <span class=\"than\">than <bdi>{}</bdi></span></span>", escape(other));
    }
    format!(
        "<div class=\"row\"><div class=\"who\"><a href=\"#{}\">{}</a></div><div class=\"what\"><svg height=\"{height}\" aria-hidden=\"true\" focusable=\"false\">{marks}</svg></div><div class=\"value lines\">{words}</div></div>\n",
        page.home(row.plot),
        escape(&row.plot.figure.title),
    )
}

/// Those who are compared with in any row.
fn others<'p>(page: &'p Page<'_>, rows: &[Row<'_>]) -> Vec<&'p str> {
    let is_there = |vmm: &&str| rows.iter().any(|row| row.others.iter().any(|(other, _)| other == vmm));
    page.vmms.iter().copied().filter(is_there).collect()
}

fn table(page: &Page<'_>, base: &str, rows: &[Row<'_>]) -> String {
    let others = others(page, rows);
    let names = others.iter().map(|other| format!("times as good as <bdi>{}</bdi>", escape(other)));
    let head: Vec<_> = ["figure".to_owned()].into_iter().chain(names).collect();
    let lines = rows.iter().map(|row| {
        let cells = others.iter().map(|other| {
            let ratio = row.others.iter().find(|(name, _)| name == other);
            let text = ratio.map(|(_, ratio)| with_interval(ratio.p50, ratio.low, ratio.high));
            format!("<td>{}</td>", text.unwrap_or_default())
        });
        format!(
            "<tr><th scope=\"row\">{} <code>{}</code></th>{}</tr>\n",
            escape(&row.plot.figure.title),
            escape(&row.plot.figure.id),
            cells.collect::<String>()
        )
    });
    details("Numbers", &format!("{base} against the others"), &head, &lines.collect::<String>())
}
