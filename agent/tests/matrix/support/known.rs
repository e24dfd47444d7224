//! Waiting until an agent knows the files of a program: what tests do that are not about a program's first handshake.
//!
//! An agent must search a file before it can read what the file's program encrypts, and a program that was never met
//! may be quicker. So the program is run once, without anything that the test is about, and the agent is asked how many
//! searches wait.

use super::agent::Agent;
use super::lab::Lab;
use super::process::{Place, Program, Spec};
use super::{say, seconds};
use anyhow::Result;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Searches of files, as the agent's snapshot of its coverage has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searches {
    pub waiting: u64,
    pub done: u64,
}

impl Searches {
    /// `None` if the snapshot says nothing of searches.
    pub fn of(snapshot: &Value) -> Option<Self> {
        let searches = snapshot.get("searches")?;
        Some(Self {
            waiting: searches.get("waiting")?.as_u64()?,
            done: searches.get("done")?.as_u64()?,
        })
    }
}

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// So many looks in a row must say the same: what a process has just mapped may be on its way to the queue.
const QUIET: u32 = 3;

/// Waits until no search waits. False if some still do after a long time, which only a test of that can judge.
pub fn settled(agent: &Agent) -> bool {
    let end = Instant::now() + seconds(120);
    let (mut last, mut quiet) = (None, 0);
    while Instant::now() < end {
        // An agent that is busy may not answer in time.
        let now = agent.coverage().ok().as_ref().and_then(Searches::of);
        let is_quiet = now.is_some_and(|now| now.waiting == 0) && last == now;
        quiet = if is_quiet { quiet + 1 } else { 0 };
        if quiet >= QUIET {
            return true;
        }
        last = now;
        std::thread::sleep(LOOK);
    }
    say(&format!("searches still wait: {last:?}"));
    false
}

/// The system's programs that most tests have as clients and servers. None of them reaches anything.
const USUAL: [(&str, &[&str]); 6] = [
    ("/usr/bin/curl", &["-q", "-s", "https://127.0.0.1:1/"]),
    ("/usr/bin/wget", &["--version"]),
    ("/usr/bin/python3", &["-c", "import ssl"]),
    ("/usr/bin/node", &["--version"]),
    ("/usr/sbin/nginx", &["-v"]),
    ("/usr/lib/git-core/git-remote-http", &[]),
];

/// The agent meets the usual programs and knows their files.
pub fn usual(agent: &Agent, lab: &Lab) -> Result<()> {
    for (program, args) in USUAL {
        if Path::new(program).exists() {
            let spec = Spec::new(program).args(args.iter().copied());
            run_once(&spec, &lab.inside())?;
        }
    }
    settled(agent);
    Ok(())
}

/// Runs a program to its end, whatever that is, so that the agent meets its files.
pub fn run_once(spec: &Spec, place: &Place) -> Result<()> {
    let mut program = Program::start(spec, place)?;
    program.close_stdin();
    program.wait(seconds(120)).map(drop)
}

/// The agent meets the files of this program, and knows them before anything else happens.
pub fn introduce(agent: &Agent, spec: &Spec, place: &Place) -> Result<()> {
    run_once(spec, place)?;
    settled(agent);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn searches_are_read_where_the_snapshot_has_them() {
        let told = json!({"searches": {"waiting": 2, "done": 5}});
        let wanted = Searches {
            waiting: 2,
            done: 5,
        };
        assert_eq!(Searches::of(&told), Some(wanted));
        assert_eq!(Searches::of(&json!({"rows": []})), None);
    }
}
