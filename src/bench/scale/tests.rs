use std::time::Duration;

use super::*;

fn cost(count: u32, pss: f64) -> Cost {
    Cost { count, took: Duration::from_millis(count.into()), pss }
}

#[test]
fn density_is_told_by_what_each_machine_adds() {
    // 10 MiB for all, and 1 MiB for each.
    let mib = f64::from(1 << 20);
    let costs = [cost(1, 11.0 * mib), cost(10, 20.0 * mib), cost(100, 110.0 * mib)];
    assert_eq!(per_gib(&costs), Some(1024.0));
    assert_eq!(per_gib(&costs[..1]), None);
    assert_eq!(per_gib(&[]), None);
}

#[test]
fn a_sample_has_each_point() {
    let sample = sample(&[cost(1, 100.0), cost(10, 200.0)]);
    let of = |id: &str| sample.iter().find(|(other, _)| other == id).unwrap().1;
    assert_eq!((of("scale/start@1"), of("scale/start@10")), (1e6, 1e6));
    assert_eq!((of("scale/pss@1"), of("scale/pss@10")), (100.0, 20.0));
    assert_eq!(sample.len(), 5);
}

#[test]
fn half_of_the_free_memory_may_be_taken() {
    let meminfo = "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   16777216 kB\n";
    let free = available(meminfo).unwrap();
    assert_eq!(free, 16.0 * GIB);
    assert_eq!(fit(free, f64::from(1 << 20)), 8192);
    assert_eq!(available("MemTotal: 5 kB"), None);
}

#[test]
fn a_rate_counts_each_run_once_and_tells_a_failure() {
    let done = AtomicU32::new(0);
    let count = || {
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    assert!(rate(3, 20, &count).unwrap() > 0.0);
    assert_eq!(done.into_inner(), 20);
    let fail = || anyhow::bail!("no such machine");
    assert_eq!(rate(2, 20, &fail).unwrap_err().to_string(), "no such machine");
}
