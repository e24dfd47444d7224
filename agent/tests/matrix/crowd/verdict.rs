//! Every event against what its two programs say of the exchange, and what is missing against what the agent counted.
//!
//! Invariant: an event that differs in socket, process, status or protocol is wrong, and so is a second one of one end,
//! and one of nobody's credential; one that says less (no status, no executable) is missing.

use super::people::{self, Exchange, Listener};
use crate::support::counters::Counters;
use crate::support::event::Event;
use crate::support::lab::Lab;
use crate::support::servers::Server;
use agent_common::fingerprint::{Keyring, Secret};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::net::SocketAddr;

/// The event of one end of an exchange.
#[derive(Clone, Debug)]
struct End {
    local: SocketAddr,
    peer: SocketAddr,
    pid: u32,
    executable: String,
    /// Events of it that came, with a status or without.
    came: u32,
    whole: bool,
}

/// One exchange, as both of its programs know it.
#[derive(Clone, Debug)]
struct Known {
    /// Between whom: the name of a cell.
    pair: String,
    wrong: bool,
    path: String,
    status: u16,
    /// `1.2`, `1.3`, or none.
    tls: Option<String>,
    http2: bool,
    /// The client's, the server's.
    ends: [End; 2],
    /// What the events call it.
    exchange: Option<String>,
}

/// The name of a cell.
pub fn pair(program: &str, listener: &Listener) -> String {
    format!("{program}-to-{}-{}", listener.server, listener.name)
}

/// All exchanges, by fingerprint.
pub struct Expected(HashMap<String, Known>);

impl Expected {
    /// Fails where client and server do not agree.
    pub fn of(
        lab: &Lab,
        done: Vec<Exchange>,
        listeners: &[Listener],
        servers: &[&Server],
    ) -> Result<Self> {
        let keyring = Keyring::load(&lab.path("fingerprint.key"))?;
        let mut facts = people::facts(servers)?;
        let mut all = HashMap::with_capacity(done.len());
        for exchange in done {
            let fact = facts
                .remove(&exchange.number)
                .with_context(|| format!("no server knows of {exchange:?}"))?;
            let (local, peer) = (exchange.local(), exchange.peer());
            ensure!(
                fact.remote() == Some(local)
                    && fact.local() == Some(peer)
                    && fact.status == exchange.status
                    && fact.path == exchange.path(),
                "client and server disagree: {exchange:?}, {fact:?}"
            );
            let listener = listeners
                .iter()
                .find(|listener| listener.target.address == peer)
                .context("its listener")?;
            let end = |local, peer, pid, executable: &std::path::Path| End {
                local,
                peer,
                pid,
                executable: executable.display().to_string(),
                came: 0,
                whole: false,
            };
            let server = &listener.executable;
            let known = Known {
                pair: pair(exchange.program, listener),
                wrong: false,
                path: exchange.path(),
                status: fact.status,
                tls: fact.tls.strip_prefix("TLSv").map(str::to_owned),
                http2: listener.http2,
                ends: [
                    end(local, peer, exchange.pid, &exchange.executable),
                    end(peer, local, fact.pid, server),
                ],
                exchange: None,
            };
            let secret = Secret::copy_from(exchange.credential.as_bytes());
            for fingerprint in keyring.fingerprints_ever(&secret) {
                all.insert(fingerprint.text(), known.clone());
            }
        }
        ensure!(facts.is_empty(), "{} answers to nobody", facts.len());
        Ok(Self(all))
    }
}

/// Hears all events of an agent, one by one.
pub struct Judge {
    expected: HashMap<String, Known>,
    /// Of whatever is wrong, how often.
    wrong: BTreeMap<&'static str, u64>,
    /// The first few of them in words.
    examples: Vec<String>,
    events: u64,
    usage: u64,
    /// Connections that the agent lists as not wholly read, with the first reason.
    listed: HashMap<(SocketAddr, SocketAddr), String>,
    /// By reason.
    losses: BTreeMap<String, u64>,
    last: Option<Event>,
}

const EXAMPLES: usize = 10;

impl Judge {
    pub fn new(expected: Expected) -> Self {
        Self {
            expected: expected.0,
            wrong: BTreeMap::new(),
            examples: Vec::new(),
            events: 0,
            usage: 0,
            listed: HashMap::new(),
            losses: BTreeMap::new(),
            last: None,
        }
    }

    /// One line of the agent's output.
    pub fn hear(&mut self, line: &str) -> Result<()> {
        let event = Event::parse(line)?;
        self.events += 1;
        ensure!(
            event.sequence() == Some(self.events),
            "event {} has the sequence {:?}",
            self.events,
            event.sequence()
        );
        if event.is_usage() {
            self.usage += 1;
            let wrong = judge(&mut self.expected, &event);
            for (what, how) in wrong {
                *self.wrong.entry(what).or_default() += 1;
                if self.examples.len() < EXAMPLES {
                    self.examples
                        .push(format!("{what}: {how}; {}", event.brief()));
                }
            }
        } else if let (true, Some(ends)) = (
            event.is_connection_coverage(),
            event.local().zip(event.peer()),
        ) {
            let reason = event.coverage_reason().unwrap_or_default();
            self.listed.entry(ends).or_insert_with(|| reason.to_owned());
        } else if let Some(reason) = event.loss_reason() {
            *self.losses.entry(reason.to_owned()).or_default() += event.loss_count().unwrap_or(0);
        }
        self.last = Some(event);
        Ok(())
    }

    pub fn close(self, stderr: &str) -> Result<Verdict> {
        let last = self.last.as_ref().context("the agent said nothing")?;
        let counters = Counters::of(std::slice::from_ref(last))?;
        counters.check(self.usage, stderr)?;
        let could_be = counters.get("exchanges.skipped")?
            + counters.get("credentials.lost")?
            + counters.lost_calls();
        Ok(self.sum(could_be))
    }

    /// `could_be`: losses that were counted where no connection is known.
    fn sum(self, could_be: u64) -> Verdict {
        let mut verdict = Verdict {
            wrong: self.wrong,
            examples: self.examples,
            usage: self.usage,
            expected: 0,
            whole: 0,
            listed: BTreeMap::new(),
            elsewhere: 0,
            could_be,
            losses: self.losses,
            pairs: BTreeMap::new(),
        };
        for known in self.expected.values() {
            let pair = verdict.pairs.entry(known.pair.clone()).or_default();
            pair.0 += known.ends.iter().filter(|end| end.whole).count();
            pair.1 += usize::from(known.wrong);
        }
        for end in self.expected.values().flat_map(|known| &known.ends) {
            verdict.expected += 1;
            if end.whole {
                verdict.whole += 1;
            } else if let Some(reason) = self.listed.get(&(end.local, end.peer)) {
                *verdict.listed.entry(reason.clone()).or_default() += 1;
            } else {
                verdict.elsewhere += 1;
            }
        }
        verdict
    }
}

/// What is wrong with a usage event, each with what it says and what it had to say.
fn judge(expected: &mut HashMap<String, Known>, event: &Event) -> Vec<(&'static str, String)> {
    let fingerprints = event.fingerprints();
    let name = fingerprints
        .iter()
        .find(|name| expected.contains_key(**name));
    let Some(known) = name.and_then(|name| expected.get_mut(*name)) else {
        return vec![("credential", "nobody's".to_owned())];
    };
    let side = usize::from(event.direction() == "server");
    let mut wrong = Wrong(Vec::new());
    let version = if known.http2 { "2" } else { "1.1" };
    let evidence = if known.tls.is_some() {
        "record"
    } else {
        "socket"
    };
    let end = &mut known.ends[side];
    end.came += 1;
    end.whole = event.status().is_some() && event.executable().is_some();
    wrong.unless("events", 1, end.came);
    wrong.unless("socket", Some(end.local), event.local());
    wrong.unless("socket", Some(end.peer), event.peer());
    wrong.unless("process", Some(u64::from(end.pid)), event.pid());
    if event.executable().is_some() {
        wrong.unless("process", Some(end.executable.as_str()), event.executable());
    }
    if event.status().is_some() {
        wrong.unless("status", Some(u64::from(known.status)), event.status());
    }
    wrong.unless("exchange", Some(known.path.as_str()), event.path());
    wrong.unless("protocol", known.tls.as_deref(), event.tls_version());
    wrong.unless("protocol", Some(version), event.protocol_version());
    wrong.unless("evidence", Some(evidence), event.evidence());
    match &known.exchange {
        Some(exchange) => wrong.unless("exchange", Some(exchange.as_str()), event.exchange()),
        None => known.exchange = event.exchange().map(str::to_owned),
    }
    known.wrong |= !wrong.0.is_empty();
    wrong.0
}

struct Wrong(Vec<(&'static str, String)>);

impl Wrong {
    fn unless<T: PartialEq + Debug>(&mut self, what: &'static str, wanted: T, got: T) {
        if wanted != got {
            self.0.push((what, format!("{got:?}, not {wanted:?}")));
        }
    }
}

pub struct Verdict {
    wrong: BTreeMap<&'static str, u64>,
    examples: Vec<String>,
    usage: u64,
    /// Ends of exchanges.
    expected: u64,
    /// Of these, with an event that has all.
    whole: u64,
    /// Of the others, on connections that the agent lists, by its reason.
    listed: BTreeMap<String, u64>,
    /// And on connections that it does not list.
    elsewhere: u64,
    /// Losses that the agent counted and that may explain as many of those.
    could_be: u64,
    losses: BTreeMap<String, u64>,
    /// Events that came as they had to and exchanges with something wrong, by who asked whom.
    pairs: BTreeMap<String, (usize, usize)>,
}

impl Verdict {
    /// Of one client and one listener: something was seen, and nothing was wrong.
    pub fn of(&self, pair: &str) -> Result<()> {
        let (whole, wrong) = self.pairs.get(pair).copied().unwrap_or_default();
        ensure!(
            whole > 0 && wrong == 0,
            "{whole} events, {wrong} exchanges with a wrong one"
        );
        Ok(())
    }

    pub fn told(&self) -> Vec<String> {
        let wrong: u64 = self.wrong.values().sum();
        let mut lines = vec![
            format!(
                "{} events expected, {} came as they had to",
                self.expected, self.whole
            ),
            format!(
                "missing: {:?} on connections listed for that reason, {} elsewhere, of {} counted losses {:?}",
                self.listed, self.elsewhere, self.could_be, self.losses
            ),
        ];
        if wrong == 0 {
            // The rule of three: what a run without any shows with a certainty of 95 %.
            let most = 3e6 / self.usage.max(1) as f64;
            lines.push(format!(
                "false matches: 0 of {} events, at most {most:.0} in a million by that",
                self.usage
            ));
        } else {
            lines.push(format!("WRONG: {:?} of {} events", self.wrong, self.usage));
        }
        lines
    }

    pub fn nothing_wrong(&self) -> Result<()> {
        ensure!(
            self.wrong.is_empty(),
            "{:?}: {}",
            self.wrong,
            self.examples.join("; ")
        );
        Ok(())
    }

    /// What did not come is on a connection that is listed, or was counted when it was lost.
    pub fn accounted_for(&self) -> Result<()> {
        ensure!(
            self.elsewhere <= self.could_be,
            "{} events are missing on connections that are not listed, and {} losses were counted",
            self.elsewhere,
            self.could_be
        );
        Ok(())
    }

    /// Calls were lost, and not everything.
    pub fn lossy(&self) -> Result<()> {
        ensure!(
            self.whole > 0 && self.could_be > 0,
            "{} events, {} losses",
            self.whole,
            self.could_be
        );
        Ok(())
    }

    /// Most of it was read: a rate of false matches among few would say nothing.
    pub fn enough(&self) -> Result<()> {
        ensure!(
            self.whole * 10 >= self.expected * 9,
            "{} of {} events",
            self.whole,
            self.expected
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NAME: &str = "tkf1:key:credential";

    fn judge_with() -> Judge {
        let end = |local: u16, peer: u16, pid, executable: &str| End {
            local: SocketAddr::from(([127, 0, 0, 1], local)),
            peer: SocketAddr::from(([127, 0, 0, 1], peer)),
            pid,
            executable: executable.to_owned(),
            came: 0,
            whole: false,
        };
        let known = Known {
            pair: "client-to-server".to_owned(),
            wrong: false,
            path: "/cell/crowd-7/status/404".to_owned(),
            status: 404,
            tls: Some("1.3".to_owned()),
            http2: true,
            ends: [end(1, 2, 10, "/client"), end(2, 1, 20, "/server")],
            exchange: None,
        };
        Judge::new(Expected(HashMap::from([(NAME.to_owned(), known)])))
    }

    fn usage(sequence: u64, server: bool) -> Value {
        let end = |port| json!({"address": "127.0.0.1", "port": port});
        let (local, peer, pid, path) = if server {
            (end(2), end(1), 20, "/server")
        } else {
            (end(1), end(2), 10, "/client")
        };
        json!({
            "kind": "usage", "producer": {"sequence": sequence}, "token": {"fingerprints": [NAME]},
            "direction": if server { "server" } else { "client" }, "exchange": {"id": "x"},
            "process": {"pid": pid, "executable": {"path": path}},
            "network": {"local": local, "peer": peer, "protocol": {"version": "2"}},
            "url": {"path": "/cell/crowd-7/status/404"}, "http": {"response": {"status_code": 404}},
            "tls": {"protocol": {"version": "1.3"}}, "evidence": {"socket": "record"},
        })
    }

    #[test]
    fn both_ends_are_right_once() {
        let mut judge = judge_with();
        for (sequence, server) in [(1, false), (2, true)] {
            judge.hear(&usage(sequence, server).to_string()).unwrap();
        }
        assert!(judge.wrong.is_empty(), "{:?}", judge.examples);
        judge.hear(&usage(3, true).to_string()).unwrap();
        assert_eq!(judge.wrong, BTreeMap::from([("events", 1)]));
    }

    #[test]
    fn whatever_differs_is_wrong() {
        for (place, other, what) in [
            ("/network/local/port", json!(3), "socket"),
            ("/network/peer/port", json!(3), "socket"),
            ("/network/peer/address", json!("127.0.0.2"), "socket"),
            ("/process/pid", json!(11), "process"),
            ("/process/executable/path", json!("/other"), "process"),
            ("/http/response/status_code", json!(200), "status"),
            ("/url/path", json!("/cell/crowd-8/status/404"), "exchange"),
            ("/tls/protocol/version", json!("1.2"), "protocol"),
            ("/network/protocol/version", json!("1.1"), "protocol"),
            ("/evidence/socket", json!("socket"), "evidence"),
            ("/token/fingerprints/0", json!("another's"), "credential"),
        ] {
            let mut judge = judge_with();
            let mut event = usage(1, false);
            *event.pointer_mut(place).unwrap() = other;
            judge.hear(&event.to_string()).unwrap();
            assert_eq!(judge.wrong, BTreeMap::from([(what, 1)]), "{place}");
        }
        let mut judge = judge_with();
        judge.hear(&usage(1, false).to_string()).unwrap();
        let mut other = usage(2, true);
        other["exchange"]["id"] = json!("y");
        judge.hear(&other.to_string()).unwrap();
        assert_eq!(judge.wrong, BTreeMap::from([("exchange", 1)]));
    }

    #[test]
    fn what_says_less_is_missing_and_has_to_be_accounted_for() {
        let mut judge = judge_with();
        let mut event = usage(1, false);
        event["http"] = json!({});
        judge.hear(&event.to_string()).unwrap();
        let coverage = json!({
            "kind": "coverage", "producer": {"sequence": 2},
            "coverage": {"scope": "connection", "reason": "bytes_lost"},
            "network": {"local": {"address": "127.0.0.1", "port": 1}, "peer": {"address": "127.0.0.1", "port": 2}},
        });
        judge.hear(&coverage.to_string()).unwrap();
        let verdict = judge.sum(0);
        assert!(verdict.nothing_wrong().is_ok());
        assert_eq!(
            verdict.listed,
            BTreeMap::from([("bytes_lost".to_owned(), 1)])
        );
        assert_eq!((verdict.whole, verdict.elsewhere), (0, 1));
        assert!(verdict.accounted_for().is_err() && verdict.enough().is_err());
    }
}
