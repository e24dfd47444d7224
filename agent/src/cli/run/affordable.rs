//! What the worker does when the privileged process says what the agent can afford.
//!
//! Invariant: between [`Ask::Waits`] and [`Order::Attached`] nothing is read of the ring: what comes then is told apart
//! from what was before, and read when the processes are known again.

use super::{reports::Lost, worker::Worker};
use agent_common::event::{Action, LossReason, LossUnit, Stage};
use tokentrail_agent::{
    budget::{Skipped, WHOLE},
    flow::Nanos,
    kernel::{bare, decode::now},
    pipeline::Shed,
    privilege::message::Ask,
};
use tracing::{info, warn};

/// Where the worker is between two spans of observation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// The probes are detached since.
    pub since: Option<Nanos>,
    /// The ring is left alone.
    pub waits: bool,
}

impl Worker {
    pub(super) fn afford(&mut self, kept: u16, shed: bool) {
        if self.pipeline.set_share(kept) {
            let (action, detail) = match self.pipeline.skips() {
                true => {
                    let percent = u32::from(kept) * 100 / u32::from(WHOLE);
                    warn!("over its budget of CPU time: {percent} % of the exchanges are read");
                    (Action::OverBudget, Some(format!("{percent} % are read")))
                }
                false => {
                    info!("within its budget again: every exchange is read");
                    (Action::WithinBudget, None)
                }
            };
            self.audit(action, detail);
        }
        if shed {
            self.shed();
        }
    }

    fn shed(&mut self) {
        let at = now();
        let Shed { bytes, processes } = self.pipeline.shed(at);
        bare::give_memory_back();
        warn!(
            bytes,
            processes, "over its budget of memory: what waits is given up"
        );
        for (stage, unit, count) in [
            (Stage::Flow, LossUnit::Bytes, bytes),
            (Stage::Identity, LossUnit::Processes, processes),
        ] {
            if count > 0 {
                self.lost(over_budget(stage, unit, count), (at, at));
            }
        }
    }

    /// What was skipped since the last report.
    pub(super) fn skipped(&mut self) {
        if let Some(Skipped { count, first, last }) = self.pipeline.take_skipped() {
            let lost = over_budget(Stage::Http, LossUnit::Exchanges, count);
            self.lost(lost, (first, last));
        }
    }

    /// The probes are detached since `at`.
    pub(super) fn detached(&mut self, at: Nanos, why: &str) {
        self.settle();
        self.rest.since.get_or_insert(at);
        self.rests += 1;
        self.report();
        self.audit(Action::ProbesDetached, Some(why.to_owned()));
        bare::give_memory_back();
    }

    /// The probes will be attached again.
    pub(super) fn attaching(&mut self) {
        // What a probe that ran while it was detached has sent since.
        self.settle();
        self.rest.waits = true;
        self.ask(&Ask::Waits);
    }

    /// The probes are attached again, since `at`.
    pub(super) fn attached(&mut self, at: Nanos) {
        if let Err(error) = self.pipeline.come_back() {
            warn!(%error, "processes that run now cannot be listed");
        }
        self.rested(at);
        self.audit(Action::ProbesAttached, None);
    }

    /// Reads what there is and gives out what is open: nothing that comes later belongs to it.
    fn settle(&mut self) {
        while self.drain(usize::MAX) > 0 {}
        self.pipeline.leave(now());
    }

    /// The rest is over, if there was one: what went by is lost.
    pub(super) fn rested(&mut self, to: Nanos) {
        if let Some(from) = std::mem::take(&mut self.rest).since {
            let lost = Lost {
                stage: Stage::Kernel,
                probe: None,
                reason: LossReason::Detached,
                unit: LossUnit::Calls,
                count: None,
                intentional: true,
            };
            self.lost(lost, (from, to));
        }
    }
}

fn over_budget(stage: Stage, unit: LossUnit, count: u64) -> Lost {
    Lost {
        stage,
        probe: None,
        reason: LossReason::OverBudget,
        unit,
        count: Some(count),
        intentional: true,
    }
}
