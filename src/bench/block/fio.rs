//! fio: what the host gives without a guest.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::{WORKLOADS, Work};
use crate::bench::process;
use crate::bench::rounds::Sample;

const PATIENCE: Duration = Duration::from_secs(60);

/// All works one after the other, in one process: it takes fio longer to start than to measure.
pub(super) fn run(program: &Path, file: &Path, direct: bool, time: Duration) -> anyhow::Result<Sample> {
    let output = process::output(&mut process::command(program, &arguments(file, direct, time)), PATIENCE)?;
    sample(&output, direct)
}

/// Requests are submitted and taken back in groups, as a device does with what it finds in its queue.
fn arguments(file: &Path, direct: bool, time: Duration) -> Vec<OsString> {
    let mut name = OsString::from("--filename=");
    name.push(file);
    let mut arguments = vec![
        name,
        format!("--direct={}", u8::from(direct)).into(),
        format!("--runtime={}ms", time.as_millis()).into(),
    ];
    let fixed = [
        "--ioengine=io_uring",
        "--time_based",
        // The page cache stays as it is.
        "--invalidate=0",
        "--norandommap",
        "--thread",
        "--output-format=json",
        "--eta=never",
    ];
    arguments.extend(fixed.map(OsString::from));
    for Work { name, fio, block, depth, .. } in &WORKLOADS {
        let of_job = [
            format!("--name={name}"),
            "--stonewall".to_owned(),
            format!("--rw={fio}"),
            format!("--bs={block}"),
            format!("--iodepth={depth}"),
            format!("--iodepth_batch_submit={depth}"),
            format!("--iodepth_batch_complete_max={depth}"),
        ];
        arguments.extend(of_job.map(OsString::from));
    }
    arguments
}

/// The figures of each work, from fio's report in JSON.
fn sample(output: &str, direct: bool) -> anyhow::Result<Sample> {
    // Warnings may come before it.
    let json = output.get(output.find('{').unwrap_or(0)..).unwrap_or_default();
    let report: Value = serde_json::from_str(json).with_context(|| format!("fio says {output}"))?;
    let of = |work: &Work| {
        let jobs = report.get("jobs").and_then(Value::as_array).into_iter().flatten();
        let job = jobs.into_iter().find(|job| job.get("jobname").and_then(Value::as_str) == Some(work.name));
        let side = if work.fio == "write" { "write" } else { "read" };
        let number = |key: &str| {
            let value = job.and_then(|job| job.pointer(&format!("/{side}/{key}"))).and_then(Value::as_f64);
            value
                .filter(|value| *value > 0.0)
                .with_context(|| format!("fio does not say {key} of {}", work.name))
        };
        Ok((work.id(direct), work.of(number("iops")?, number("bw_bytes")?)))
    };
    WORKLOADS.iter().map(of).collect()
}

#[cfg(test)]
mod tests;
