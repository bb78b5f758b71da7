//! Results as a page to look at: one file, with nothing from elsewhere, which needs no scripts.
//!
//! Charts are HTML with an SVG for each row. An SVG is stretched to the width that there is, its strokes are not, and
//! words stay outside of it: so a page reads the same on a telephone, a screen and paper. Views of the same chart are
//! radio buttons, and each chart has its numbers in a table beneath. What is hostile in results, such as the reason
//! that a VMM gave, is text and nothing else: all of it goes through `text::escape`.

mod changes;
mod curves;
mod front;
mod numbers;
mod ratios;
mod scale;
mod stacks;
mod strips;
mod text;

use std::collections::BTreeSet;

use self::text::{anchor, escape};
use super::results::{Better, Case, Figure, Measured, Outcome, Results};
use super::{BANTAM, FLOOR};

const STYLE: &str = include_str!("style.css");
/// Marks of contenders, so that colours are not needed to tell them apart: around the origin, 10 units wide.
const MARKS: [&str; 7] = [
    "M-5-3.2l1.8-1.8L0-1.8l3.2-3.2L5-3.2L1.8 0L5 3.2L3.2 5L0 1.8L-3.2 5L-5 3.2L-1.8 0z",
    "M-5 0a5 5 0 1 1 10 0a5 5 0 1 1-10 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-5.5l5.5 10h-11z",
    "M0-6l6 6l-6 6l-6-6z",
    "M0 5.5l5.5-10h-11z",
    "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
];

/// The page about some runs: the first is the newest, and what the others have is drawn beside it.
#[must_use]
pub fn page(runs: &[Results]) -> String {
    let page = Page::new(runs);
    let (mut contents, mut main) = (Vec::new(), String::new());
    let mut add = |id: &str, title: &str, section: Option<String>| {
        if let Some(section) = section {
            contents.push((id.to_owned(), title.to_owned()));
            main += &section;
        }
    };
    add("changes", "Changes", changes::section(&page));
    add("ratios", "Ratios", ratios::section(&page));
    for (index, group) in page.groups().into_iter().enumerate() {
        let key = if index == 0 { front::key() } else { "" };
        add(&anchor(group), &capitalized(group), Some(key.to_owned() + &section(&page, group)));
    }
    add("not-supported", "Not supported", front::not_supported(&page));
    add("machine", "Machine and runs", front::machines(&page));
    let mut body = front::header(&page);
    body += &front::contents(&contents);
    let marks = MARKS.iter().enumerate().map(|(index, path)| format!(r#"<path id="m{index}" d="{path}"/>"#));
    let marks: String = marks.collect();
    format!(
        r##"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{STYLE}{views}</style>
</head>
<body>
<a class="skip" href="#main">To the figures</a>
<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false"><defs>{marks}</defs></svg>
{body}<main id="main" tabindex="-1">
{main}</main>
{footer}</body>
</html>
"##,
        title = escape(&front::title(&page)),
        views = ratios::views(&page),
        footer = front::footer(),
    )
}

/// What all parts of the page are about.
struct Page<'a> {
    runs: &'a [Results],
    /// Everyone who takes part in a run, each once.
    vmms: Vec<&'a str>,
    plots: Vec<Plot<'a>>,
}

/// A figure, and what each run has of it.
struct Plot<'a> {
    figure: &'a Figure,
    cases: Vec<Option<&'a Case>>,
}

impl<'a> Page<'a> {
    fn new(runs: &'a [Results]) -> Self {
        let mut vmms: Vec<&str> = Vec::new();
        let mut plots: Vec<Plot<'_>> = Vec::new();
        for run in runs {
            let listed = run.vmms.iter().map(|vmm| vmm.name.as_str());
            let series = run.cases.iter().flat_map(|case| &case.series).map(|series| series.vmm.as_str());
            for name in listed.chain(series) {
                if !vmms.contains(&name) {
                    vmms.push(name);
                }
            }
            for case in &run.cases {
                if !plots.iter().any(|plot| plot.figure.id == case.figure.id) {
                    plots.push(Plot::new(&case.figure, runs));
                }
            }
        }
        Self { runs, vmms, plots }
    }

    /// The groups in the order in which the newest run has them.
    fn groups(&self) -> Vec<&'a str> {
        let mut groups = Vec::new();
        for plot in &self.plots {
            if !groups.contains(&plot.figure.group()) {
                groups.push(plot.figure.group());
            }
        }
        groups
    }

    /// The class that gives a contender its colour: one for all of a family, such as a VMM and its versions.
    fn class(&self, vmm: &str) -> String {
        fn family(name: &str) -> &str {
            name.split_once('-').map_or(name, |(family, _)| family)
        }
        let mut families: Vec<_> = self.vmms.iter().map(|name| family(name)).collect();
        let mut seen = BTreeSet::new();
        families.retain(|name| seen.insert(*name));
        format!("v{}", style(&families, family(vmm)))
    }

    /// A contender's mark, at a place in its SVG.
    fn mark(&self, vmm: &str, place: &str) -> String {
        format!(r##"<use href="#m{}" {place}/>"##, style(&self.vmms, vmm))
    }

    /// A contender's mark and name, as in rows and legends.
    fn name(&self, vmm: &str) -> String {
        let mark = self.mark(vmm, r#"x="7" y="7""#);
        let svg = format!(
            r#"<svg class="mark" width="14" height="14" aria-hidden="true" focusable="false">{mark}</svg>"#
        );
        format!("{svg}<bdi>{}</bdi>", escape(vmm))
    }

    /// What runs are called where there are several: `A` is the newest.
    fn letter(&self, run: usize) -> String {
        let letter = u8::try_from(run).ok().filter(|run| *run < 26).map(|run| char::from(b'A' + run));
        letter.map_or_else(|| format!("#{}", run + 1), String::from)
    }

    /// The same as a badge; nothing where there is one run only.
    fn badge(&self, run: usize) -> String {
        if self.runs.len() < 2 {
            return String::new();
        }
        format!(r#" <span class="run"><span class="hidden">run </span>{}</span>"#, self.letter(run))
    }

    /// The parts of a figure; points of curves are none, but curves of their own.
    fn parts(&self, whole: &str) -> Vec<&Plot<'a>> {
        let is_part =
            |plot: &&Plot<'_>| plot.figure.point.is_none() && plot.figure.part_of.as_deref() == Some(whole);
        self.plots.iter().filter(is_part).collect()
    }

    /// The points of the curve that a figure is on, along its axis.
    fn curve(&self, of: &Plot<'_>) -> Vec<&Plot<'a>> {
        let name = |plot: &Plot<'_>| plot.figure.point.as_ref().map(|point| point.curve.clone());
        let key = |plot: &Plot<'_>| (plot.figure.group().to_owned(), name(plot), plot.figure.unit);
        let mut points: Vec<_> = self.plots.iter().filter(|plot| key(plot) == key(of)).collect();
        let at = |plot: &Plot<'_>| plot.figure.point.as_ref().map_or(0.0, |point| point.at);
        points.sort_by(|one, other| at(one).total_cmp(&at(other)));
        points
    }

    /// The anchor of the card where a figure is drawn: its own, that of its curve, or that of its whole, if it is a
    /// part of which only one tells.
    fn home(&self, plot: &Plot<'_>) -> String {
        let figure = plot.figure;
        if figure.point.is_some() {
            return anchor(self.curve(plot).first().map_or(&figure.id, |first| &first.figure.id));
        }
        let whole = figure
            .part_of
            .as_deref()
            .filter(|_| !plot.is_contested(self) && self.parts(&figure.id).is_empty());
        let whole = whole.filter(|whole| self.plot(whole).is_none_or(|whole| whole.figure.point.is_none()));
        anchor(whole.unwrap_or(&figure.id))
    }

    fn plot(&self, id: &str) -> Option<&Plot<'a>> {
        self.plots.iter().find(|plot| plot.figure.id == id)
    }
}

impl<'a> Plot<'a> {
    /// A figure in all runs; one that has another unit by now is another figure.
    fn new(figure: &'a Figure, runs: &'a [Results]) -> Self {
        let same = |case: &&Case| case.figure.id == figure.id && case.figure.unit == figure.unit;
        Self { figure, cases: runs.iter().map(|run| run.cases.iter().find(same)).collect() }
    }

    /// A contender's samples in a run.
    fn measured(&self, run: usize, vmm: &str) -> Option<&'a Measured> {
        self.cases.get(run).copied().flatten()?.of(vmm)?.measured()
    }

    /// Why a contender has none in the newest run.
    fn lacking(&self, vmm: &str) -> Option<&'a str> {
        match &self.cases.first().copied().flatten()?.of(vmm)?.outcome {
            Outcome::NotSupported(why) => Some(why),
            Outcome::Measured(_) => None,
        }
    }

    /// Everyone's samples in all runs: the run, the contender and what it has.
    fn all<'p>(&'p self, page: &'p Page<'a>) -> impl Iterator<Item = (usize, &'a str, &'a Measured)> + 'p {
        let runs = 0..self.cases.len();
        page.vmms
            .iter()
            .flat_map(move |vmm| runs.clone().map(move |run| (run, *vmm)))
            .filter_map(|(run, vmm)| Some((run, vmm, self.measured(run, vmm)?)))
    }

    /// Whether several have it.
    fn is_contested(&self, page: &Page<'_>) -> bool {
        let has = |vmm: &&&str| (0..self.cases.len()).any(|run| self.measured(run, vmm).is_some());
        page.vmms.iter().filter(has).count() > 1
    }

    fn direction(&self) -> &'static str {
        match self.figure.better {
            Better::Lower => "less is better",
            Better::Higher => "more is better",
            Better::Neither => "neither more nor less is better",
        }
    }
}

/// One group: its figures, each with its parts beneath; curves; and parts whose whole was not measured.
fn section(page: &Page<'_>, group: &str) -> String {
    let (id, title) = (anchor(group), escape(&capitalized(group)));
    let mut cards = String::new();
    for plot in page.plots.iter().filter(|plot| plot.figure.group() == group) {
        let home = page.home(plot);
        let is_its_own = home == anchor(&plot.figure.id);
        if plot.figure.point.is_none() && is_its_own {
            cards += &strips::card(page, plot);
        } else if is_its_own {
            cards += &curves::card(page, &page.curve(plot));
        }
        let whole = plot.figure.part_of.as_deref().filter(|whole| page.plot(whole).is_none());
        if let Some(whole) = whole
            && page.parts(whole).first().is_some_and(|first| first.figure.id == plot.figure.id)
        {
            cards += &stacks::orphans(page, whole);
        }
    }
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h2 id=\"{id}-title\">{title}</h2>\n\
         <p class=\"lead\">{}</p>\n<div class=\"cards\">\n{cards}</div>\n</section>\n",
        front::about(group),
    )
}

/// The number of a name's mark or colour: the floor's and Bantam's are theirs alone, the others have the rest in turns.
fn style(names: &[&str], name: &str) -> usize {
    let mut others = names.iter().filter(|other| ![FLOOR, BANTAM].contains(*other));
    match name {
        FLOOR => 0,
        BANTAM => 1,
        _ => 2 + others.position(|other| *other == name).unwrap_or_default() % (MARKS.len() - 2),
    }
}

/// The ratio to what is measured without a VMM, in words.
fn to_reference(measured: &Measured) -> Option<String> {
    let ratio = measured.to_reference()?;
    Some(format!("{}\u{a0}× {}", text::ratio(ratio.p50), escape(&ratio.to)))
}

/// With a great first letter.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests;
