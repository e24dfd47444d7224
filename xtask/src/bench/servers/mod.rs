//! Servers with a TLS of their own, beside nginx: Go, node, gRPC for Python. In the bench's cgroup, on loopback.
//!
//! Each writes the port that it has chosen into a file. One that cannot be had is left out, and its row is empty.

use crate::demo::cgroup::{self, Cgroup};
use crate::process::{self, Group};
use crate::workspace::Workspace;
use crate::{interrupt, say, setup};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const GO: &str = include_str!("server.go");
const NODE: &str = include_str!("server.mjs");
const GRPC: &str = include_str!("server_grpc.py");

/// Where the Go server is built, in the bench's folder.
const GO_PROGRAM: &str = "go-server";

/// Builds what has to be built: in a virtual machine nothing can be.
pub fn prepare(folder: &Path) {
    let source = folder.join("server.go");
    let built = fs::write(&source, GO)
        .map_err(Into::into)
        .and_then(|()| build_go(&source, &folder.join(GO_PROGRAM), &[]));
    if let Err(error) = built {
        say::line(&format!(" - no Go server: {error:#}"));
    }
}

/// Builds a Go program.
pub fn build_go(source: &Path, target: &Path, flags: &[&str]) -> Result<()> {
    let usual = Path::new("/usr/local/go/bin/go");
    let go = Some(usual.to_path_buf())
        .filter(|go| go.exists())
        .or_else(|| process::which("go"))
        .context("there is no go")?;
    let mut command = Command::new(go);
    command
        .args(["build", "-trimpath"])
        .args(flags)
        .arg("-o")
        .arg(target)
        .arg(source)
        .env("GOTOOLCHAIN", "local");
    process::output(&mut command).map(drop)
}

/// Builds a small C program in the bench's folder.
pub fn build_c(folder: &Path, name: &str, source: &str) -> Result<()> {
    let file = folder.join(format!("{name}.c"));
    fs::write(&file, source).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new("cc");
    command.args(["-O1", "-pthread", "-o"]);
    process::output(command.arg(folder.join(name)).arg(&file)).map(drop)
}

pub struct Servers {
    pub go: Option<u16>,
    pub node: Option<u16>,
    pub grpc: Option<u16>,
    _groups: Vec<Group>,
}

impl Servers {
    /// `certificate`: nginx's, whose key lies beside it.
    pub fn start(
        workspace: &Workspace,
        cgroup: &Cgroup,
        folder: &Path,
        certificate: &Path,
        limit: Duration,
    ) -> Self {
        let mut groups = Vec::new();
        let mut one = |name: &str, words: Result<Vec<PathBuf>>| {
            let started = words
                .and_then(|words| start(cgroup.folder(), folder, name, &words, certificate, limit));
            match started {
                Ok((group, port)) => {
                    groups.push(group);
                    Some(port)
                }
                Err(error) => {
                    say::line(&format!(" - no {name} server: {error:#}"));
                    None
                }
            }
        };
        let go = folder.join(GO_PROGRAM);
        let built = go.exists().then(|| vec![go]).context("it was not built");
        Self {
            go: one("Go", built),
            node: one("node", node(folder)),
            grpc: one("gRPC", grpc(workspace, folder)),
            _groups: groups,
        }
    }
}

fn node(folder: &Path) -> Result<Vec<PathBuf>> {
    let script = folder.join("server.mjs");
    fs::write(&script, NODE)?;
    Ok(vec![process::which("node").context("no node")?, script])
}

fn grpc(workspace: &Workspace, folder: &Path) -> Result<Vec<PathBuf>> {
    let python = setup::python(workspace);
    process::output(Command::new(&python).args(["-c", "import grpc"]))
        .context("grpcio is not there: cargo xtask setup --test")?;
    let script = folder.join("server_grpc.py");
    fs::write(&script, GRPC)?;
    Ok(vec![python, script])
}

/// In the cgroup `scope`; waits until it has told its port.
pub fn start(
    scope: &Path,
    folder: &Path,
    name: &str,
    words: &[PathBuf],
    certificate: &Path,
    limit: Duration,
) -> Result<(Group, u16)> {
    let (program, arguments) = words.split_first().context("a program")?;
    let told = folder.join(format!("{name}.port"));
    let log = File::create(folder.join(format!("{name}.log")))?;
    let mut command = cgroup::enter(scope, program);
    command
        .args(arguments)
        .arg(certificate)
        .arg(certificate.with_extension("key"))
        .arg(&told)
        .stdout(log.try_clone()?)
        .stderr(log);
    let group = Group::spawn(&mut command)?;
    let start = Instant::now();
    loop {
        interrupt::check()?;
        let text = fs::read_to_string(&told).unwrap_or_default();
        if let Some(port) = text.strip_suffix('\n').and_then(|port| port.parse().ok()) {
            return Ok((group, port));
        }
        if group.ended() || start.elapsed() > limit {
            let said = fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default();
            bail!("it does not listen: {}", said.trim());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
