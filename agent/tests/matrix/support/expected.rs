//! One event that must be there: made from what programs and servers say, compared with what the agent says.

use super::clients::Ran;
use super::event::Event;
use super::scenario::Exchange;
use super::servers::{Fact, Server, own_user};
use anyhow::{Result, bail};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The end of the connection whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Whose socket it is.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    Is(u32),
    ChildOf(u32),
    /// A process that this one started, directly or not.
    DescendantOf(u32),
}

/// One event that must be there, exactly once.
#[derive(Clone, Debug)]
pub struct Expected {
    pub cell: String,
    pub side: Side,
    pub credential: String,
    pub who: Who,
    pub executable: PathBuf,
    pub user: u32,
    /// Both ends as this side sees them; `None` on Unix sockets.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    pub method: String,
    /// Empty does not look at it.
    pub path: String,
    /// Host of the request, without port; `None` does not look at it.
    pub host: Option<String>,
    pub status: Option<u16>,
    /// As in server facts: `TLSv1.2`, `TLSv1.3` or empty.
    pub tls: String,
    /// Its TLS connection was open before the agent: the library's own calls give it, and nothing says the version.
    pub nested: bool,
    /// The kernel makes and opens its TLS records.
    pub by_kernel: bool,
    /// Version of HTTP; `None` does not look at it.
    pub http: Option<&'static str>,
    pub carrier: &'static str,
    /// Empty does not look at it.
    pub scheme: &'static str,
    /// `None` does not look at it.
    pub provider: Option<&'static str>,
    /// A first handshake of a process among many: its connection may be listed as late instead, however many are.
    pub may_be_late: bool,
}

impl Expected {
    /// The server's own event, by what the server says.
    pub fn server(cell: &str, credential: &str, fact: &Fact, server: &Server) -> Self {
        Self {
            side: Side::Server,
            user: server.user,
            ends: fact.local().zip(fact.remote()),
            ..Self::client(
                cell,
                credential,
                fact,
                Who::Is(fact.pid),
                server.executable.clone(),
            )
        }
    }

    /// The client's event, where nothing stands between it and the server.
    pub fn client(
        cell: &str,
        credential: &str,
        fact: &Fact,
        who: Who,
        executable: PathBuf,
    ) -> Self {
        Self {
            cell: cell.to_owned(),
            side: Side::Client,
            credential: credential.to_owned(),
            who,
            executable,
            user: own_user(),
            ends: fact.remote().zip(fact.local()),
            method: fact.method.clone(),
            path: fact.path.clone(),
            host: None,
            status: Some(fact.status),
            tls: fact.tls.clone(),
            nested: false,
            by_kernel: false,
            http: match fact.http.as_str() {
                "HTTP/1.1" => Some("1.1"),
                "HTTP/2.0" => Some("2"),
                _ => None,
            },
            carrier: "header:authorization",
            scheme: "Bearer",
            provider: None,
            may_be_late: false,
        }
    }

    /// Both events of a client's run.
    pub fn both(
        cell: &str,
        credential: &str,
        fact: &Fact,
        server: &Server,
        ran: &Ran,
    ) -> Vec<Self> {
        let who = if ran.call.descendant {
            Who::DescendantOf(ran.pid)
        } else {
            Who::Is(ran.pid)
        };
        let mut both = vec![
            Self::client(cell, credential, fact, who, ran.call.executable.clone()),
            Self::server(cell, credential, fact, server),
        ];
        for one in &mut both {
            (one.carrier, one.scheme) = (ran.call.carrier, ran.call.scheme);
            // Clients are given the server's address as its name.
            one.host = fact.local().map(|end| end.ip().to_string());
        }
        both
    }

    /// Both events of a scenario's exchange; fails if program and server do not agree on the socket.
    pub fn exchanged(
        credential: &str,
        fact: &Fact,
        server: &Server,
        exchange: &Exchange,
        executable: PathBuf,
    ) -> Result<Vec<Self>> {
        if exchange.local().is_some()
            && (exchange.local() != fact.remote() || exchange.peer() != fact.local())
        {
            bail!(
                "client {:?} and server {:?} disagree",
                exchange.local(),
                fact.remote()
            );
        }
        let mut both = vec![
            Self::client(
                &exchange.cell,
                credential,
                fact,
                Who::Is(exchange.pid),
                executable,
            ),
            Self::server(&exchange.cell, credential, fact, server),
        ];
        for one in &mut both {
            one.host = Some("localhost".into());
        }
        Ok(both)
    }

    pub fn label(&self) -> String {
        format!("{} ({})", self.cell, self.side.name())
    }

    /// The same credential, side and path: the event that this is about, right or wrong in the rest.
    pub fn is_about(&self, fingerprint: &str, event: &Event) -> bool {
        event.is_usage()
            && event.direction() == self.side.name()
            && event.fingerprints().contains(&fingerprint)
            && (self.path.is_empty() || event.path() == Some(self.path.as_str()))
    }

    /// Events of this one are told apart from that one's by the process alone.
    pub fn is_like(&self, other: &Self) -> bool {
        self.credential == other.credential && self.side == other.side && self.path == other.path
    }

    /// Everything that is not as it must be.
    pub fn differences(&self, event: &Event) -> Vec<String> {
        let mut wrong = Differences::default();
        match self.ends {
            Some((local, peer)) => {
                wrong.unless("local end", Some(local), event.local());
                wrong.unless("peer", Some(peer), event.peer());
                wrong.unless("transport", Some("tcp"), event.transport());
            }
            None => {
                wrong.unless("transport", Some("unix"), event.transport());
                wrong.unless(
                    "a path",
                    true,
                    event
                        .unix_path()
                        .is_some_and(|path| path.ends_with("/nginx.sock")),
                );
            }
        }
        match self.who {
            Who::Is(pid) => wrong.unless("pid", Some(u64::from(pid)), event.pid()),
            Who::ChildOf(pid) => wrong.unless("parent", Some(u64::from(pid)), event.parent_pid()),
            Who::DescendantOf(pid) => {
                let up = event.ancestor_pids();
                wrong.unless(
                    &format!("descent from {pid} in {up:?}"),
                    true,
                    up.contains(&u64::from(pid)),
                );
            }
        }
        wrong.unless("executable", self.executable.to_str(), event.executable());
        wrong.unless("user", Some(u64::from(self.user)), event.user());
        wrong.unless("method", Some(self.method.as_str()), event.method());
        wrong.unless("status", self.status.map(u64::from), event.status());
        if let Some(host) = &self.host {
            let got = event.host().map(|host| host.trim_matches(['[', ']']));
            wrong.unless("host", Some(host.as_str()), got);
        }
        let version = self.tls.strip_prefix("TLSv");
        let (evidence, url_scheme) = match version {
            Some(_) if self.nested => ("nested", "https"),
            Some(_) if self.by_kernel => ("socket", "https"),
            Some(_) => ("record", "https"),
            None => ("socket", "http"),
        };
        let version = version.filter(|_| !self.nested);
        wrong.unless("evidence", Some(evidence), event.evidence());
        wrong.unless("TLS version", version, event.tls_version());
        if self.method != "CONNECT" {
            wrong.unless("URL scheme", Some(url_scheme), event.url_scheme());
        }
        if self.http.is_some() {
            wrong.unless("HTTP version", self.http, event.protocol_version());
        }
        wrong.unless("carrier", Some(self.carrier), event.carrier());
        if !self.scheme.is_empty() {
            wrong.unless("scheme", Some(self.scheme), event.scheme());
        }
        if self.provider.is_some() {
            wrong.unless("provider", self.provider, event.provider());
        }
        if let Ok(rung) = std::env::var("TOKENTRAIL_RUNG") {
            let hook = if rung == "tracepoints" {
                "raw_tracepoint"
            } else {
                "fentry"
            };
            wrong.unless("hook", Some(hook), event.hook());
        }
        wrong.0
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn unless<T: PartialEq + Debug>(&mut self, name: &str, wanted: T, got: T) {
        if wanted != got {
            self.0.push(format!("{name} is {got:?}, not {wanted:?}"));
        }
    }
}
