//! The crowd: programs that make exchanges, and what they and the servers say of each.

use crate::support::lab::Lab;
use crate::support::process::{Program, Spec, run as run_program};
use crate::support::report::Cells;
use crate::support::servers::{Fact, Server, Target, Wire};
use crate::support::{fixtures, seconds, token};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// Every lane begins an exchange with each slot of the clock.
const SLOT: Duration = Duration::from_millis(200);
/// One in so many exchanges is on a new connection. Has no divisor in common with the number of listeners.
const FRESH: u64 = 5;
/// What servers answer with, in turn.
const STATUSES: [u16; 7] = [200, 204, 401, 404, 500, 200, 401];

/// One exchange as its client knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Exchange {
    pub number: u64,
    pub credential: String,
    pub status: u16,
    pub pid: u32,
    local: (IpAddr, u16),
    peer: (IpAddr, u16),
    /// Microseconds; 0 where the client does not tell.
    #[serde(default)]
    began: u64,
    #[serde(default)]
    ended: u64,
    /// Whose it is, as the table of programs has it.
    #[serde(skip)]
    pub program: &'static str,
    #[serde(skip)]
    pub executable: PathBuf,
}

impl Exchange {
    pub fn local(&self) -> SocketAddr {
        self.local.into()
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer.into()
    }

    pub fn path(&self) -> String {
        path(self.number)
    }
}

fn status(number: u64) -> u16 {
    STATUSES[(number % STATUSES.len() as u64) as usize]
}

fn path(number: u64) -> String {
    format!("/cell/crowd-{number}/status/{}", status(number))
}

/// Where exchanges go, and what is spoken there.
pub struct Listener {
    pub name: &'static str,
    pub server: &'static str,
    /// Its server's.
    pub executable: PathBuf,
    pub target: Target,
    pub http2: bool,
}

/// Those of these servers.
pub fn listeners(servers: &[&Server]) -> Vec<Listener> {
    let mut all = Vec::new();
    for server in servers {
        let names: &[(&'static str, Wire, bool)] = &[
            ("http", Wire::Clear, false),
            ("tls12", Wire::Tls12, false),
            ("tls13", Wire::Tls13, false),
            ("h2", Wire::Tls13, true),
            ("h2_clear", Wire::Clear, true),
        ];
        for (name, wire, http2) in names {
            if server.has(name) {
                all.push(Listener {
                    name,
                    server: server.name,
                    executable: server.executable.clone(),
                    target: server.listener(name, *wire),
                    http2: *http2,
                });
            }
        }
    }
    all
}

/// A program of the crowd.
struct Group {
    name: &'static str,
    spec: Result<Spec>,
    processes: u64,
    lanes: u64,
    http2: bool,
}

fn groups(lab: &Lab) -> [Group; 3] {
    let node = fixtures::system("/usr/bin/node").map(|node| {
        let spec = Spec::new(node).arg(lab.path("crowd.mjs"));
        spec.env("NODE_EXTRA_CA_CERTS", lab.certificate())
    });
    [
        Group {
            name: "go",
            spec: fixtures::go_crowd().map(Spec::new),
            processes: 3,
            lanes: 16,
            http2: true,
        },
        Group {
            name: "node",
            spec: node,
            processes: 2,
            lanes: 12,
            http2: true,
        },
        Group {
            name: "python",
            spec: fixtures::python().map(|python| Spec::new(python).arg(lab.path("crowd.py"))),
            processes: 3,
            lanes: 6,
            http2: false,
        },
    ]
}

/// One in so many exchanges is curl's.
const OF_CURL: u64 = 16;
const CURL_LANES: u64 = 4;
/// Exchanges of one curl.
const CURL_BATCH: u64 = 7;

/// `count` exchanges or a few more, numbered from `first`, all programs side by side.
pub fn run(
    lab: &Lab,
    listeners: &[Listener],
    first: u64,
    count: u64,
    cells: &mut Cells,
) -> Result<Vec<Exchange>> {
    let mut there = Vec::new();
    for group in groups(lab) {
        match group.spec {
            Ok(spec) => there.push((group.name, spec, group.processes, group.lanes, group.http2)),
            Err(missing) if first == 0 => {
                cells.skip(&format!("client-{}", group.name), &format!("{missing:#}"));
            }
            Err(_) => {}
        }
    }
    let lanes: u64 = there
        .iter()
        .map(|(_, _, some, lanes, _)| some * lanes)
        .sum();
    let of_curl = count / OF_CURL;
    let mut next = first + of_curl;
    let mut running = Vec::new();
    for (name, spec, processes, own, http2) in &there {
        for _ in 0..*processes {
            let share = ((count - of_curl) * own).div_ceil(lanes);
            let plan = json!({
                "ca": lab.certificate(), "first": next, "count": share, "lanes": own,
                "slot_ms": SLOT.as_millis(), "fresh": FRESH, "statuses": STATUSES,
                "targets": targets(listeners, *http2),
            });
            let spec = spec.clone().folder(lab.folder()).stdin(format!("{plan}\n"));
            let mut program = Program::start(&spec, &lab.inside())?;
            program.close_stdin();
            running.push((*name, spec.executable(), program));
            next += share;
        }
    }
    let mut done = curls(lab, listeners, first, of_curl)?;
    for (name, executable, mut program) in running {
        let limit = seconds(60) + SLOT * u32::try_from(count)?;
        let status = program.wait(limit)?;
        let (said, errors) = program.remains();
        ensure!(status.success(), "{}: {errors}", executable.display());
        for line in said {
            let exchange: Exchange =
                serde_json::from_str(&line).with_context(|| format!("it said {line}"))?;
            done.push(Exchange {
                program: name,
                executable: executable.clone(),
                ..exchange
            });
        }
    }
    Ok(done)
}

fn targets(listeners: &[Listener], http2: bool) -> serde_json::Value {
    let fit = listeners
        .iter()
        .filter(|listener| http2 || !listener.http2)
        .map(|Listener { target, http2, .. }| {
            json!({
                "host": target.address.ip(), "port": target.address.port(), "tls": target.wire.is_tls(),
                "http": if *http2 { 2 } else { 1 },
            })
        });
    fit.collect()
}

/// Many short-lived processes, some exchanges each, in lanes of their own.
fn curls(lab: &Lab, listeners: &[Listener], first: u64, count: u64) -> Result<Vec<Exchange>> {
    let end = first + count;
    let share = count.div_ceil(CURL_LANES);
    std::thread::scope(|scope| {
        let lane = |lane: u64| {
            let from = first + lane * share;
            let to = end.min(from + share);
            scope.spawn(move || {
                let mut done = Vec::new();
                for batch in (from..to).step_by(CURL_BATCH as usize) {
                    std::thread::sleep(SLOT * 5);
                    done.extend(curl(lab, listeners, batch..to.min(batch + CURL_BATCH))?);
                }
                anyhow::Ok(done)
            })
        };
        let lanes: Vec<_> = (0..CURL_LANES).map(lane).collect();
        let mut all = Vec::new();
        for lane in lanes {
            let done = lane.join();
            all.extend(done.map_err(|_| anyhow::anyhow!("a lane of curls panicked"))??);
        }
        Ok(all)
    })
}

/// One process; two exchanges in a row go to the same place. Not over HTTP/2 in cleartext, which curl 7.88 fails to do
/// twice on a connection.
fn curl(lab: &Lab, listeners: &[Listener], numbers: Range<u64>) -> Result<Vec<Exchange>> {
    let mut config = String::new();
    let mut credentials = BTreeMap::new();
    let there: Vec<_> = listeners
        .iter()
        .filter(|listener| !listener.http2 || listener.target.wire.is_tls())
        .collect();
    for number in numbers {
        let listener = there[(number / 2) as usize % there.len()];
        let version = if listener.http2 { "http2" } else { "http1.1" };
        let credential = token::opaque();
        if !config.is_empty() {
            config += "next\n";
        }
        config += &format!(
            "url = \"{}\"\nheader = \"Authorization: Bearer {credential}\"\ncacert = \"{}\"\n{version}\n\
             silent\nshow-error\nnoproxy = \"*\"\noutput = \"/dev/null\"\n\
             write-out = \"{number} %{{http_code}} %{{local_ip}} %{{local_port}} %{{remote_ip}} %{{remote_port}}\\n\"\n",
            listener.target.url(&path(number)),
            lab.certificate().display(),
        );
        credentials.insert(number, credential);
    }
    let spec = Spec::new(fixtures::system("/usr/bin/curl")?).args(["-q", "-K", "-"]);
    let (pid, said) = run_program(&spec.clone().stdin(config), &lab.inside())?;
    let mut done = Vec::new();
    for line in said {
        let words: Vec<_> = line.split(' ').collect();
        let [number, status, local, local_port, peer, peer_port] = words[..] else {
            bail!("curl said {line}");
        };
        let number = number.parse()?;
        done.push(Exchange {
            number,
            credential: credentials.remove(&number).context("a number of it")?,
            status: status.parse()?,
            pid,
            local: (local.parse()?, local_port.parse()?),
            peer: (peer.parse()?, peer_port.parse()?),
            began: 0,
            ended: 0,
            program: "curl",
            executable: spec.executable(),
        });
    }
    ensure!(credentials.is_empty(), "curl left out {credentials:?}");
    Ok(done)
}

/// What the servers say of the exchanges, by number.
pub fn facts(servers: &[&Server]) -> Result<BTreeMap<u64, Fact>> {
    let mut all = BTreeMap::new();
    for server in servers {
        for fact in server.every_fact()? {
            let number = fact.path.strip_prefix("/cell/crowd-");
            let number = number.and_then(|rest| rest.split('/').next()?.parse().ok());
            let number = number.with_context(|| format!("a request for {}", fact.path))?;
            ensure!(
                all.insert(number, fact).is_none(),
                "exchange {number} was answered twice"
            );
        }
    }
    Ok(all)
}

/// How many processes and connections.
pub fn census(done: &[Exchange]) -> String {
    let processes: BTreeSet<_> = done.iter().map(|one| one.pid).collect();
    let connections: BTreeSet<_> = done
        .iter()
        .map(|one| (one.pid, one.local, one.peer))
        .collect();
    format!(
        "{} processes over {} connections",
        processes.len(),
        connections.len()
    )
}

/// Of those that tell when they were.
pub fn most_at_once(done: &[Exchange]) -> usize {
    let told = done.iter().filter(|one| one.ended > 0);
    let mut steps: Vec<_> = told
        .flat_map(|one| [(one.began, true), (one.ended, false)])
        .collect();
    steps.sort_unstable();
    let (mut now, mut most) = (0_usize, 0);
    for (_, begins) in steps {
        if begins {
            now += 1;
        } else {
            now = now.saturating_sub(1);
        }
        most = most.max(now);
    }
    most
}
