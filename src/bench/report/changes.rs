//! What has changed since each of the earlier runs, beyond noise.

use super::super::compare::{Change, Comparison, THRESHOLD, Verdict};
use super::scale::Scale;
use super::text::{escape, ratio, show};
use super::{Page, anchor};

/// The section; nothing where there is one run only.
pub(super) fn section(page: &Page<'_>) -> Option<String> {
    let (newest, earlier) = page.runs.split_first()?;
    if earlier.is_empty() {
        return None;
    }
    let since = earlier.iter().enumerate().map(|(index, run)| {
        let comparison = Comparison::of(run, newest, THRESHOLD);
        let title = format!("Since{} of {}", page.badge(index + 1), escape(&run.began));
        format!(
            "<article class=\"card\"><header><h3>{title}</h3></header>\n{}</article>\n",
            body(page, &comparison)
        )
    });
    Some(format!(
        "<section id=\"changes\" aria-labelledby=\"changes-title\">\n<h2 id=\"changes-title\">Changes</h2>\n\
         <p class=\"lead\">What is beyond noise: the whole 95 % interval lies more than {:.0} % away. Where both runs have the \
         floor, the ratios to it are compared, so that a slower day is no change. In the chart, the line is no change at all.</p>\n<div class=\"cards\">\n{}</div>\n</section>\n",
        THRESHOLD * 100.0,
        since.collect::<String>()
    ))
}

fn body(page: &Page<'_>, comparison: &Comparison) -> String {
    let warnings: String = comparison
        .warnings
        .iter()
        .map(|why| format!("<p class=\"care\">Take care: {}</p>\n", escape(why)))
        .collect();
    let (same, changed): (Vec<_>, Vec<_>) =
        comparison.changes.iter().partition(|change| change.verdict == Verdict::Same);
    let ends: Vec<f64> = changed.iter().flat_map(|change| [change.interval.0, change.interval.1]).collect();
    let scale = Scale::around_one(&ends);
    let rows: String = changed.iter().map(|change| row(page, change, &scale)).collect();
    let table = if changed.is_empty() {
        String::new()
    } else {
        format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Changes\"><table class=\"changes\"><thead><tr>\
             <th scope=\"col\">figure</th><th scope=\"col\">VMM</th><th scope=\"col\">verdict</th><th scope=\"col\">before</th>\
             <th scope=\"col\">after</th><th scope=\"col\">after / before</th><th scope=\"col\"><span class=\"hidden\">chart</span></th>\
             </tr></thead><tbody>\n{rows}</tbody></table></div>\n"
        )
    };
    let missing = if comparison.missing.is_empty() {
        String::new()
    } else {
        format!("<p class=\"note\">Not compared: {}</p>\n", escape(&comparison.missing.join(", ")))
    };
    format!(
        "{warnings}{table}<p>{} of {} figures have not changed beyond noise.</p>\n{missing}",
        same.len(),
        comparison.changes.len()
    )
}

fn row(page: &Page<'_>, change: &Change, scale: &Scale) -> String {
    let (class, word) = match change.verdict {
        Verdict::Regression => ("worse", "✕ worse"),
        Verdict::Improvement => ("better", "✓ better"),
        Verdict::Same => ("", ""),
    };
    let value = |value| match (change.unit, &change.to) {
        (Some(unit), _) => show(value, unit),
        (None, to) => format!("{}\u{a0}× {}", ratio(value), escape(to.as_deref().unwrap_or_default())),
    };
    let x = |value: f64| format!("{:.2}%", scale.place(value) * 100.0);
    let (low, high) = change.interval;
    let plot = page.plot(&change.id);
    let (title, home) = plot.map_or_else(
        || (change.id.as_str(), anchor(&change.id)),
        |plot| (plot.figure.title.as_str(), page.home(plot)),
    );
    format!(
        "<tr><th scope=\"row\"><a href=\"#{home}\">{}</a></th><td class=\"who {}\">{}</td><td class=\"{class}\">{word}</td><td>{}</td><td>{}</td><td>{}–{}</td>\
         <td class=\"chart\"><svg class=\"{class}\" height=\"16\" aria-hidden=\"true\" focusable=\"false\"><line class=\"one-line\" x1=\"{one}\" x2=\"{one}\" y1=\"0\" y2=\"16\"/><line class=\"change\" x1=\"{}\" x2=\"{}\" y1=\"8\" y2=\"8\"/></svg></td></tr>\n",
        escape(title),
        page.class(&change.vmm),
        page.name(&change.vmm),
        value(change.before),
        value(change.after),
        ratio(low),
        ratio(high),
        x(low),
        x(high),
        one = x(1.0),
    )
}
