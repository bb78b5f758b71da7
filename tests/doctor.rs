//! `bantam doctor` as a script sees it.

#![allow(clippy::unwrap_used, reason = "a command that cannot be started has failed the test")]

use std::process::{Command, Output};

fn doctor(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bantam")).arg("doctor").args(options).output().unwrap()
}

#[test]
fn the_exit_code_says_what_the_json_says() {
    let output = doctor(&["--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let can_run = report["can_run"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!can_run)));
    assert_eq!(report["guest_mips"].is_object(), can_run);
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() > 20);
    for check in checks {
        assert!(check["name"].is_string() && check["finding"].is_string(), "{check}");
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "missing", "unknown"].contains(&status), "{check}");
        assert!(!["warn", "missing"].contains(&status) || check["cost"].is_string(), "{check}");
    }
}

#[test]
fn a_pipe_gets_no_colours_and_the_verdict_last() {
    let text = String::from_utf8(doctor(&[]).stdout).unwrap();
    assert!(!text.contains('\x1b'), "{text}");
    let verdict = text.lines().last().unwrap();
    assert!(
        verdict.starts_with("This host runs Bantam") || text.contains("\nBantam cannot run here:"),
        "{text}"
    );
}
