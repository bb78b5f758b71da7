//! A guest with one job, and what it says of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::peers::{Guest, NotSupported, Vmm};
use super::{Setup, process};

/// How long a machine may be silent: longer than the guest waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a job has said: the words of its last line.
#[derive(Debug)]
pub(super) struct Said(BTreeMap<String, String>);

impl Said {
    /// The result of the guest's job: the last line `kind op=.. key=value ..` of its output.
    pub(super) fn parse(output: &str, kind: &str) -> Option<Self> {
        let line = output.lines().rfind(|line| line.starts_with(kind) && line.contains(" ns="))?;
        let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
        Some(Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    }

    /// A number that the job tells.
    pub(super) fn number(&self, key: &str) -> anyhow::Result<f64> {
        let word = self.0.get(key).with_context(|| format!("the guest does not say {key}="))?;
        word.parse().with_context(|| format!("{key}={word}"))
    }

    /// How long the job took.
    pub(super) fn seconds(&self) -> anyhow::Result<f64> {
        let nanoseconds = self.number("ns")?;
        ensure!(nanoseconds > 0.0, "the guest has done nothing");
        Ok(nanoseconds / 1e9)
    }

    /// Something a second, for what the job took.
    pub(super) fn a_second(&self, key: &str) -> anyhow::Result<f64> {
        Ok(self.number(key)? / self.seconds()?)
    }
}

/// Runs a machine whose words are a job, which must go well.
pub(super) fn run(setup: &Setup, vmm: &Vmm, guest: &Guest<'_>) -> anyhow::Result<Said> {
    setup.start(vmm, guest, |mut command| said(&mut command, &guest.words))
}

/// The same with the command at hand.
pub(super) fn said(command: &mut Command, job: &str) -> anyhow::Result<Said> {
    let output = process::output(command, PATIENCE)?;
    let kind = job.split('=').next().unwrap_or_default();
    let said = Said::parse(&output, kind).with_context(|| format!("{job}: the guest says {output:?}"))?;
    for key in ["errors", "wrong"].into_iter().filter(|key| said.0.contains_key(*key)) {
        ensure!(said.number(key)? == 0.0, "{job}: the guest says {output:?}");
    }
    Ok(said)
}

/// Why a VMM cannot run such a machine; none if it can.
pub(super) fn lacks(setup: &Setup, vmm: &Vmm, guest: &Guest<'_>) -> anyhow::Result<Option<String>> {
    match setup.start(vmm, guest, |_| Ok(())) {
        Ok(()) => Ok(None),
        Err(error) => Ok(Some(error.downcast::<NotSupported>()?.0)),
    }
}

#[cfg(test)]
mod tests;
