//! Children: started in a process group of their own, watched, and ended by their guard.
//!
//! A [`Group`] ends with its value, whatever way the value goes: done, error, panic, or a signal to xtask. The leader
//! is reaped last, so that its number cannot be given to another process while the group is signalled.
//!
//! Invariant: only processes that were started here are signalled, by the id of their group.

use crate::{interrupt, say};
use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);
/// What a child gets between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// A child and whatever it started in its process group.
pub struct Group {
    child: Child,
    id: Pid,
    name: String,
    reaped: Option<ExitStatus>,
}

impl Group {
    /// Standard input is empty; the other streams are as `command` says.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        interrupt::check()?;
        let name = display(command);
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let id = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .with_context(|| format!("{name} has no process id"))?;
        Ok(Self {
            child,
            id,
            name,
            reaped: None,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The leader has ended (it is not reaped by this).
    pub fn ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.reaped.is_some() || !matches!(waitid(WaitId::Pid(self.id), options), Ok(None))
    }

    /// Waits for the leader; past `limit` the group is ended and it is an error.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        self.wait_with(limit, || ())
    }

    fn wait_with(&mut self, limit: Option<Duration>, mut tick: impl FnMut()) -> Result<ExitStatus> {
        let start = Instant::now();
        while !self.ended() {
            interrupt::check()?;
            if limit.is_some_and(|limit| start.elapsed() > limit) {
                self.stop(GRACE);
                let limit = say::elapsed(limit.unwrap_or_default());
                return Err(TimedOut(format!(
                    "{} did not end within {limit} and was stopped",
                    self.name
                ))
                .into());
            }
            tick();
            thread::sleep(POLL);
        }
        self.reap()
    }

    /// SIGTERM, then after `grace` SIGKILL, to the whole group.
    pub fn stop(&mut self, grace: Duration) -> Option<ExitStatus> {
        if self.reaped.is_none() {
            self.signal(Signal::TERM);
            let start = Instant::now();
            while !self.ended() && start.elapsed() < grace {
                thread::sleep(POLL);
            }
            self.signal(Signal::KILL);
        }
        self.reap().ok()
    }

    fn signal(&self, signal: Signal) {
        // ESRCH: the whole group has gone, which is what was asked for.
        let _ = kill_process_group(self.id, signal);
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.reaped {
            return Ok(status);
        }
        let status = self
            .child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))?;
        self.reaped = Some(status);
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.reaped.is_none() {
            self.stop(GRACE);
        }
    }
}

/// The command as a person would type it.
pub fn display(command: &Command) -> String {
    let words: Vec<String> = [command.get_program()]
        .into_iter()
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()))
        .collect();
    words.join(" ")
}

/// One word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%".contains(character);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs it and returns its standard output; anything but success is an error with what it said.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", display(command)))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            display(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a step whose output only matters when it fails: it goes to `log`, its last line is shown meanwhile.
pub fn logged(title: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(file.try_clone()?).stderr(file);
    let mut step = say::Step::start(title);
    let outcome = Group::spawn(command).and_then(|mut group| {
        let mut last = Instant::now();
        group.wait_with(None, || {
            if last.elapsed() > Duration::from_millis(200) {
                last = Instant::now();
                step.tick(tail(log, 1).first().map_or("", String::as_str));
            }
        })
    });
    match outcome {
        Ok(status) if status.success() => {
            step.done(say::Mark::Done);
            Ok(())
        }
        Ok(status) => {
            step.done(say::Mark::Failed);
            Err(anyhow!(
                "{} failed ({status}):\n{}\n(all of it: {})",
                display(command),
                tail(log, 15).join("\n"),
                log.display()
            ))
        }
        Err(error) => {
            step.done(say::Mark::Failed);
            Err(error)
        }
    }
}

/// The last `count` lines that are not blank; a line that a program overwrote (`\r`) counts as its last form.
fn tail(path: &Path, count: usize) -> Vec<String> {
    const ENOUGH: i64 = 8192;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(
            length.saturating_sub(ENOUGH.unsigned_abs()),
        ))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<String> = text
        .split(['\n', '\r'])
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .rev()
        .take(count)
        .map(str::to_owned)
        .collect();
    lines.reverse();
    lines
}

/// A child that was stopped because its time was over.
#[derive(Debug)]
pub struct TimedOut(String);

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

/// Runs it and hands on each line of both streams as it comes.
pub fn lines(
    command: &mut Command,
    limit: Duration,
    mut each: impl FnMut(&str),
) -> Result<ExitStatus> {
    let mut group = Group::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = group.child.stdout.take() {
        forward(stdout, sender.clone());
    }
    if let Some(stderr) = group.child.stderr.take() {
        forward(stderr, sender.clone());
    }
    drop(sender);
    let start = Instant::now();
    loop {
        interrupt::check()?;
        match receiver.recv_timeout(POLL) {
            Ok(line) => each(&line),
            // Something that the child left behind may hold the streams open for ever.
            Err(RecvTimeoutError::Timeout) if group.ended() => break,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if start.elapsed() > limit {
            group.stop(GRACE);
            let limit = say::elapsed(limit);
            return Err(TimedOut(format!(
                "{} did not end within {limit} and was stopped",
                display(command)
            ))
            .into());
        }
    }
    let status = group.wait(Some(limit.saturating_sub(start.elapsed()).max(GRACE)))?;
    // It is told at once that both streams have ended, unless something that the child left behind holds them.
    let end = Instant::now() + 10 * GRACE;
    while Instant::now() < end
        && let Ok(line) = receiver.recv_timeout(GRACE)
    {
        each(&line);
    }
    Ok(status)
}

fn forward(stream: impl Read + Send + 'static, sender: Sender<String>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line);
            if sender
                .send(text.trim_end_matches(['\n', '\r']).to_owned())
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
}

/// Where a program lies: the search path, then the folders for administrators, which a user's path may lack.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// The search path with one more folder at its head.
pub fn in_front(folder: &Path) -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_path_buf()]
        .into_iter()
        .chain(env::split_paths(&path));
    // A folder with a colon in its name cannot be in a search path at all.
    env::join_paths(folders).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for word in ["", "plain-1.0", "two words", "it's", "$HOME;`x`", "a\nb"] {
            let echoed = output(&mut shell(&format!("printf %s {}", quote(word)))).unwrap();
            assert_eq!(echoed, word);
        }
        assert_eq!(quote("/usr/bin/x=1"), "/usr/bin/x=1");
    }

    /// Neither gone nor a zombie that nobody has reaped yet.
    fn runs(id: &str) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", id.trim()))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    fn eventually(what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !done() {
            assert!(Instant::now() < end, "no {what}");
            thread::sleep(POLL);
        }
    }

    #[test]
    fn a_limit_ends_the_whole_group() {
        let note = env::temp_dir().join(format!("xtask-group-{}", std::process::id()));
        let script = format!("sleep 61 & echo $! >{}; sleep 61", note.display());
        let mut group = Group::spawn(&mut shell(&script)).unwrap();
        let written = || fs::read_to_string(&note).is_ok_and(|id| id.ends_with('\n'));
        eventually("a note", written);
        let start = Instant::now();
        let error = group.wait(Some(Duration::from_millis(500))).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
        let grandchild = fs::read_to_string(&note).unwrap();
        fs::remove_file(&note).unwrap();
        // It was told, and may still have to run to end.
        eventually("an end", || !runs(&grandchild));
    }

    #[test]
    fn dropping_ends_it() {
        let group = Group::spawn(&mut shell("sleep 62")).unwrap();
        let id = group.id().to_string();
        assert!(runs(&id));
        drop(group);
        assert!(!runs(&id));
    }

    #[test]
    fn lines_come_from_both_streams_and_the_status_is_kept() {
        let mut seen = Vec::new();
        let status = lines(
            &mut shell("echo one; echo two >&2; printf three; exit 7"),
            Duration::from_secs(20),
            |line| seen.push(line.to_owned()),
        )
        .unwrap();
        seen.sort();
        assert_eq!(seen, ["one", "three", "two"]);
        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn lines_are_limited_in_time() {
        let error = lines(&mut shell("sleep 63"), Duration::from_millis(100), |_| ()).unwrap_err();
        assert!(error.to_string().contains("did not end within"), "{error}");
    }

    #[test]
    fn a_failing_step_shows_the_end_of_its_log() {
        let log = env::temp_dir().join(format!("xtask-log-{}", std::process::id()));
        let error = logged("fails", &mut shell("echo the reason; exit 3"), &log).unwrap_err();
        fs::remove_file(&log).unwrap();
        assert!(error.to_string().contains("the reason"), "{error}");
    }

    #[test]
    fn programs_are_found() {
        assert!(which("sh").is_some());
        assert!(which("no-such-program-here").is_none());
    }
}
