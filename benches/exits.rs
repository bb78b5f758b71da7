//! What the monitor itself adds to an exit: the cases of `bantam::bench::dispatch`, timed by Criterion. A figure is
//! the time of one exit.
//!
//! ```text
//! cargo bench --bench exits
//! ```

#![allow(clippy::expect_used, reason = "a bench that cannot measure has failed")]

use bantam::bench::dispatch::{CASES, Dispatch};
use criterion::{Criterion, Throughput};

fn main() -> anyhow::Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("exit");
    group.throughput(Throughput::Elements(1));
    for case in CASES {
        let dispatch = Dispatch::new(&case)?;
        group.bench_function(case.title, |bencher| {
            bencher.iter_custom(|exits| dispatch.time(exits).expect("the script runs to its end"));
        });
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
