use super::*;

/// A report of all works but those that are left out.
fn report(without: &str) -> String {
    let job = |work: &&Work| {
        let side = if work.fio == "write" { "write" } else { "read" };
        let other = if work.fio == "write" { "read" } else { "write" };
        format!(
            r#"{{"jobname": "{}", "{side}": {{"iops": 2000.0, "bw_bytes": 8192000}}, "{other}": {{"iops": 0.0, "bw_bytes": 0}}}}"#,
            work.name
        )
    };
    let jobs: Vec<_> = WORKLOADS.iter().filter(|work| work.name != without).map(|work| job(&work)).collect();
    format!("fio: a warning\n{{\"fio version\": \"fio-3.33\", \"jobs\": [{}]}}", jobs.join(", "))
}

#[test]
fn each_work_has_its_figure() {
    let sample = sample(&report(""), true).unwrap();
    let of = |id: &str| sample.iter().find(|(name, _)| name == id).unwrap().1;
    assert_eq!(of("block/randread-direct"), 2000.0);
    assert_eq!(of("block/latency-direct"), 500_000.0);
    assert_eq!(of("block/seqread-direct"), 8_192_000.0);
    assert_eq!(of("block/seqwrite-direct"), 8_192_000.0);
    assert_eq!(sample.len(), WORKLOADS.len());
}

#[test]
fn what_is_missing_is_named() {
    let error = sample(&report("seqread"), false).unwrap_err().to_string();
    assert!(error.contains("seqread"), "{error}");
    assert!(sample("fio: no such engine", false).is_err());
}

#[test]
fn all_works_are_asked_for_one_after_the_other() {
    let arguments = arguments(Path::new("/a b/disk.img"), true, Duration::from_millis(150));
    let text: Vec<_> = arguments.iter().map(|argument| argument.to_str().unwrap()).collect();
    assert!(text.contains(&"--filename=/a b/disk.img"));
    assert!(text.contains(&"--direct=1"));
    assert!(text.contains(&"--runtime=150ms"));
    let count = |wanted: &str| text.iter().filter(|argument| argument.starts_with(wanted)).count();
    assert_eq!(count("--stonewall"), WORKLOADS.len());
    assert_eq!(count("--name="), WORKLOADS.len());
    // What is said before the first job is said to all of them.
    let first = text.iter().position(|argument| argument.starts_with("--name=")).unwrap();
    assert!(text[first..].iter().all(|argument| !argument.starts_with("--ioengine")));
}
