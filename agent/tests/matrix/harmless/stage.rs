//! What these tests share: a server out of the scope, an agent, TLS libraries in folders of their own, and clients that
//! use them one time after the other.
//!
//! The libraries are copies because other agents may watch the system's.

use crate::support::agent::{Agent, Options};
use crate::support::clients::{self, CURL, Client, Errand, Ran};
use crate::support::event::Event;
use crate::support::expect::{Side, unread_in};
use crate::support::known;
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec};
use crate::support::scenario::{Exchange, Request, Scenario, Script, requests};
use crate::support::servers::{Server, Wire};
use crate::support::{fixtures, nginx, seconds, token};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub const NOBODY: u32 = 65534;

pub struct Stage {
    pub agent: Agent,
    /// Its processes are nobody's affair here: they are out of the scope.
    pub web: Server,
    pub lab: Lab,
    asked: AtomicU32,
}

impl Stage {
    pub fn new(test: &'static str) -> Result<Self> {
        Self::with(test, |_| {})
    }

    /// The agent started as `change` leaves its options.
    pub fn with(test: &'static str, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let lab = Lab::new(test)?;
        let web = server(&lab)?;
        Self::of(lab, web, change)
    }

    /// The agent made to attach by this rung; `None` if it has no choice of rungs.
    pub fn on_rung(test: &'static str, rung: &str) -> Result<Option<Self>> {
        let stage = Self::with(test, |options| {
            options.config = format!("[capture]\npoints = \"{rung}\"\n");
        });
        match stage {
            Err(error) if is_unknown_key(&error) => Ok(None),
            other => other.map(Some),
        }
    }

    /// With a server and whatever else is there before the agent.
    pub fn of(lab: Lab, web: Server, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let stage = Self::unsettled(lab, web, change)?;
        known::settled(&stage.agent);
        Ok(stage)
    }

    /// The same, where a search may have no end.
    pub fn unsettled(lab: Lab, web: Server, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let mut options = Options::scope_of(&lab)?;
        change(&mut options);
        let agent = Agent::start_with(&lab, &options)?;
        Ok(Self {
            agent,
            web,
            lab,
            asked: AtomicU32::new(0),
        })
    }

    /// A folder with a copy of the system's libssl: the same content in another file.
    pub fn library(&self, name: &str) -> Result<PathBuf> {
        library_in(&self.lab.path(name))
    }

    fn errand(&self) -> Errand<'_> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        Errand {
            lab: &self.lab,
            target: self.web.target(Wire::Tls13),
            path: self.lab.cell_path(&format!("asked-{number}")),
            credential: token::opaque(),
        }
    }

    /// One request over TLS 1.3 by this client, started as `change` leaves it; its credential.
    pub fn ask(
        &self,
        client: &Client,
        place: &Place,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Result<String> {
        let (errand, _) = self.ask_once(client, place, change)?;
        Ok(errand.credential)
    }

    /// The same; what was asked, and by which process.
    pub fn ask_once(
        &self,
        client: &Client,
        place: &Place,
        change: impl FnOnce(Spec) -> Spec,
    ) -> Result<(Errand<'_>, Ran)> {
        let errand = self.errand();
        let mut call = client.call(&errand)?;
        call.spec = change(call.spec);
        let ran = clients::run(call, &errand, place)?;
        ensure!(
            ran.status == 200,
            "the client got the status {}",
            ran.status
        );
        Ok((errand, ran))
    }

    /// The same by curl with the libssl of this folder.
    pub fn curl(&self, library: &Path, place: &Place) -> Result<String> {
        self.ask(&CURL, place, |spec| spec.env("LD_LIBRARY_PATH", library))
    }

    /// Whether the client's event of this credential comes. Late is as good as never here: somebody asks again.
    pub fn was_read(&mut self, credential: &str) -> Result<bool> {
        self.is_read_within(8, credential)
    }

    fn is_read_within(&mut self, limit: u64, credential: &str) -> Result<bool> {
        let fingerprint = self.agent.fingerprint(credential)?;
        self.agent.wait_until(seconds(limit), |events| {
            events.iter().any(|event| {
                event.is_usage()
                    && event.direction() == Side::Client.name()
                    && event.fingerprints().contains(&fingerprint.as_str())
            })
        })
    }

    /// The connection of the request of this path is read, or listed with one of these reasons.
    pub fn read_or_listed(&mut self, path: &str, credential: &str, reasons: &[&str]) -> Result<()> {
        let fact = self.web.fact(path)?;
        let ends = fact.local().zip(fact.remote());
        let (server, client) = ends.context("the connection's ends")?;
        let fingerprint = self.agent.fingerprint(credential)?;
        let is_read = |event: &Event| {
            event.is_usage() && event.fingerprints().contains(&fingerprint.as_str())
        };
        let listed = |events: &[Event]| unread_in(events, client, server, reasons);
        self.agent.wait_until(seconds(20), |events| {
            events.iter().any(is_read) || listed(events).is_ok()
        })?;
        match self.agent.events.iter().any(is_read) {
            true => Ok(()),
            false => listed(&self.agent.events).map(drop).context("not read"),
        }
    }

    /// Asks until a request is read: how many that took.
    pub fn until_read(&mut self, ask: impl Fn(&Self) -> Result<String>) -> Result<usize> {
        const MOST: usize = 5;
        for number in 1..=MOST {
            let credential = ask(self)?;
            if self.was_read(&credential)? {
                return Ok(number);
            }
            if number < MOST {
                known::settled(&self.agent);
            }
        }
        anyhow::bail!("of {MOST} requests none was read")
    }

    pub fn curl_until_read(&mut self, library: &Path) -> Result<usize> {
        self.until_read(|stage| stage.curl(library, &stage.lab.inside()))
    }

    /// A process that asks over this library until a request of it is read, and stays. On rungs that take longer to
    /// attach than a process takes to its first handshake, only such a one is read.
    pub fn user(&mut self, library: &Path, cell: &str) -> Result<Scenario> {
        self.user_as("anew", library, cell)
    }

    /// The same by a script that has the steps of `anew`.
    pub fn user_as(
        &mut self,
        script: &'static str,
        library: &Path,
        cell: &str,
    ) -> Result<Scenario> {
        const MOST: usize = 5;
        let asked = requests(&self.lab, &format!("user-{cell}"), MOST + 1);
        let place = self.lab.inside();
        let mut user = self.script(script, library, &asked)?.start(&place)?;
        for (number, request) in asked[..MOST].iter().enumerate() {
            user.reach(&request.cell)?;
            user.go()?;
            let done = user.exchange()?;
            ensure!(done.status == 200, "status {}", done.status);
            known::settled(&self.agent);
            if number > 0 && self.was_read(&request.credential)? {
                user.reach(&asked[number + 1].cell)?;
                return Ok(user);
            }
        }
        anyhow::bail!("of {MOST} requests of one process none was read")
    }

    /// As [`script`] has it.
    pub fn script<'a>(
        &'a self,
        name: &'static str,
        library: &Path,
        asked: &[Request],
    ) -> Result<Script<'a>> {
        script(&self.lab, &self.web, name, library, asked)
    }

    /// Each of these exchanges has one event, at its own end, of the process that made it.
    pub fn each_was_read(&mut self, asked: &[Request], done: &[Exchange]) -> Result<()> {
        ensure!(
            done.len() == asked.len(),
            "{} of {} exchanges",
            done.len(),
            asked.len()
        );
        for exchange in done {
            let request = asked.iter().find(|one| one.cell == exchange.cell);
            let request = request.context("its request")?;
            ensure!(
                exchange.status == 200,
                "{}: status {}",
                request.cell,
                exchange.status
            );
            self.one_event(&request.credential, exchange.pid)
                .with_context(|| request.cell.clone())?;
        }
        Ok(())
    }

    /// There is one event of the credential, of this process.
    pub fn one_event(&mut self, credential: &str, pid: u32) -> Result<()> {
        ensure!(self.is_read_within(60, credential)?, "not read");
        let fingerprint = self.agent.fingerprint(credential)?;
        let events = self.agent.events.iter().filter(|event| {
            event.is_usage() && event.fingerprints().contains(&fingerprint.as_str())
        });
        let pids: Vec<_> = events.map(|event| event.pid()).collect();
        ensure!(
            pids == [Some(u64::from(pid))],
            "events of the processes {pids:?}, not of {pid}"
        );
        Ok(())
    }
}

/// The configuration's key is none of this agent's.
fn is_unknown_key(error: &anyhow::Error) -> bool {
    let said = format!("{error:#}");
    said.contains("unknown field") && said.contains("points")
}

/// nginx, out of the scope.
pub fn server(lab: &Lab) -> Result<Server> {
    nginx::start(lab, &lab.outside(), None)
}

/// A scenario of Python against the server, with the libssl of this folder.
pub fn script<'a>(
    lab: &'a Lab,
    web: &Server,
    name: &'static str,
    library: &Path,
    asked: &[Request],
) -> Result<Script<'a>> {
    Ok(Script::new(lab, name)?
        .target(&web.target(Wire::Tls13))
        .env("LD_LIBRARY_PATH", library)
        .requests(asked))
}

pub fn library_in(folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let from = fixtures::libssl()?;
    std::fs::copy(&from, folder.join("libssl.so.3"))
        .with_context(|| format!("copy {}", from.display()))?;
    Ok(folder.to_owned())
}

/// Ends as a program does that nothing has hurt.
pub fn unhurt(spec: &Spec, place: &Place) -> Result<()> {
    let finished = Program::start(spec, place)?.finish()?;
    ensure!(
        finished.status.success(),
        "{}: {}, {:?} {}",
        spec.program.display(),
        finished.status,
        finished.stdout,
        finished.stderr.trim()
    );
    Ok(())
}
