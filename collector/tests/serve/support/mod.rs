//! A collector as a child, who delivers to it, and what it should have then.

pub mod agent;
pub mod chance;
pub mod events;
pub mod serve;
pub mod stored;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starting a program takes long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What `cargo xtask setup --test` has made, if it has.
pub fn fixture(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TOKENTRAIL_FIXTURES").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/tokentrail/fixtures")
        },
        PathBuf::from,
    );
    Some(folder.join(path)).filter(|path| path.exists())
}

/// A program that it has built.
pub fn tool(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TOKENTRAIL_TOOLS").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/tokentrail/tools")
        },
        PathBuf::from,
    );
    Some(folder.join("bin").join(name)).filter(|path| path.exists())
}

/// The Python that has the tests' packages, if it can import these.
pub fn python(modules: &str) -> Option<PathBuf> {
    let python = std::env::var_os("TOKENTRAIL_PYTHON")
        .map(PathBuf::from)
        .or_else(|| fixture("venv/bin/python"))?;
    let has = Command::new(&python)
        .args(["-c", &format!("import {modules}")])
        .output();
    has.is_ok_and(|output| output.status.success())
        .then_some(python)
}

/// Ports that were free just now.
pub fn ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
}

/// A program that is not ours, ended with its test.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it, and waits until it listens.
    pub fn start(command: &mut Command, log: &Path, port: u16) -> Self {
        let file = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut program = Self {
            child,
            log: log.to_owned(),
        };
        eventually("a program", || {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", program.said());
            TcpStream::connect(("127.0.0.1", port))
                .map(drop)
                .map_err(|error| format!("{error}: {}", program.said()))
        });
        program
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// curl with these arguments and a body: its exit status, and the answer's status line, headers and body.
pub fn curl(arguments: &[&str], body: &[u8]) -> (i32, String) {
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--include",
            "--noproxy",
            "*",
            "--max-time",
            "60",
        ])
        .args(["-H", "expect:"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have failed before it reads.
    let _ = child.stdin.take().unwrap().write_all(body);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A number of the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Waits until `check` says something.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > PATIENCE => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
