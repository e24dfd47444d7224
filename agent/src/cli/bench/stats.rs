//! The kernel's run time per hit of a process's probes.

use super::{StatsArguments, print};
use anyhow::Context as _;
use serde_json::{Map, Value, json};
use std::{process::ExitCode, time::Duration};
use tokentrail_agent::kernel::empty::Statistics;

pub fn stats(arguments: &StatsArguments) -> anyhow::Result<ExitCode> {
    let statistics = Statistics::on().context("the kernel's statistics cannot be switched on")?;
    let before = statistics.of(arguments.pid)?;
    std::thread::sleep(Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?);
    let after = statistics.of(arguments.pid)?;
    let mut programs = Map::new();
    for (name, now) in after {
        let then = before.get(&name).cloned().unwrap_or_default();
        let (hits, nanoseconds) = (now.hits - then.hits, now.nanoseconds - then.nanoseconds);
        if hits > 0 {
            let per_hit = nanoseconds as f64 / hits as f64;
            programs.insert(
                name,
                json!({ "hits": hits, "nanoseconds_per_hit": per_hit }),
            );
        }
    }
    print(&Value::Object(programs))
}
