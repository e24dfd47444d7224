//! What must be among the events of one agent, held against them cell by cell.

use super::agent::{Agent, Stopped};
use super::event::Event;
pub use super::expected::{Expected, Side, Who};
use super::report::Cells;
use super::{say, seconds};
use anyhow::{Result, bail};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;

/// So many ends of TLS connections of a test may be late, of different programs, and one in so many.
const FEW: usize = 2;
const ONE_IN: usize = 50;

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
            let of = ByFingerprint::new(events);
            about.iter().all(|(expected, fingerprint)| {
                let mut of = of.get(fingerprint).iter();
                of.any(|event| expected.is_about(fingerprint, event)) || is_late(expected, events)
            })
        };
        agent.wait_until(seconds(20), present)?;
        let spared = self.late_ones_are_few(&about, &agent.events);
        let mut by_cell: BTreeMap<&str, Vec<&(&Expected, String)>> = BTreeMap::new();
        for one in &about {
            by_cell.entry(&one.0.cell).or_default().push(one);
        }
        let mut alike: HashMap<&str, Vec<&Expected>> = HashMap::new();
        for one in &self.list {
            alike.entry(&one.credential).or_default().push(one);
        }
        let of = ByFingerprint::new(&agent.events);
        for (cell, expected) in by_cell {
            let wrong = wrong_in(&expected, spared, &alike, &of, &agent.events);
            let whole = if wrong.is_empty() {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{}", wrong.join("; ")))
            };
            cells.check(cell, whole);
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

    /// A machine may stop whoever attaches for as long as a program takes to its first handshake: some few connections
    /// may be late where nothing says that they may be, and are told.
    fn late_ones_are_few(&self, about: &[(&Expected, String)], events: &[Event]) -> bool {
        let of = ByFingerprint::new(events);
        let read = |expected: &Expected, fingerprint: &str| {
            let mut of = of.get(fingerprint).iter();
            of.any(|event| expected.is_about(fingerprint, event))
        };
        let late: BTreeSet<_> = about
            .iter()
            .filter(|(one, fingerprint)| !one.may_be_late && !read(one, fingerprint))
            .filter(|(one, _)| is_late(one, events))
            .filter_map(|(one, _)| Some((&one.executable, one.ends?)))
            .collect();
        let encrypted = self.list.iter().filter(|one| !one.tls.is_empty());
        let all: BTreeSet<_> = encrypted
            .filter_map(|one| Some((&one.executable, one.ends?)))
            .collect();
        if !late.is_empty() {
            say(&format!(
                "{} of {} ends of TLS connections were late: {late:?}",
                late.len(),
                all.len()
            ));
        }
        let of_one = late.iter().all(|(program, _)| {
            let of = |ends: &BTreeSet<(&PathBuf, (SocketAddr, SocketAddr))>| {
                ends.iter().filter(|(other, _)| other == program).count()
            };
            of(&late) <= 1 + of(&all) / ONE_IN
        });
        of_one && late.len() <= FEW + all.len() / ONE_IN
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

/// Events by each credential that they are about.
struct ByFingerprint<'a>(HashMap<&'a str, Vec<&'a Event>>);

impl<'a> ByFingerprint<'a> {
    fn new(events: &'a [Event]) -> Self {
        let mut by: HashMap<_, Vec<_>> = HashMap::new();
        for event in events {
            for fingerprint in event.fingerprints() {
                by.entry(fingerprint).or_default().push(event);
            }
        }
        Self(by)
    }

    fn get(&self, fingerprint: &str) -> &[&'a Event] {
        self.0.get(fingerprint).map_or(&[], Vec::as_slice)
    }
}

/// What is wrong with the events of one cell, and whether its two sides share the exchange. `alike` has what is
/// expected by its credential. `spared`: what is late is not wrong.
fn wrong_in(
    expected: &[&(&Expected, String)],
    spared: bool,
    alike: &HashMap<&str, Vec<&Expected>>,
    of: &ByFingerprint,
    events: &[Event],
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut exchanges: BTreeMap<&str, BTreeMap<Side, Option<&str>>> = BTreeMap::new();
    for (expected, fingerprint) in expected.iter().copied() {
        let about = |event: &&&Event| expected.is_about(fingerprint, event);
        let found: Vec<_> = of.get(fingerprint).iter().filter(about).collect();
        let others = &alike[expected.credential.as_str()];
        let wanted = others.iter().filter(|one| expected.is_like(one)).count();
        let label = expected.label();
        let nearest = found
            .iter()
            .min_by_key(|event| expected.differences(event).len());
        let Some(event) = nearest else {
            if (expected.may_be_late || spared) && is_late(expected, events) {
                continue;
            }
            wrong.push(format!(
                "{label}: no event{}",
                instead(expected, fingerprint, events)
            ));
            continue;
        };
        if found.len() != wanted {
            wrong.push(format!(
                "{label}: {} events instead of {wanted}",
                found.len()
            ));
        }
        let differences = expected.differences(event);
        wrong.extend(
            differences
                .into_iter()
                .map(|difference| format!("{label}: {difference}")),
        );
        exchanges
            .entry(&expected.path)
            .or_default()
            .insert(expected.side, event.exchange());
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
    wrong
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

/// Why a first handshake is not read: the program was quicker than the agent, or ended before its files were searched.
pub const LATE: [&str; 2] = ["attached_late", "not_searched"];

/// The same of one connection in ten thousand: `no_secret` of a process whose point was attached in time, and not met.
const RARELY: [&str; 3] = [LATE[0], LATE[1], "no_secret"];

/// Its connection is listed so.
fn is_late(expected: &Expected, events: &[Event]) -> bool {
    let reasons: &[&str] = match expected.may_be_late {
        true => &LATE,
        false => &RARELY,
    };
    let listed = |(local, peer)| unread_in(events, local, peer, reasons).is_ok();
    !expected.tls.is_empty() && expected.ends.is_some_and(listed)
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

/// The end of a test of which nothing but its expectations is asked: all cells, and the agent's stop.
pub fn conclude(expected: &Expectations, mut agent: Agent, mut cells: Cells) {
    let asked = expected.check(&mut agent, &mut cells);
    asked.expect("the agent's events can be read");
    let strangers = expected.no_strangers(&agent, &mut cells);
    strangers.expect("fingerprints can be told");
    stop(agent, &mut cells);
    cells.finish();
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
