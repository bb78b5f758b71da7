//! Imports run one way through the library: a module may use those below it and none above.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules, lowest floor first; those of one floor do not use each other.
const FLOORS: [&[&str]; 10] = [
    &["config", "state", "timeline"],
    &["memory", "event", "streams"],
    &["bus", "irq", "hypervisor"],
    &["boot", "devices", "vcpu", "virtio"],
    &["console"],
    &["machine"],
    &["snapshot"],
    &["control", "doctor"],
    &["bench"],
    &["cli"],
];

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module} has no floor"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// A device's configuration is in its folder, and as inert as the rest of the configuration: a part
/// of the lowest floor.
fn is_device_config(path: &str) -> bool {
    let mut parts = path.split("::");
    parts.next() == Some("virtio") && parts.nth(1) == Some("config")
}

/// The top modules that a file's code, tests in it aside, names as `crate::module`.
fn used(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .filter(|rest| !is_device_config(rest))
        .map(|rest| rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_').next().unwrap())
        .filter(|module| !module.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn imports_run_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 30, "the walk found just {} files", files.len());
    let mut arrows = 0;
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        let mut module = path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "virtio" && path.ends_with("config.rs") {
            module = "config";
        }
        if ["lib", "main", "testing"].contains(&module) {
            continue;
        }
        for other in used(&fs::read_to_string(&file).unwrap()) {
            if other != module && other != "testing" {
                arrows += 1;
                assert!(
                    floor(&other) < floor(module),
                    "{} uses crate::{other}, which is not below it",
                    path.display()
                );
            }
        }
    }
    assert!(arrows > 30, "the walk found just {arrows} imports");
}
