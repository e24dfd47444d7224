//! The server that the programs ask: `server.go`, out of the scope, near by on one port and far away on another.

use crate::bench::servers;
use crate::process::Group;
use crate::{interrupt, server};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const SOURCE: &str = include_str!("server.go");
/// In the bench's folder.
const PROGRAM: &str = "first-server";
/// Before the number of a request, in its path.
const MARK: &str = "/v1/first/";
/// Of the number.
const DIGITS: usize = 8;

/// Builds what has to be built: in a virtual machine nothing can be.
pub fn prepare(folder: &Path) -> Result<()> {
    let source = folder.join("first-server.go");
    fs::write(&source, SOURCE)?;
    servers::build_go(&source, &folder.join(PROGRAM), &[])
}

/// Ended with its value.
pub struct Server {
    _group: Group,
    near: u16,
    far: u16,
    pub certificate: PathBuf,
    hellos: Arc<Mutex<HashMap<u32, u64>>>,
}

impl Server {
    pub fn start(folder: &Path, round_trip: Duration, limit: Duration) -> Result<Self> {
        let certificate = server::certificate(folder)?;
        let told = folder.join("first-server.ports");
        let log = folder.join("first-server.log");
        let (hears, says) = std::io::pipe().context("cannot make a pipe")?;
        let mut command = Command::new(folder.join(PROGRAM));
        command
            .arg(&certificate)
            .arg(certificate.with_extension("key"))
            .arg(&told)
            .arg(round_trip.as_millis().to_string())
            .stdout(says)
            .stderr(File::create(&log)?);
        let group = Group::spawn(&mut command)?;
        drop(command);
        let hellos = Arc::new(Mutex::new(HashMap::new()));
        let noting = Arc::clone(&hellos);
        thread::spawn(move || {
            for line in BufReader::new(hears).lines().map_while(Result::ok) {
                if let Some((number, time)) = hello(&line) {
                    let mut hellos = noting.lock().unwrap_or_else(PoisonError::into_inner);
                    hellos.entry(number).or_insert(time);
                }
            }
        });
        let start = Instant::now();
        loop {
            interrupt::check()?;
            let text = fs::read_to_string(&told).unwrap_or_default();
            let ports: Vec<u16> = text.lines().filter_map(|port| port.parse().ok()).collect();
            if let (&[near, far], true) = (ports.as_slice(), text.ends_with('\n')) {
                return Ok(Self {
                    _group: group,
                    near,
                    far,
                    certificate,
                    hellos,
                });
            }
            if group.ended() || start.elapsed() > limit {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("the server does not listen: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// All of an address but its number.
    pub fn address(&self, far: bool) -> String {
        let port = if far { self.far } else { self.near };
        format!("https://localhost:{port}{MARK}")
    }

    pub fn url(&self, far: bool, number: u32) -> String {
        format!("{}{number:0DIGITS$}", self.address(far))
    }

    /// When the first byte of this request's connection came, in nanoseconds since the epoch, if it was asked at all.
    pub fn hello(&self, number: u32) -> Option<u64> {
        let hellos = self.hellos.lock().unwrap_or_else(PoisonError::into_inner);
        hellos.get(&number).copied()
    }
}

/// A line of the server: path and time.
fn hello(line: &str) -> Option<(u32, u64)> {
    let (path, time) = line.split_once(' ')?;
    Some((number(path)?, time.parse().ok()?))
}

/// The number of a request, by its path.
pub fn number(path: &str) -> Option<u32> {
    let digits = path.split_once(MARK)?.1.get(..DIGITS)?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_number() {
        assert_eq!(hello("/v1/first/00000017 1799"), Some((17, 1_799)));
        assert_eq!(hello("/v1/first/00000017/more 5"), Some((17, 5)));
        assert_eq!(hello("/favicon.ico 1799"), None);
        assert_eq!(hello("/v1/first/17 1799"), None);
        assert_eq!(hello("/v1/first/00000017"), None);
    }
}
