//! Programs that a test starts: placed in a cgroup, talked to by lines, always ended.

use super::{seconds, wait_for};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where a program runs, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// `cgroup.procs` to join first; `None` stays in the test's own cgroup.
    pub procs: Option<PathBuf>,
    /// User and group id.
    pub user: Option<u32>,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Spec {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: BTreeMap<String, OsString>,
    pub stdin: String,
    pub folder: Option<PathBuf>,
}

impl Spec {
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: String::new(),
            folder: None,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    pub fn stdin(mut self, text: impl Into<String>) -> Self {
        self.stdin = text.into();
        self
    }

    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// What the kernel will name as executable: the file behind every link.
    pub fn executable(&self) -> PathBuf {
        std::fs::canonicalize(&self.program).unwrap_or_else(|_| self.program.clone())
    }

    /// The shell joins the cgroup and then becomes the program: the pid stays the same.
    fn command(&self, place: &Place) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(user) = place.user {
            words.push("/usr/bin/setpriv".into());
            words.extend(
                [
                    format!("--reuid={user}"),
                    format!("--regid={user}"),
                    "--clear-groups".into(),
                ]
                .map(Into::into),
            );
        }
        words.push(self.program.clone().into());
        words.extend(self.args.iter().cloned());
        let mut command = match &place.procs {
            Some(procs) => {
                let mut shell = Command::new("/bin/sh");
                shell
                    .arg("-c")
                    .arg(r#"echo $$ >"$0" && exec "$@""#)
                    .arg(procs)
                    .args(words);
                shell
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .env("LANG", "C.UTF-8");
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONUNBUFFERED", "1")
            .envs(&self.env);
        if let Some(folder) = &self.folder {
            command.current_dir(folder).env("HOME", folder);
        }
        command
    }
}

/// A running program. Dropping it kills it.
pub struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    /// It has children that only it can end.
    gentle: bool,
}

/// How a program ended.
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<String>,
    pub stderr: String,
}

impl Finished {
    /// Its own word for the answer's status was 200.
    pub fn said_200(&self) -> Result<()> {
        let (said, errors) = (&self.stdout, &self.stderr);
        let last = said.last().map(String::as_str);
        anyhow::ensure!(last == Some("200"), "it said {said:?} {errors}");
        Ok(())
    }
}

impl Program {
    /// Starts it with standard input left open after what `spec` says is written.
    pub fn start(spec: &Spec, place: &Place) -> Result<Self> {
        Self::spawn(spec, spec.command(place))
    }

    /// Starts `command` made from `spec` by the caller.
    fn spawn(spec: &Spec, mut command: Command) -> Result<Self> {
        let name = spec
            .program
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", spec.program.display()))?;
        let (sender, lines) = channel();
        let stdout = child.stdout.take().context("standard output")?;
        let out = std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (kept, mut from) = (
            stderr.clone(),
            child.stderr.take().context("standard error")?,
        );
        let err = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        let stdin = child.stdin.take();
        let mut program = Self {
            name,
            child,
            stdin,
            lines,
            stderr,
            readers: vec![out, err],
            gentle: false,
        };
        if !spec.stdin.is_empty() {
            program.send(&spec.stdin)?;
        }
        Ok(program)
    }

    /// Drop it by SIGTERM first, so that it ends its own children.
    pub fn gently(mut self) -> Self {
        self.gentle = true;
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        let name = &self.name;
        stdin
            .write_all(text.as_bytes())
            .and_then(|()| stdin.flush())
            .with_context(|| format!("write to {name}"))
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The next line of standard output.
    pub fn line(&mut self) -> Result<String> {
        self.line_within(seconds(60))
    }

    pub fn line_within(&mut self, limit: Duration) -> Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("{} said nothing for {limit:?}{}", self.name, self.said())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("{} ended early{}", self.name, self.said())
            }
        }
    }

    /// Lines that have come and were not taken.
    pub fn waiting_lines(&mut self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// After its end: the lines not taken, and all of standard error.
    pub fn remains(&mut self) -> (Vec<String>, String) {
        self.readers
            .drain(..)
            .for_each(|reader| drop(reader.join()));
        (self.lines.try_iter().collect(), self.stderr())
    }

    /// Waits until nobody holds its standard output and error any more: neither it nor a child of it.
    pub fn outputs_closed(&self, limit: Duration) -> bool {
        let closed = || {
            self.readers
                .iter()
                .all(JoinHandle::is_finished)
                .then_some(())
        };
        wait_for(limit, closed).is_some()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    fn said(&self) -> String {
        let text = self.stderr();
        if text.trim().is_empty() {
            String::new()
        } else {
            format!("; it said: {}", text.trim())
        }
    }

    /// Closes standard input and waits for the end.
    pub fn finish(mut self) -> Result<Finished> {
        self.close_stdin();
        let status = self.wait(seconds(120))?;
        let (stdout, stderr) = self.remains();
        Ok(Finished {
            status,
            stdout,
            stderr,
        })
    }

    pub fn signal(&self, signal: rustix::process::Signal) -> Result<()> {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.context("pid")?, signal)
            .with_context(|| format!("signal {}", self.name))
    }

    /// Waits without closing standard input.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .with_context(|| format!("wait for {}", self.name))?
            {
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!("{} did not end within {limit:?}{}", self.name, self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.gentle && self.is_running() && self.signal(rustix::process::Signal::TERM).is_ok() {
            let _ = self.wait(seconds(5));
        }
        // An unreaped child keeps its pid: this can reach no other process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end; an exit status other than 0 is an error with what it said.
pub fn run(spec: &Spec, place: &Place) -> Result<(u32, Vec<String>)> {
    let program = Program::start(spec, place)?;
    let (pid, name) = (program.pid(), program.name.clone());
    let finished = program.finish()?;
    if !finished.status.success() {
        bail!("{name}: {}: {}", finished.status, finished.stderr.trim());
    }
    Ok((pid, finished.stdout))
}
