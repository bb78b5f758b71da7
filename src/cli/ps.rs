//! `bantam ps`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::terminal;
use crate::config::Size;
use crate::control::{Listed, list};

const PS_HELP: &str = "\
STATE is running, paused, what is being done to the machine, or silent: it does not answer, perhaps
because its process is stopped.";

#[derive(Args, Debug)]
#[command(after_help = PS_HELP)]
pub(super) struct Ps {
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl Ps {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let machines = list()?;
        let text = if self.json {
            format!("{:#}\n", Value::Array(machines.iter().map(to_json).collect()))
        } else {
            table(&machines)
        };
        super::documents::print(text.as_bytes())
    }
}

/// What the machine says of itself, and where it is.
fn to_json(machine: &Listed) -> Value {
    let mut value = match &machine.info {
        Some(info) => json!(info),
        None => json!({"pid": machine.pid, "state": "silent"}),
    };
    if let Value::Object(fields) = &mut value {
        fields.insert("name".to_owned(), json!(machine.name));
        fields.insert("socket".to_owned(), json!(machine.socket));
    }
    value
}

fn table(machines: &[Listed]) -> String {
    let head = ["NAME", "PID", "STATE", "CPUS", "MEMORY", "UPTIME", "KERNEL"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(machines.iter().map(row)).collect();
    let mut widths = [0; 7];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn row(machine: &Listed) -> [String; 7] {
    let name = machine.name.to_string();
    let Some(info) = &machine.info else {
        let pid = machine.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        return [name, pid, "silent".into(), "-".into(), "-".into(), "-".into(), "-".into()];
    };
    [
        name,
        info.pid.to_string(),
        terminal::harmless(&info.state),
        info.cpus.to_string(),
        Size::new(info.memory_bytes).to_string(),
        uptime(Duration::from_millis(info.uptime_ms)),
        info.kernel.as_deref().map_or_else(|| "(embedded)".to_owned(), terminal::harmless),
    ]
}

/// A time in its two largest units.
fn uptime(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Info;

    fn machine(name: &str, info: bool) -> Listed {
        let name: crate::control::Name = name.parse().unwrap();
        let info = info.then(|| Info {
            name: Some(name.clone()),
            pid: 7,
            state: "running".to_owned(),
            cpus: 2,
            memory_bytes: 512 << 20,
            uptime_ms: 61_000,
            kernel: Some("/boot/vm\x1blinux".to_owned()),
            version: "1".to_owned(),
        });
        Listed { name, socket: "/run/x.sock".into(), pid: Some(9), info }
    }

    #[test]
    fn the_table_has_columns_and_does_nothing_to_a_terminal() {
        assert_eq!(
            table(&[machine("web", true), machine("database", false)]),
            "NAME      PID  STATE    CPUS  MEMORY  UPTIME  KERNEL\n\
             web       7    running  2     512M    1m01s   /boot/vm\\u{1b}linux\n\
             database  9    silent   -     -       -       -\n"
        );
    }

    #[test]
    fn json_has_what_the_machine_says_and_where_it_is() {
        let value = to_json(&machine("web", true));
        assert_eq!((&value["name"], &value["cpus"], &value["pid"]), (&json!("web"), &json!(2), &json!(7)));
        assert_eq!(value["socket"], "/run/x.sock");
        let silent = json!({"name": "db", "pid": 9, "state": "silent", "socket": "/run/x.sock"});
        assert_eq!(to_json(&machine("db", false)), silent);
    }

    #[test]
    fn a_time_is_told_in_its_two_largest_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (7384, "2h03m"), (90_000, "1d01h")]
        {
            assert_eq!(uptime(Duration::from_secs(seconds)), expected);
        }
    }
}
