//! Keeps the agent within its budget: measures both processes, tells the worker what it can afford, and detaches the
//! probes for a while where that does not help.
//!
//! A rest has four steps, each begun by what the one before has brought: the probes are detached ([`Event::PointsDetached`]);
//! the time passes; the worker leaves the ring alone ([`Event::Waits`]); the probes are attached as at the start, in the
//! scope as it is then ([`Event::PointsAttached`]). The main loop goes round all the while, so that the service manager's
//! watchdog is fed.
//!
//! Invariant: nothing is attached again before the worker has given out what was before.

use super::{
    live::{Live, Shared, lock, running},
    privileged::Event,
};
use agent_common::abi::TICK;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokentrail_agent::{
    budget::{Controller, Limits, Meter, Verdict, WHOLE},
    config::Config,
    flow::Nanos,
    kernel::{bare, decode::now, features::Rung, probes, scope::Scope},
    privilege::{message::Tell, pipe::Pipe},
};
use tokio::sync::mpsc::UnboundedSender;
use tracing::{debug, warn};

/// How often the processes are measured.
pub(super) const STEP: Duration = Duration::from_secs(1);

/// What is detached and attached, and who must know of it.
pub(super) struct Held {
    pub live: Shared,
    pub pipe: Arc<Pipe>,
    pub events: UnboundedSender<Event>,
    pub scopes: Vec<Scope>,
    pub rung: Rung,
}

enum State {
    Watching,
    /// Key-log points are still to be detached.
    Leaving {
        why: String,
    },
    Resting {
        until: Instant,
    },
    /// The worker was asked to leave the ring alone.
    Asking,
    /// Key-log points are still to be attached.
    Returning {
        at: Nanos,
    },
}

/// See the module.
pub(super) struct Guard {
    held: Held,
    meter: Meter,
    controller: Controller,
    rest: Duration,
    state: State,
    /// When the probes were detached last.
    left: Nanos,
    /// The share that the worker was told.
    kept: u16,
}

impl Guard {
    pub fn new(held: Held, processes: &[u32], config: &Config) -> Self {
        Self {
            held,
            meter: Meter::new(processes.to_vec()),
            controller: Controller::new(limits(config)),
            rest: rest(config),
            state: State::Watching,
            left: 0,
            kept: WHOLE,
        }
    }

    /// What holds from now on; a rest that has begun lasts as long as was said.
    pub fn configure(&mut self, config: &Config) {
        self.controller.set_limits(limits(config));
        self.rest = rest(config);
    }

    /// To be called every [`STEP`].
    pub fn step(&mut self, at: Instant) {
        match self.state {
            State::Watching => self.watch(at),
            State::Resting { until } if at >= until => {
                self.state = State::Asking;
                self.tell(&Tell::Attaching);
            }
            _ => {}
        }
    }

    fn watch(&mut self, at: Instant) {
        let usage = match self.meter.measure(at) {
            Ok(usage) => usage,
            // The worker has ended, which is noticed elsewhere.
            Err(error) => return debug!(%error, "the agent's own use is not known"),
        };
        let Verdict { kept, shed, detach } = self.controller.step(at, usage);
        if let Some(over) = detach {
            return self.leave(over.to_string());
        }
        if shed {
            bare::give_memory_back();
        }
        if shed || kept != self.kept {
            self.kept = kept;
            self.tell(&Tell::Budget { kept, shed });
        }
    }

    fn leave(&mut self, why: String) {
        self.left = now();
        let events = self.held.events.clone();
        if let Some(Live {
            attacher,
            bridge,
            probes,
            ..
        }) = &*lock(&self.held.live)
        {
            lock(probes).detach();
            bridge.rest();
            attacher.rest(Box::new(move || {
                // At the end nobody listens any more.
                let _ = events.send(Event::PointsDetached);
            }));
        }
        self.state = State::Leaving { why };
    }

    /// No probe is attached any more.
    pub fn points_detached(&mut self, at: Instant) {
        let State::Leaving { why } = std::mem::replace(&mut self.state, State::Watching) else {
            return;
        };
        let seconds = self.rest.as_secs();
        say(&format!(
            "over its budget ({why}): the probes are detached for {seconds} s"
        ));
        self.tell(&Tell::Detached { at: self.left, why });
        self.state = State::Resting {
            until: at + self.rest,
        };
    }

    /// The worker has given out what was before.
    pub fn worker_waits(&mut self, at: Instant) {
        if !matches!(self.state, State::Asking) {
            return;
        }
        self.state = match self.come_back() {
            Ok(at) => State::Returning { at },
            Err(error) => {
                let seconds = self.rest.as_secs();
                warn!(%error, "the probes cannot be attached again: tried anew in {seconds} s");
                State::Resting {
                    until: at + self.rest,
                }
            }
        };
    }

    fn come_back(&self) -> Result<Nanos, probes::Error> {
        let events = self.held.events.clone();
        if let Some(Live {
            attacher,
            bridge,
            probes,
            ..
        }) = &*lock(&self.held.live)
        {
            let mut probes = lock(probes);
            probes.renew(self.left / TICK)?;
            probes.attach(self.held.rung)?;
            drop(probes);
            // After the probes, so that what is mapped from now on is told.
            let done = Box::new(move || {
                let _ = events.send(Event::PointsAttached);
            });
            let processes = running(&self.held.scopes);
            bridge.come_back(processes.clone());
            attacher.come_back(processes, done);
        }
        Ok(now())
    }

    /// Every probe is attached again.
    pub fn points_attached(&mut self) {
        let State::Returning { at } = self.state else {
            return;
        };
        self.tell(&Tell::Attached { at });
        say("the probes are attached again");
        // Coming back costs what every start does: it does not count.
        self.meter.forget();
        self.controller.begin();
        self.state = State::Watching;
    }

    /// Where it cannot be told, the worker's end or fault is noticed elsewhere.
    fn tell(&self, tell: &Tell) {
        if let Err(error) = self.held.pipe.send(tell) {
            warn!(%error, "the worker cannot be told of the budget");
        }
    }
}

fn say(what: &str) {
    eprintln!("tokentrail-agent: {what}");
    // Not there under systemd-less parents: then nobody is told.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status(what)]);
}

fn limits(config: &Config) -> Limits {
    Limits {
        cpu: config.budget.cpu_percent.get() * 10,
        memory: config.budget.memory_bytes.get(),
        patience: Duration::from_secs(config.budget.over_seconds.get()),
    }
}

fn rest(config: &Config) -> Duration {
    Duration::from_secs(config.budget.rest_seconds.get())
}
