//! What must be among the events, and the comparison: event present once, socket, process, request, evidence.

use super::agent::{Agent, Stopped};
use super::clients::Ran;
use super::event::Event;
use super::report::Cells;
use super::scenario::Exchange;
use super::seconds;
use super::servers::{Fact, Server, own_user};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The end of the connection whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Client,
    Server,
}

impl Side {
    fn name(self) -> &'static str {
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
    pub status: Option<u16>,
    /// As in server facts: `TLSv1.2`, `TLSv1.3` or empty.
    pub tls: String,
    pub carrier: &'static str,
    pub scheme: &'static str,
    /// `None` does not look at it.
    pub provider: Option<&'static str>,
}

impl Expected {
    /// The server's own event, by what the server says.
    pub fn server(cell: &str, credential: &str, fact: &Fact, server: &Server) -> Self {
        Self {
            cell: cell.to_owned(),
            side: Side::Server,
            credential: credential.to_owned(),
            who: Who::Is(fact.pid),
            executable: server.executable.clone(),
            user: server.user,
            ends: fact.local().zip(fact.remote()),
            method: fact.method.clone(),
            path: fact.path.clone(),
            status: Some(fact.status),
            tls: fact.tls.clone(),
            carrier: "header:authorization",
            scheme: "Bearer",
            provider: None,
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
            status: Some(fact.status),
            tls: fact.tls.clone(),
            carrier: "header:authorization",
            scheme: "Bearer",
            provider: None,
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
        let who = Who::Is(exchange.pid);
        Ok(vec![
            Self::client(&exchange.cell, credential, fact, who, executable),
            Self::server(&exchange.cell, credential, fact, server),
        ])
    }

    fn label(&self) -> String {
        format!("{} ({})", self.cell, self.side.name())
    }

    /// The same credential, side and path: the event that this is about, right or wrong in the rest.
    fn is_about(&self, fingerprint: &str, event: &Event) -> bool {
        event.is_usage()
            && event.direction() == self.side.name()
            && event.fingerprints().contains(&fingerprint)
            && (self.path.is_empty() || event.path() == Some(self.path.as_str()))
    }

    /// Events of this one are told apart from this one's by the process alone.
    fn is_like(&self, other: &Self) -> bool {
        self.credential == other.credential && self.side == other.side && self.path == other.path
    }

    /// Everything that is not as it must be.
    fn differences(&self, event: &Event) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut same = |name: &str, wanted: String, got: String| {
            if wanted != got {
                wrong.push(format!("{name} is {got}, not {wanted}"));
            }
        };
        let show =
            |end: Option<SocketAddr>| end.map_or("unknown".to_owned(), |end| end.to_string());
        if let Some((local, peer)) = self.ends {
            same("local end", local.to_string(), show(event.local()));
            same("peer", peer.to_string(), show(event.peer()));
        } else {
            same(
                "transport",
                "unix".into(),
                event.transport().unwrap_or_default().into(),
            );
        }
        match self.who {
            Who::Is(pid) => same(
                "pid",
                format!("{:?}", Some(u64::from(pid))),
                format!("{:?}", event.pid()),
            ),
            Who::ChildOf(pid) => same(
                "parent",
                format!("{:?}", Some(u64::from(pid))),
                format!("{:?}", event.parent_pid()),
            ),
            Who::DescendantOf(pid) => {
                let up = event.ancestor_pids();
                same(
                    "descent",
                    format!("from {pid}"),
                    match up.contains(&u64::from(pid)) {
                        true => format!("from {pid}"),
                        false => format!("from {up:?}"),
                    },
                );
            }
        }
        same(
            "executable",
            self.executable.display().to_string(),
            event.executable().unwrap_or("unknown").into(),
        );
        same(
            "user",
            format!("{:?}", Some(u64::from(self.user))),
            format!("{:?}", event.user()),
        );
        same(
            "method",
            self.method.clone(),
            event.method().unwrap_or_default().into(),
        );
        same(
            "status",
            format!("{:?}", self.status.map(u64::from)),
            format!("{:?}", event.status()),
        );
        let (evidence, version) = match self.tls.strip_prefix("TLSv") {
            Some(version) => ("record", Some(version)),
            None => ("socket", None),
        };
        same(
            "evidence",
            evidence.into(),
            event.evidence().unwrap_or("unknown").into(),
        );
        same(
            "TLS version",
            format!("{version:?}"),
            format!("{:?}", event.tls_version()),
        );
        same(
            "carrier",
            self.carrier.into(),
            event.carrier().unwrap_or_default().into(),
        );
        same(
            "scheme",
            self.scheme.into(),
            event.scheme().unwrap_or_default().into(),
        );
        if self.provider.is_some() {
            same(
                "provider",
                format!("{:?}", self.provider),
                format!("{:?}", event.provider()),
            );
        }
        wrong
    }
}

/// All expectations of one test, held against the events of one agent.
#[derive(Default)]
pub struct Expectations {
    list: Vec<Expected>,
    /// Credentials that no event may have, by cell.
    never: Vec<(String, String)>,
    /// Credentials that may or may not have events.
    whatever: Vec<String>,
}

impl Expectations {
    pub fn add(&mut self, expected: impl IntoIterator<Item = Expected>) {
        self.list.extend(expected);
    }

    /// This credential was used where the agent may not look.
    pub fn never(&mut self, cell: &str, credential: &str) {
        self.never.push((cell.to_owned(), credential.to_owned()));
    }

    /// This credential may be seen or not.
    pub fn whatever(&mut self, credential: &str) {
        self.whatever.push(credential.to_owned());
    }

    /// Waits for the events, then reports every cell.
    pub fn check(&self, agent: &mut Agent, cells: &mut Cells) -> Result<()> {
        let mut about = Vec::new();
        for expected in &self.list {
            about.push((expected, agent.fingerprint(&expected.credential)?));
        }
        let present = |events: &[Event]| {
            about.iter().all(|(expected, fingerprint)| {
                events
                    .iter()
                    .any(|event| expected.is_about(fingerprint, event))
            })
        };
        agent.wait_until(seconds(20), present)?;
        let mut by_cell: BTreeMap<&str, Vec<&(&Expected, String)>> = BTreeMap::new();
        for one in &about {
            by_cell.entry(&one.0.cell).or_default().push(one);
        }
        for (cell, expected) in by_cell {
            cells.check(cell, check_cell(&expected, &self.list, &agent.events));
        }
        for (cell, credential) in &self.never {
            let fingerprint = agent.fingerprint(credential)?;
            let seen = agent
                .events
                .iter()
                .find(|event| event.fingerprints().contains(&fingerprint.as_str()));
            cells.check(
                cell,
                seen.map_or(Ok(()), |event| {
                    Err(anyhow::anyhow!("seen all the same: {}", event.brief()))
                }),
            );
        }
        Ok(())
    }

    /// No usage event is about anything else than what was expected.
    pub fn no_strangers(&self, agent: &Agent, cells: &mut Cells) -> Result<()> {
        let mut known = HashSet::new();
        let expected = self.list.iter().map(|expected| &expected.credential);
        for credential in expected.chain(&self.whatever) {
            known.insert(agent.fingerprint(credential)?);
        }
        let stranger = agent.events.iter().find(|event| {
            event.is_usage()
                && !event
                    .fingerprints()
                    .iter()
                    .any(|fingerprint| known.contains(*fingerprint))
        });
        cells.check(
            "no-strangers",
            match stranger {
                Some(event) => Err(anyhow::anyhow!(
                    "an event that nobody made: {}",
                    event.brief()
                )),
                None => Ok(()),
            },
        );
        Ok(())
    }
}

/// All events of one cell, and that its two sides share the exchange.
fn check_cell(
    expected: &[&(&Expected, String)],
    all: &[Expected],
    events: &[Event],
) -> Result<()> {
    let mut wrong = Vec::new();
    let mut exchanges: BTreeMap<&str, BTreeMap<Side, Option<&str>>> = BTreeMap::new();
    for (expected, fingerprint) in expected.iter().copied() {
        let about = |event: &&Event| expected.is_about(fingerprint, event);
        let found: Vec<_> = events.iter().filter(about).collect();
        let wanted = all.iter().filter(|other| expected.is_like(other)).count();
        let label = expected.label();
        let nearest = found.iter().min_by_key(|event| expected.differences(event).len());
        let Some(event) = nearest else {
            wrong.push(format!("{label}: no event{}", instead(expected, fingerprint, events)));
            continue;
        };
        if found.len() != wanted {
            wrong.push(format!("{label}: {} events instead of {wanted}", found.len()));
        }
        let differences = expected.differences(event);
        wrong.extend(differences.into_iter().map(|difference| format!("{label}: {difference}")));
        exchanges.entry(&expected.path).or_default().insert(expected.side, event.exchange());
    }
    for (path, sides) in exchanges {
        if let (Some(client), Some(server)) = (sides.get(&Side::Client), sides.get(&Side::Server))
            && (client != server || client.is_none())
        {
            wrong.push(format!(
                "{path}: exchange {client:?} at the client, {server:?} at the server"
            ));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        bail!("{}", wrong.join("; "))
    }
}

/// What may explain a missing event: others of the same credential, coverage of the same socket.
fn instead(expected: &Expected, fingerprint: &str, events: &[Event]) -> String {
    let near = events.iter().filter(|event| {
        event.fingerprints().contains(&fingerprint)
            || (event.is_connection_coverage()
                && expected.ends.is_some_and(|(local, peer)| {
                    event.local() == Some(local) && event.peer() == Some(peer)
                }))
    });
    let near: Vec<_> = near.map(Event::brief).take(3).collect();
    if near.is_empty() {
        String::new()
    } else {
        format!(", but {}", near.join(", and "))
    }
}

/// Waits for a coverage event of one connection.
pub fn unread(
    agent: &mut Agent,
    local: SocketAddr,
    peer: SocketAddr,
    reasons: &[&str],
) -> Result<Event> {
    let is_it = |event: &Event| {
        event.is_connection_coverage() && event.local() == Some(local) && event.peer() == Some(peer)
    };
    agent.wait_until(seconds(20), |events| events.iter().any(is_it))?;
    unread_in(&agent.events, local, peer, reasons)
}

/// The coverage event of one connection, with one of these reasons.
pub fn unread_in(
    events: &[Event],
    local: SocketAddr,
    peer: SocketAddr,
    reasons: &[&str],
) -> Result<Event> {
    let found = events.iter().find(|event| {
        event.is_connection_coverage() && event.local() == Some(local) && event.peer() == Some(peer)
    });
    let Some(found) = found else {
        bail!("{local} -> {peer} is not listed as unread")
    };
    let reason = found.coverage_reason().unwrap_or_default();
    if !reasons.contains(&reason) {
        bail!("{local} -> {peer} is unread because of {reason}, not {reasons:?}");
    }
    Ok(found.clone())
}

/// Stops the agent, with its own checks as a cell.
pub fn stop(agent: Agent, cells: &mut Cells) -> Option<Stopped> {
    let stopped = agent.stop();
    match stopped {
        Ok(stopped) => {
            cells.check("clean-stop", Ok(()));
            Some(stopped)
        }
        Err(error) => {
            cells.check("clean-stop", Err(error));
            None
        }
    }
}
