//! `bantam bench report`: the page is well-formed, has all figures with their numbers, refers to nothing elsewhere, and
//! what is hostile in results is text.

#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail loudly")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use bantam::bench::host::{Host, Quiet};
use bantam::bench::report::page;
use bantam::bench::results::{Case, Contender, Figure, Results, SCHEMA, Unit};
use bantam::bench::rounds::Contest;

/// What would do something if it were not text.
const HOSTILE: &str =
    "qemu-<script>alert('1')</script>\"&\u{202e}<img src=https://example.org onerror=alert(1)>";
const ROUNDS: usize = 6;

/// A contest in which everyone has what is asked, by a time that is told, and none of them in the round 3 has a peer.
fn contest(figures: &[Figure], means: &[(&str, f64)], absent: &[(&str, &str)]) -> Vec<Case> {
    let mut contest = Contest::new(figures.to_vec(), 0, ROUNDS);
    for (vmm, mean) in means {
        let every = if ["floor", "bantam"].contains(vmm) { 1 } else { 2 };
        let mut round = 0.0;
        contest.add_every(every, *vmm, move || {
            round += 1.0;
            // The last is an outlier.
            let slow = if round > 5.0 { 9.0 } else { 1.0 + round / 100.0 };
            Ok(figures.iter().map(|figure| (figure.id.clone(), mean * slow)).collect())
        });
    }
    for (vmm, why) in absent {
        contest.lacks(*vmm, *why);
    }
    contest.run(&mut |_, _| ()).unwrap()
}

/// A run that has everything: parts, of one and of several; a curve; what nobody has; what only a hostile peer has.
fn results(speed: f64) -> Results {
    let time = |id: &str, title: &str| Figure::lower(id, title, Unit::Nanoseconds);
    let everyone = [("floor", 1e6), ("bantam", 1.5e6 / speed), (HOSTILE, 9e7)];
    let peers_lack = [("floor", "it has none"), (HOSTILE, "no <b>phases</b> are told")];
    let mut cases = contest(&[time("start/exit", "exec to exit")], &everyone, &[]);
    let parts = ["start/first-byte", "start/tear-down"].map(|id| time(id, id).part_of("start/exit"));
    cases.extend(contest(&parts, &everyone, &[]));
    let phases = ["start/phase-a", "start/phase-b"].map(|id| time(id, id).part_of("start/first-byte"));
    cases.extend(contest(&phases, &everyone[1..2], &peers_lack));
    let orphans =
        ["memory/heap", "memory/file"].map(|id| Figure::lower(id, id, Unit::Bytes).part_of("memory/all"));
    cases.extend(contest(&orphans, &everyone[1..], &[("floor", "it has none")]));
    for at in [1.0, 4.0, 16.0] {
        let point = Figure::higher(format!("scale/{at}"), format!("{at} machines"), Unit::PerSecond);
        let point = point.on("machines at once", "machines & more", at);
        cases.extend(contest(
            &[point],
            &[("bantam", 1e3 * at), (HOSTILE, 90.0 * at)],
            &[("floor", "not a VMM")],
        ));
    }
    let nobody = ["floor", "bantam", HOSTILE].map(|vmm| (vmm, "no /dev/vhost-vsock"));
    cases.extend(contest(&[Figure::higher("vsock/stream", "a stream", Unit::BytesPerSecond)], &[], &nobody));
    let contender = |name: &str| Contender {
        name: name.to_owned(),
        version: Some(format!("{name} 1.0")),
        program: Some("/usr/bin/<x>".to_owned()),
    };
    Results {
        schema: SCHEMA,
        bantam: "0.1.0".to_owned(),
        commit: Some("abc".to_owned()),
        began: "2026-01-02T03:04:05Z".to_owned(),
        took_s: 12.5,
        effort: "quick".to_owned(),
        host: Host {
            cpu: "Processor <i>4000</i>".to_owned(),
            cores: 2,
            memory: 1 << 34,
            kernel: "6.1.0".to_owned(),
            mitigations: BTreeMap::from([("meltdown".to_owned(), "<u>".to_owned())]),
            ..Host::default()
        },
        quiet: Quiet {
            disturbed: vec!["other processes used <b>1.5</b> cores".to_owned()],
            ..Quiet::default()
        },
        vmms: ["floor", "bantam", HOSTILE].map(contender).into(),
        cases,
    }
}

/// What is on the page as hostile text: a mark that turns the line around is not kept.
fn shown(text: &str) -> String {
    text.replace('\u{202e}', "\u{fffd}")
}

/// An element, and what is in it.
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    /// Its own text and that of all in it.
    text: String,
    /// The element that it is in.
    parent: Option<usize>,
}

/// The elements of a page, in the order in which they begin; fails unless each that is opened is closed.
struct Document(Vec<Element>);

impl Document {
    fn of(page: &str) -> Self {
        const VOID: [&str; 5] = ["meta", "link", "input", "br", "!DOCTYPE"];
        let mut elements: Vec<Element> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        let mut rest = page;
        while let Some((text, tag)) = rest.split_once('<') {
            assert!(
                !text.contains('>') || open.last().is_some_and(|last| elements[*last].name == "style"),
                "{text:?}"
            );
            for index in &open {
                elements[*index].text += &unescaped(text);
            }
            let (tag, after) = tag.split_once('>').unwrap();
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                let last = open.pop().map(|index| elements[index].name.as_str());
                assert_eq!(last, Some(name), "closed after {text:?}");
                continue;
            }
            let (tag, is_whole) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '!'), "{tag:?}");
            let attributes = attributes_of(attributes);
            elements.push(Element {
                name: name.to_owned(),
                attributes,
                text: String::new(),
                parent: open.last().copied(),
            });
            if !is_whole && !VOID.contains(&name) {
                open.push(elements.len() - 1);
            }
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "open at the end: {open:?}, {rest:?}");
        Self(elements)
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.0.iter().filter(move |element| element.name == name)
    }

    fn of_class<'a>(&'a self, class: &'a str) -> impl Iterator<Item = (usize, &'a Element)> {
        let is_it = move |(_, element): &(usize, &Element)| {
            element.attributes.get("class").is_some_and(|classes| classes.split(' ').any(|one| one == class))
        };
        self.0.iter().enumerate().filter(is_it)
    }

    fn is_in(&self, element: &Element, outer: usize) -> bool {
        let mut parent = element.parent;
        while let Some(index) = parent {
            if index == outer {
                return true;
            }
            parent = self.0[index].parent;
        }
        false
    }

    fn values<'a>(&'a self, attribute: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |element| element.attributes.get(attribute)).map(String::as_str)
    }
}

/// `a="b" c d="e"`.
fn attributes_of(text: &str) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix("=\"") {
            Some(value) => value.split_once('"').unwrap(),
            None => ("", after),
        };
        assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-'), "{text:?}");
        assert!(attributes.insert(name.to_owned(), unescaped(value)).is_none(), "{name} twice in {text:?}");
        rest = after.trim_start();
    }
    attributes
}

fn unescaped(text: &str) -> String {
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    plain.into_iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[test]
fn the_page_is_well_formed_and_refers_to_nothing_elsewhere() {
    let (newest, earlier) = (results(1.0), results(2.0));
    for runs in [vec![newest.clone()], vec![newest, earlier]] {
        let document = Document::of(&page(&runs));
        let allowed: BTreeSet<_> =
            ["html", "head", "body", "main", "nav", "section", "article", "svg", "table"].into();
        assert!(allowed.iter().all(|name| document.named(name).next().is_some()));
        for name in ["script", "img", "iframe", "object", "embed", "b1", "image"] {
            assert_eq!(document.named(name).count(), 0, "{name}");
        }
        let ids: Vec<_> = document.values("id").collect();
        let unique: BTreeSet<_> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len(), "{ids:?}");
        for link in document.values("href").filter(|link| *link != "data:,") {
            assert!(link.strip_prefix('#').is_some_and(|id| unique.contains(id)), "{link}");
        }
        for label in document.values("aria-labelledby") {
            assert!(unique.contains(label), "{label}");
        }
        assert_eq!(document.values("src").count() + document.values("srcset").count(), 0);
        let style: String = document.named("style").map(|style| style.text.as_str()).collect();
        assert!(!style.is_empty() && !style.contains("url(") && !style.contains("@import"));
        let mut drawn = ["d", "x", "x1", "x2", "y", "width", "height", "style"]
            .into_iter()
            .flat_map(|name| document.values(name));
        assert!(drawn.all(|value| !value.contains("NaN") && !value.contains("inf")));
        let policy = document
            .named("meta")
            .find_map(|meta| meta.attributes.get("content").filter(|text| text.contains("-src")));
        assert!(policy.unwrap().starts_with("default-src 'none';"));
        assert!(
            document.0.iter().all(|element| !element.attributes.keys().any(|name| name.starts_with("on")))
        );
    }
}

#[test]
fn all_figures_are_there_with_their_numbers_and_reasons() {
    let run = results(1.0);
    let document = Document::of(&page(std::slice::from_ref(&run)));
    let codes: BTreeSet<_> = document.named("code").map(|code| code.text.as_str()).collect();
    for case in &run.cases {
        assert!(codes.contains(case.figure.id.as_str()), "{}", case.figure.id);
    }
    // A chart and its table are in one card.
    let mut charts = 0;
    for (card, _) in document.of_class("card") {
        let has = |name: &str| document.named(name).any(|element| document.is_in(element, card));
        if document.of_class("fig").any(|(_, figure)| document.is_in(figure, card)) {
            assert!(has("svg") || document.of_class("none").any(|(_, none)| document.is_in(none, card)));
            assert!(has("details") && has("table"));
            charts += 1;
        }
    }
    // exit, first byte and tear-down; two memories and what they make up; a curve; what nobody has; three of ratios.
    assert_eq!(charts, 3 + 3 + 1 + 1 + 3);
    for table in document.named("table") {
        assert!(table.text.chars().any(char::is_alphanumeric));
    }
    let page: String = document.named("body").map(|body| body.text.as_str()).collect();
    for reason in ["no <b>phases</b> are told", "no /dev/vhost-vsock", "it has none", "not a VMM"] {
        assert!(
            page.contains(&format!("not supported: {reason}")) || page.contains(&format!(": {reason}")),
            "{reason}"
        );
    }
    for text in
        ["Not quiet: other processes used <b>1.5</b> cores", "Processor <i>4000</i>", "<u>", "/usr/bin/<x>"]
    {
        assert!(page.contains(text), "{text}");
    }
    let names: Vec<_> = document.named("bdi").map(|name| name.text.as_str()).collect();
    assert!(names.contains(&shown(HOSTILE).as_str()), "{names:?}");
    // The medians of 6 rounds with one outlier: of a million and 1 to 5 hundredths of it.
    assert!(page.contains("1.03\u{a0}ms") && page.contains("1.50\u{a0}× floor"), "{page}");
}

#[test]
fn every_chart_can_be_reached_by_keys_and_named() {
    let document = Document::of(&page(&[results(1.0)]));
    for input in document.named("input") {
        let label = input.parent.map(|parent| &document.0[parent]).unwrap();
        assert_eq!((label.name.as_str(), input.attributes["type"].as_str()), ("label", "radio"));
        assert!(!label.text.is_empty());
    }
    for (_, region) in document.of_class("scroll") {
        assert_eq!(region.attributes["tabindex"], "0");
        assert!(!region.attributes["aria-label"].is_empty());
    }
    let contents: BTreeSet<_> = document
        .named("nav")
        .flat_map(|_| document.named("a"))
        .filter_map(|link| link.attributes.get("href")?.strip_prefix('#'))
        .collect();
    for section in document.named("section") {
        assert!(contents.contains(section.attributes["id"].as_str()), "{}", section.attributes["id"]);
    }
    let hidden =
        |element: &Element| element.attributes.get("aria-hidden").is_some_and(|hidden| hidden == "true");
    for svg in document.named("svg") {
        let mut around = svg.parent;
        let mut is_hidden = hidden(svg);
        while let Some(index) = around {
            is_hidden |= hidden(&document.0[index]);
            around = document.0[index].parent;
        }
        assert!(is_hidden, "its numbers are told by words and tables: {:?}", svg.attributes);
    }
}

#[test]
fn earlier_runs_are_drawn_and_what_has_changed_is_told() {
    let document = Document::of(&page(&[results(1.0), results(2.0)]));
    let (changes, _) = document
        .0
        .iter()
        .enumerate()
        .find(|(_, element)| element.attributes.get("id").is_some_and(|id| id == "changes"))
        .unwrap();
    let verdicts: Vec<_> = document.of_class("worse").filter(|(_, cell)| cell.name == "td").collect();
    assert!(verdicts.iter().all(|(_, cell)| document.is_in(cell, changes)));
    // Of times that the floor has, the ratios to it are steady; of the others, six samples with an outlier tell nothing.
    assert_eq!(verdicts.len(), 3);
    let rows = document.of_class("earlier").filter(|(_, row)| row.name == "div").count();
    // Three, of everyone; two memories, which the floor has not.
    assert_eq!(rows, 3 * 3 + 2 * 2);
    assert!(document.of_class("runs").count() == 1);
    let single = Document::of(&page(&[results(1.0)]));
    assert_eq!(
        single.of_class("earlier").count() + single.of_class("runs").count() + single.of_class("run").count(),
        0
    );
}

#[test]
fn the_command_writes_the_page() {
    let folder = tempfile::tempdir().unwrap();
    let (kept, made) = (folder.path().join("a.json"), folder.path().join("page.html"));
    let run = results(1.0);
    fs::write(&kept, serde_json::to_string(&run).unwrap()).unwrap();
    let report = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bantam"));
        command.args(["bench", "report"]).arg(&kept).arg("--output").arg(&made).output().unwrap()
    };
    let output = report();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(&made).unwrap(), page(&[run]));
    fs::write(&kept, r#"{"schema": 99}"#).unwrap();
    let output = report();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("schema 99"), "{output:?}");
}

/// A browser without a window shows the page: nothing is said to its console, and all is there.
#[test]
fn a_browser_has_nothing_to_complain_of() {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<_> = env::split_paths(&env::var_os("PATH").unwrap()).collect();
    let browser =
        folders.iter().flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file());
    let Some(browser) = browser.or_else(|| common::skip("no chromium on PATH")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("page.html");
    let text = page(&[results(1.0), results(2.0)]);
    fs::write(&made, &text).unwrap();
    let (profile, shown) = (folder.path().join("profile"), made.clone());
    let output = common::watched("chromium", move || browse(&browser, &profile, &shown));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("CONSOLE"), "{said}");
    let dom = String::from_utf8_lossy(&output.stdout);
    for tag in ["<svg", "<table", "<article", "<figure", "<use", "<input"] {
        assert_eq!(dom.matches(tag).count(), text.matches(tag).count(), "{tag}");
    }
    assert_eq!(dom.matches("<script").count(), 0);
}

fn browse(browser: &Path, profile: &Path, page: &Path) -> std::process::Output {
    let options =
        ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"];
    let mut command = Command::new(browser);
    command.args(options).arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("file://{}", page.display())).output().unwrap()
}
