//! What every test of the matrix stands on: programs, servers, clients, cgroups, the agent, and what is expected of it.
//!
//! Environment: `TOKENTRAIL_E2E=1` runs these tests at all; `TOKENTRAIL_FIXTURES` is a folder with `venv` and
//! `node/node_modules`; `TOKENTRAIL_RUNG` forces a rung; `TOKENTRAIL_SCOPE=host` (virtual machines only, with
//! `TOKENTRAIL_IN_VM=1`) watches the whole machine; `TOKENTRAIL_TIME_SCALE` stretches every time limit;
//! `TOKENTRAIL_BRIEF=1` repeats less often and skips cells that others stand for; `TOKENTRAIL_ALL=1` repeats as often as
//! nobody waits for; `TOKENTRAIL_CROWD` and `TOKENTRAIL_KILLS`
//! say how many in the tests called so; `TOKENTRAIL_KEEP` is a folder that gets each agent's output; `TOKENTRAIL_AGENT` is another agent program; `TOKENTRAIL_CELLS` is a file that gets one JSON line per cell.
//!
//! Invariant: every process started here is ended by its own pid, also when a test panics.
//! Invariant: field names of events are known to `event.rs` alone, the form of the counters to `counters.rs` alone.

pub mod agent;
pub mod canary;
pub mod cgroup;
pub mod clients;
pub mod counters;
pub mod event;
pub mod expect;
pub mod expected;
pub mod fakes;
pub mod fixtures;
pub mod known;
pub mod lab;
pub mod nginx;
pub mod process;
pub mod programs;
pub mod report;
pub mod scenario;
pub mod servers;
pub mod text;
pub mod token;
pub mod web;

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

static TURN: Mutex<()> = Mutex::new(());

/// Held while a test runs: agents and servers of two tests side by side only slow each other.
pub type Turn = MutexGuard<'static, ()>;

/// `None`, with the reason said, where these tests are not asked for.
pub fn turn(test: &str) -> Option<Turn> {
    if !flag("TOKENTRAIL_E2E") {
        say(&format!(
            "skipped {test}: set TOKENTRAIL_E2E=1 (as root) to run it"
        ));
        return None;
    }
    let held = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if flag("TOKENTRAIL_IN_VM") {
        fixtures::prepare_machine();
    }
    assert!(
        !host_scope() || flag("TOKENTRAIL_IN_VM"),
        "TOKENTRAIL_SCOPE=host is for virtual machines: set TOKENTRAIL_IN_VM=1 there"
    );
    Some(held)
}

/// The whole (virtual) machine is watched: nothing is outside the scope.
pub fn host_scope() -> bool {
    std::env::var("TOKENTRAIL_SCOPE").is_ok_and(|scope| scope == "host")
}

pub fn flag(name: &str) -> bool {
    std::env::var(name).is_ok_and(|value| value == "1")
}

/// A time limit, stretched for slow machines.
pub fn seconds(count: u64) -> Duration {
    let scale = std::env::var("TOKENTRAIL_TIME_SCALE")
        .ok()
        .and_then(|text| text.parse::<f64>().ok());
    Duration::from_secs(count).mul_f64(scale.unwrap_or(1.0).clamp(0.1, 100.0))
}

/// A pause for the agent to do something that nobody outside can see: short even where limits are long.
pub fn pause(count: u64) {
    std::thread::sleep(seconds(count).min(Duration::from_secs(count * 3)));
}

/// `TOKENTRAIL_BRIEF=1`, on a machine that is many times slower: less of the same.
pub fn brief() -> bool {
    flag("TOKENTRAIL_BRIEF")
}

/// `TOKENTRAIL_ALL=1` (`cargo xtask test --all`): also what takes hours.
pub fn all() -> bool {
    flag("TOKENTRAIL_ALL")
}

/// Fewer repetitions of the same where it is [`brief`].
pub fn repeat(count: usize) -> usize {
    if brief() { count.div_ceil(5) } else { count }
}

/// Looks every 20 ms until there is an answer or the time is over.
pub fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A line on standard error, past the test runner's capture: skips and cells show in passing runs too.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
