//! The servers, and what they themselves say of every request: the facts that events are held against.

use super::lab::Lab;
use super::process::{Place, Program, Spec};
use super::{fixtures, seconds, wait_for};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// One answered request as its server knows it (one line of its log).
#[derive(Clone, Debug, Deserialize)]
pub struct Fact {
    pub path: String,
    pub method: String,
    pub status: u16,
    pub pid: u32,
    /// `TLSv1.2`, `TLSv1.3`, or empty.
    pub tls: String,
    /// `HTTP/1.1`, `HTTP/2.0`, or empty where the server does not say.
    #[serde(default)]
    pub http: String,
    remote: String,
    remote_port: Port,
    local: String,
    local_port: Port,
}

/// nginx's JSON has every value as text.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Text(String),
}

impl Port {
    fn number(&self) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

impl Fact {
    /// The server's end; `None` on Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        address(&self.local, &self.local_port)
    }

    /// The client's end; `None` on Unix sockets.
    pub fn remote(&self) -> Option<SocketAddr> {
        address(&self.remote, &self.remote_port)
    }
}

fn address(ip: &str, port: &Port) -> Option<SocketAddr> {
    Some(SocketAddr::new(ip.parse::<IpAddr>().ok()?, port.number()?))
}

/// What a connection to a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Clear,
    Tls12,
    Tls13,
}

impl Wire {
    pub const ALL: [Wire; 3] = [Wire::Clear, Wire::Tls12, Wire::Tls13];

    pub fn name(self) -> &'static str {
        match self {
            Self::Clear => "http",
            Self::Tls12 => "tls12",
            Self::Tls13 => "tls13",
        }
    }

    pub fn is_tls(self) -> bool {
        self != Self::Clear
    }

    /// As servers write it in their facts.
    pub fn version(self) -> &'static str {
        match self {
            Self::Clear => "",
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// One listener of one server.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub wire: Wire,
}

impl Target {
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.wire.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }
}

pub struct Server {
    pub name: &'static str,
    pub executable: PathBuf,
    /// Effective user of the process that answers.
    pub user: u32,
    /// Ended with the server.
    pub(super) _programs: Vec<Program>,
    pub(super) ports: BTreeMap<String, u16>,
    pub(super) log: PathBuf,
}

impl Server {
    /// One program that logs what it was asked to `log`.
    pub fn of(name: &'static str, program: Program, executable: PathBuf, log: PathBuf) -> Self {
        Self {
            name,
            executable,
            user: own_user(),
            _programs: vec![program],
            ports: BTreeMap::new(),
            log,
        }
    }

    pub fn target(&self, wire: Wire) -> Target {
        self.listener(wire.name(), wire)
    }

    pub fn target_v6(&self, wire: Wire) -> Target {
        let port = self.ports[&format!("{}_v6", wire.name())];
        Target {
            address: SocketAddr::new("::1".parse().expect("an address"), port),
            wire,
        }
    }

    /// The listener `name` by another name as well.
    pub fn also(mut self, alias: &str, name: &str) -> Self {
        self.ports.insert(alias.to_owned(), self.ports[name]);
        self
    }

    /// A further listener by name, on 127.0.0.1.
    pub fn listener(&self, name: &str, wire: Wire) -> Target {
        Target {
            address: SocketAddr::from(([127, 0, 0, 1], self.ports[name])),
            wire,
        }
    }

    pub fn port(&self, name: &str) -> u16 {
        self.ports[name]
    }

    /// It has a listener of that name.
    pub fn has(&self, name: &str) -> bool {
        self.ports.contains_key(name)
    }

    /// What it has said so far, of every request.
    pub fn every_fact(&self) -> Result<Vec<Fact>> {
        let text = std::fs::read_to_string(&self.log)
            .with_context(|| format!("the log of {}", self.name))?;
        text.lines()
            .map(|line| {
                serde_json::from_str(line).with_context(|| format!("{} logged {line}", self.name))
            })
            .collect()
    }

    /// What it says of the requests for `path`, once there is at least one that `wanted` accepts.
    pub fn facts(&self, path: &str, wanted: impl Fn(&Fact) -> bool) -> Result<Vec<Fact>> {
        let look = || {
            let facts = self.known(path).into_iter().filter(&wanted);
            Some(facts.collect::<Vec<_>>()).filter(|facts| !facts.is_empty())
        };
        wait_for(seconds(60), look)
            .with_context(|| format!("{} logged nothing for {path}", self.name))
    }

    /// What it has said by now of the requests for `path`.
    pub fn known(&self, path: &str) -> Vec<Fact> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let facts = whole
            .lines()
            .filter(|line| line.contains(path))
            .filter_map(|line| serde_json::from_str::<Fact>(line).ok());
        facts.filter(|fact| fact.path == path).collect()
    }

    /// The only request for `path`.
    pub fn fact(&self, path: &str) -> Result<Fact> {
        let mut facts = self.facts(path, |_| true)?;
        ensure!(
            facts.len() == 1,
            "{} logged {} requests for {path}",
            self.name,
            facts.len()
        );
        facts.pop().context("a fact")
    }
}

/// The threaded Python server over the system's OpenSSL.
pub fn python(lab: &Lab, place: &Place) -> Result<Server> {
    scripted(
        lab,
        place,
        "python",
        Spec::new(fixtures::python()?).arg(lab.path("server.py")),
    )
}

/// aiohttp, TLS over memory BIOs.
pub fn aiohttp(lab: &Lab, place: &Place) -> Result<Server> {
    scripted(
        lab,
        place,
        "aiohttp",
        Spec::new(fixtures::venv_python()?).arg(lab.path("server_aiohttp.py")),
    )
}

/// grpcio; not over TLS 1.2.
pub fn grpc(lab: &Lab, place: &Place) -> Result<Server> {
    scripted(
        lab,
        place,
        "grpc",
        Spec::new(fixtures::venv_python()?).arg(lab.path("server_grpc.py")),
    )
}

/// Go's net/http.
pub fn go(lab: &Lab, place: &Place) -> Result<Server> {
    scripted(lab, place, "go", Spec::new(fixtures::go_server()?))
}

/// node's http and http2.
pub fn node(lab: &Lab, place: &Place) -> Result<Server> {
    let node = fixtures::system("/usr/bin/node")?;
    let spec = Spec::new(node).arg(lab.path("server_node.mjs"));
    scripted(lab, place, "node", spec)
}

/// hyper over tokio-rustls with ring; its listener `h2` speaks HTTP/2 over TLS 1.3.
pub fn rust(lab: &Lab, place: &Place) -> Result<Server> {
    let spec = Spec::new(fixtures::rust_ring()?).arg("server");
    scripted(lab, place, "rust", spec)
}

/// The same with aws-lc.
pub fn rust_aws_lc(lab: &Lab, place: &Place) -> Result<Server> {
    let spec = Spec::new(fixtures::rust_aws_lc()?).arg("server");
    scripted(lab, place, "rust-aws-lc", spec)
}

/// A server that is told where to log on standard input and says its ports on standard output.
fn scripted(lab: &Lab, place: &Place, name: &'static str, spec: Spec) -> Result<Server> {
    let log = lab.path(&format!("{name}.log"));
    let config = serde_json::json!({
        "certificate": lab.certificate(), "key": lab.private_key(), "log": log,
    });
    let spec = spec.stdin(format!("{config}\n")).folder(lab.folder());
    let mut program = Program::start(&spec, place)?;
    let line = program.line()?;
    let ports = serde_json::from_str(&line).with_context(|| format!("{name} said {line}"))?;
    let user = place.user.unwrap_or_else(own_user);
    Ok(Server {
        name,
        executable: spec.executable(),
        user,
        _programs: vec![program],
        ports,
        log,
    })
}

pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}
