//! Starts a program in the scope, and knows when its exec was: `launch.c` takes the time just before it.

use crate::bench::servers;
use crate::process::{self, Group};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOURCE: &str = include_str!("launch.c");
const FLOOD: &str = include_str!("flood.c");

/// In the bench's folder.
const PROGRAM: &str = "launch";
pub const FLOOD_PROGRAM: &str = "flood";

/// Builds what has to be built: in a virtual machine nothing can be.
pub fn prepare(folder: &Path) -> Result<()> {
    servers::build_c(folder, PROGRAM, SOURCE)?;
    servers::build_c(folder, FLOOD_PROGRAM, FLOOD)
}

/// A file that is to be written before the program starts.
#[derive(Clone)]
pub struct Copy {
    pub from: PathBuf,
    pub to: PathBuf,
    /// Where eight bytes of it are changed, unless it is 0.
    pub place: u64,
}

pub struct Launcher {
    /// Of the bench.
    pub folder: PathBuf,
    /// What the programs take for their user's.
    pub home: PathBuf,
    /// `cgroup.procs` of the scope.
    pub procs: PathBuf,
}

/// A run to its end.
pub struct Ran {
    pub pid: u32,
    /// Nanoseconds since the epoch, just before the exec.
    pub executed: u64,
    /// Why it is no good, if it is not.
    pub failure: Option<String>,
}

impl Launcher {
    pub fn command(&self, copies: &[Copy], program: &Path, words: &[OsString]) -> Command {
        let mut command = Command::new(self.folder.join(PROGRAM));
        command.arg(&self.procs).arg(copies.len().to_string());
        for Copy { from, to, place } in copies {
            command.arg(from).arg(to).arg(place.to_string());
        }
        command.arg(program).args(words);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("LANG", "C.UTF-8")
            .env("NO_COLOR", "1")
            .current_dir(&self.home);
        command
    }

    /// Writes the copies, as a process of the scope, and no more.
    pub fn write(&self, copies: &[Copy], limit: Duration) -> Result<()> {
        let done = process::which("true").context("there is no true")?;
        let ran = self.run(&mut self.command(copies, &done, &[]), limit)?;
        ran.failure.map_or(Ok(()), |failure| bail!("{failure}"))
    }

    /// Waits for its end. An error is one of the bench; what the program does wrong is told in what is returned.
    pub fn run(&self, command: &mut Command, limit: Duration) -> Result<Ran> {
        let log = self.folder.join("client.log");
        let (mut told, out) = std::io::pipe().context("cannot make a pipe")?;
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let group = Group::spawn(command.stdout(out).stderr(file));
        // The end that the command holds, or the pipe would not end.
        command.stdout(std::process::Stdio::null());
        let mut group = group?;
        let mut time = String::new();
        told.read_to_string(&mut time)?;
        let pid = group.id();
        let ended = group.wait(Some(limit));
        crate::interrupt::check()?;
        let said = || in_short(&fs::read(&log).unwrap_or_default());
        let failure = match ended {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!("{status}: {}", said())),
            Err(error) => Some(format!("{error:#}")),
        };
        let Ok(executed) = time.trim().parse() else {
            bail!("{}: {}", process::display(command), said());
        };
        Ok(Ran {
            pid,
            executed,
            failure,
        })
    }
}

/// What a program complains of, in one line.
fn in_short(said: &[u8]) -> String {
    const ENOUGH: usize = 300;
    let text = String::from_utf8_lossy(said);
    let words: Vec<&str> = text.split_whitespace().collect();
    let printable = |character: &char| !character.is_control();
    let text = words.join(" ");
    text.chars().filter(printable).take(ENOUGH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_one_line() {
        assert_eq!(
            in_short(b" error:\n  \x1b[1mno\tway\xff\n"),
            "error: [1mno way\u{fffd}"
        );
        assert_eq!(in_short(&[b'x'; 1_000]).len(), 300);
    }
}
