//! How long the finder takes for files: in this process, from the page cache.

use super::{FindArguments, print};
use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::{
    fs::File,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokentrail_agent::kernel::keylog::{Cache, Finder};

pub fn find(arguments: &FindArguments) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for path in &arguments.files {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        // The first look reads the file from the disk, perhaps: it is not measured.
        let (first, _, found) = look(&file)?;
        let mut times = Vec::new();
        for _ in 0..arguments.rounds.max(1) {
            let (wall, cpu, _) = look(&file)?;
            times.push((wall, cpu));
        }
        let middle = |mut times: Vec<f64>| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        };
        files.push(json!({
            "file": path,
            "bytes": file.metadata()?.len(),
            "points": found,
            "cold_milliseconds": first,
            "first_milliseconds": times[0].0,
            "milliseconds": middle(times.iter().map(|time| time.0).collect()),
            "cpu_milliseconds": middle(times.iter().map(|time| time.1).collect()),
        }));
    }
    print(&Value::Array(files))
}

/// Milliseconds by the clock and of the processor, and how many points were found.
fn look(file: &File) -> anyhow::Result<(f64, f64, usize)> {
    let mut finder = Finder::new(Cache::in_memory());
    let (begin, used) = (Instant::now(), cpu_time());
    let found = finder.look_at_file(file)?;
    let (wall, cpu) = (begin.elapsed(), cpu_time().saturating_sub(used));
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    Ok((milliseconds(wall), milliseconds(cpu), found.points.len()))
}

/// Of this thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
