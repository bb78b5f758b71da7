//! `bantam doctor`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::doctor::{self, Check, Report, Status};

/// Lines are broken before this column.
const WIDTH: usize = 80;
const MARK_WIDTH: usize = 9;

const DOCTOR_HELP: &str = "\
A mark begins each line: ok; warn, there but slow, small or off; missing, not there or not for this
user; MISSING, and no machine runs without it; unknown, the host does not tell.

Exit codes: 0 machines run here; 1 they do not.";

#[derive(Args, Debug)]
#[command(after_help = DOCTOR_HELP)]
pub(super) struct Doctor {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let report = doctor::examine();
        let text = if self.json {
            format!("{:#}\n", to_json(&report))
        } else {
            table(&report, Paint { on: colours_are_wanted() })
        };
        let printed = super::documents::print(text.as_bytes())?;
        Ok(if report.can_run() { printed } else { ExitCode::from(super::EXIT_ERROR) })
    }
}

/// By the convention of no-color.org, and where something shows them.
fn colours_are_wanted() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

fn to_json(report: &Report) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "can_run": report.can_run(),
        "verdict": report.verdict(),
        "guest_mips": report.guest_mips,
        "checks": report.checks,
    })
}

/// Puts colour on text, or does not.
#[derive(Clone, Copy)]
struct Paint {
    on: bool,
}

impl Paint {
    const GREEN: &str = "32";
    const YELLOW: &str = "33";
    const RED: &str = "1;31";
    const DIM: &str = "2";

    fn apply(self, colour: &str, text: &str) -> String {
        if self.on { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A check's mark, as wide as its column.
    fn mark(self, check: &Check) -> String {
        let (colour, word) = match check.status {
            Status::Ok => (Self::GREEN, "ok"),
            Status::Warn => (Self::YELLOW, "warn"),
            Status::Missing if check.required => (Self::RED, "MISSING"),
            Status::Missing => (Self::YELLOW, "missing"),
            Status::Unknown => (Self::YELLOW, "unknown"),
        };
        self.apply(colour, &format!("{word:<MARK_WIDTH$}"))
    }
}

fn table(report: &Report, paint: Paint) -> String {
    let name_width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for check in &report.checks {
        text += &paint.mark(check);
        let _ = write!(text, "{:<name_width$}", check.name);
        hang(&mut text, MARK_WIDTH + name_width, &check.finding);
        if check.status.is_remark() {
            for (label, note) in [("cost: ", &check.cost), ("fix:  ", &check.fix)] {
                let Some(note) = note else { continue };
                let _ = write!(text, "{:MARK_WIDTH$}{}", "", paint.apply(Paint::DIM, label));
                hang(&mut text, MARK_WIDTH + label.len(), note);
            }
        }
    }
    let colour = if report.can_run() { Paint::GREEN } else { Paint::RED };
    let mut verdict = String::new();
    hang(&mut verdict, 0, &report.verdict());
    let _ = writeln!(text, "\n{}", paint.apply(colour, verdict.trim_end()));
    text
}

/// Writes words from `column` on, and goes on below where a line is full.
fn hang(text: &mut String, column: usize, words: &str) {
    let mut at = column;
    for word in unbroken(words) {
        let width = word.chars().count();
        if at > column && at + 1 + width > WIDTH {
            let _ = write!(text, "\n{:column$}", "");
            at = column;
        }
        if at > column {
            text.push(' ');
            at += 1;
        }
        text.push_str(&word);
        at += width;
    }
    text.push('\n');
}

/// The words of a text; a command in back quotes, to be copied, is one word. Control characters,
/// which a host's files might hold, become blanks.
fn unbroken(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        quoted ^= letter == '`';
        let blank = letter == ' ' || letter.is_control();
        if blank && !quoted {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(if blank { ' ' } else { letter });
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Mips;

    fn check(name: &'static str, status: Status, required: bool, finding: &str) -> Check {
        let [cost, fix] = ["it is slow", "`sudo make it fast`"].map(|text| Some(text.to_owned()));
        Check { name, status, required, finding: finding.to_owned(), cost, fix }
    }

    fn report(kvm: Status) -> Report {
        let checks = vec![
            check("kernel", Status::Ok, false, "Linux 6.1"),
            check("/dev/kvm", kvm, true, "a finding"),
            check("vhost", Status::Missing, false, &"word ".repeat(30)),
        ];
        Report { checks, guest_mips: Some(Mips { cpl0: 0.5, cpl3: 2000.0 }) }
    }

    #[test]
    fn the_table_shows_remarks_with_their_cost_and_what_is_well_without() {
        let text = table(&report(Status::Ok), Paint { on: false });
        let word = "word ".repeat(12);
        let (first, rest) = (word.trim(), "word ".repeat(6));
        let expected = format!(
            "ok       kernel    Linux 6.1\n\
             ok       /dev/kvm  a finding\n\
             missing  vhost     {first}\n                   {first}\n                   {}\n         \
             cost: it is slow\n         \
             fix:  `sudo make it fast`\n\n\
             This host runs Bantam, with 1 remark.\n",
            rest.trim()
        );
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.len() <= WIDTH));
    }

    #[test]
    fn what_stops_every_machine_is_in_capitals_and_in_the_verdict() {
        let text = table(&report(Status::Missing), Paint { on: false });
        assert!(text.contains("\nMISSING  /dev/kvm  a finding\n"), "{text}");
        assert!(text.ends_with("\nBantam cannot run here: /dev/kvm: a finding.\n"), "{text}");
    }

    #[test]
    fn colour_changes_nothing_but_colour() {
        let plain = table(&report(Status::Missing), Paint { on: false });
        let mut painted = table(&report(Status::Missing), Paint { on: true });
        assert_ne!(plain, painted);
        for colour in [Paint::GREEN, Paint::YELLOW, Paint::RED, Paint::DIM, "0"] {
            painted = painted.replace(&format!("\x1b[{colour}m"), "");
        }
        assert_eq!(plain, painted);
    }

    #[test]
    fn commands_stay_whole_and_control_characters_do_not_reach_the_terminal() {
        assert_eq!(unbroken("a  `b c d`, e\x1b[2J\nf"), ["a", "`b c d`,", "e", "[2J", "f"]);
        assert_eq!(unbroken("`never ended"), ["`never ended"]);
        assert!(unbroken(" \t ").is_empty());
    }

    #[test]
    fn json_has_the_verdict_the_speed_and_every_check() {
        let json = to_json(&report(Status::Ok));
        assert_eq!(json["can_run"], true);
        assert_eq!(json["verdict"], "This host runs Bantam, with 1 remark.");
        assert_eq!(json["guest_mips"], json!({"cpl0": 0.5, "cpl3": 2000.0}));
        let expected = json!({
            "name": "/dev/kvm",
            "status": "ok",
            "required": true,
            "finding": "a finding",
            "cost": "it is slow",
            "fix": "`sudo make it fast`",
        });
        assert_eq!(json["checks"][1], expected);
        assert_eq!(json["checks"].as_array().unwrap().len(), 3);

        let json = to_json(&Report { guest_mips: None, ..report(Status::Missing) });
        assert_eq!((&json["can_run"], &json["guest_mips"]), (&json!(false), &Value::Null));
    }
}
