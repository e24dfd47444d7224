//! Programs, certificates and places for them.

pub mod arrived;
mod certificates;
pub mod feed;
pub mod proxy;
pub mod server;

pub use certificates::Certificates;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starting a program takes long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether tests with real programs are asked for; said, if not.
pub fn asked(test: &str) -> bool {
    let asked = std::env::var("TOKENTRAIL_RECEIVERS").is_ok_and(|value| value == "1");
    if !asked {
        println!("skipped {test}: set TOKENTRAIL_RECEIVERS=1 (after `cargo xtask setup --test`)");
    }
    asked
}

/// What `cargo xtask setup --test` made.
pub fn fixture(path: &str) -> PathBuf {
    let folder = std::env::var_os("TOKENTRAIL_FIXTURES").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tokentrail/fixtures"),
        PathBuf::from,
    );
    let path = folder.join(path);
    assert!(
        path.exists(),
        "{} is not there: cargo xtask setup --test",
        path.display()
    );
    path
}

/// A program that is ended with its test.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Waits until `ready`; a program that ended is not waited for.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "not ready ({ended:?}): {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
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

pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Ports that were free just now.
pub fn ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
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
