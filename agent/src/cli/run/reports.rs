//! What the worker says of itself: losses, counters, and the sums of the end.

use super::worker::Worker;
use agent_common::{
    abi::{probe, reason},
    event::{Action, Audit, AuditDetail, Body, Loss, LossDetail, LossReason, LossUnit, Stage},
};
use std::process::ExitCode;
use tokentrail_agent::{flow::Nanos, kernel::decode::now};
use tracing::warn;

/// What was lost, or left out.
pub(super) struct Lost {
    pub stage: Stage,
    pub probe: Option<&'static str>,
    pub reason: LossReason,
    pub unit: LossUnit,
    /// `None`: not known.
    pub count: Option<u64>,
    /// Left out on purpose.
    pub intentional: bool,
}

impl Worker {
    /// Losses since the last report become events; so do the counters.
    pub(super) fn report(&mut self) {
        // What is not known now is with the next one.
        self.losses();
        self.pipeline.summarise(now(), false);
        self.audit(Action::AgentReport, None);
    }

    /// False where those of the kernel are not known.
    fn losses(&mut self) -> bool {
        let known = self.kernel_losses(now());
        self.skipped();
        self.outputs_lost();
        known
    }

    pub(super) fn outputs_lost(&mut self) {
        for loss in self.outputs.take_lost() {
            self.pipeline.emit(now(), Body::Loss(Loss { loss }));
        }
    }

    /// What was lost before the ring. Where the counters cannot be read now, the next report has it.
    fn kernel_losses(&mut self, to: Nanos) -> bool {
        let totals = match self.link.counters() {
            Ok(totals) => totals,
            Err(error) => {
                warn!(%error, "the probes' counters could not be read");
                return false;
            }
        };
        let from = self.reported_at;
        for row in 0..probe::COUNT {
            for (what, why, unit) in LOSSES {
                let count = totals.of(row, *what) - self.reported.of(row, *what);
                if count > 0 {
                    let lost = Lost {
                        stage: Stage::Kernel,
                        probe: Some(probe::NAMES[row as usize]),
                        reason: *why,
                        unit: *unit,
                        count: Some(count),
                        intentional: false,
                    };
                    self.lost(lost, (from, to));
                }
            }
        }
        self.reported = totals;
        self.reported_at = to;
        true
    }

    pub(super) fn lost(&mut self, lost: Lost, (from, to): (Nanos, Nanos)) {
        let detail = LossDetail {
            stage: lost.stage,
            probe: lost.probe.map(str::to_owned),
            reason: lost.reason,
            count: lost.count,
            unit: lost.unit,
            from: self.pipeline.wall(from),
            to: self.pipeline.wall(to),
            intentional: lost.intentional,
            events: None,
        };
        self.pipeline.emit(to, Body::Loss(Loss { loss: detail }));
    }

    pub(super) fn audit(&mut self, action: Action, detail: Option<String>) {
        let audit = AuditDetail {
            scope: self.scope.clone(),
            kernel: Some(
                rustix::system::uname()
                    .release()
                    .to_string_lossy()
                    .into_owned(),
            ),
            hook: Some(self.hook),
            key_ids: self.key_ids.clone(),
            counters: self.named(),
            sinks: self.outputs.sinks(),
            detail,
            ..AuditDetail::of(action)
        };
        self.pipeline.emit(now(), Body::Audit(Audit { audit }));
    }

    pub(super) fn named(&self) -> std::collections::BTreeMap<String, u64> {
        let mut named = self.pipeline.counters().named();
        if let Ok(totals) = self.link.counters() {
            for row in 0..probe::COUNT {
                for what in 0..reason::COUNT {
                    let count = totals.of(row, what);
                    if count > 0 {
                        let (row, what) =
                            (probe::NAMES[row as usize], reason::NAMES[what as usize]);
                        named.insert(format!("probe.{row}.{what}"), count);
                    }
                }
            }
        }
        named.insert("ring.undecoded".into(), self.decoder.undecoded);
        named.insert("probes.detached".into(), self.rests);
        named
    }

    /// Gives out what waits and checks the sums; nothing is in the ring any more.
    pub(super) fn stop(mut self) -> anyhow::Result<ExitCode> {
        self.pipeline.finish(now());
        self.rested(now());
        if !self.losses() {
            // The probes and their counters went with the privileged process.
            let span = (self.reported_at, now());
            let lost = Lost {
                stage: Stage::Kernel,
                probe: None,
                reason: LossReason::UncleanEnd,
                unit: LossUnit::Records,
                count: None,
                intentional: false,
            };
            self.lost(lost, span);
        }
        self.pipeline.summarise(now(), true);
        let checks = self.checks();
        let verdict = match checks.iter().find_map(|check| check.as_ref().err()) {
            Some(broken) => format!("sums do not hold: {broken}"),
            None => "sums hold".to_owned(),
        };
        self.audit(Action::AgentStopped, Some(verdict));
        self.pass_on();
        let named = self.named();
        let Self { outputs, .. } = self;
        let lost = outputs.close();
        for (name, count) in &named {
            eprintln!("{name:<32} {count}");
        }
        for loss in &lost {
            let output = loss.probe.as_deref().unwrap_or("spool");
            match loss.count {
                Some(count) => eprintln!("output {output} lost {count} events"),
                None => eprintln!("output {output} lost events"),
            }
        }
        let mut held = lost.is_empty();
        for check in checks {
            match check {
                Ok(sum) => eprintln!("holds: {sum}"),
                Err(sum) => {
                    held = false;
                    eprintln!("DOES NOT HOLD: {sum}");
                }
            }
        }
        Ok(if held {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// The sums that must hold when nothing is under way any more.
    fn checks(&self) -> Vec<Result<String, String>> {
        let mut checks = Vec::new();
        match self.link.counters() {
            Err(error) => checks.push(Err(format!(
                "the probes' counters could not be read: {error}"
            ))),
            Ok(totals) => {
                let sum = |what| {
                    (0..probe::COUNT)
                        .map(|row| totals.of(row, what))
                        .sum::<u64>()
                };
                let (seen, reported) = (sum(reason::SEEN), sum(reason::REPORTED));
                let (counted, lost) = (sum(reason::COUNTED_ONLY), sum(reason::LOST));
                let text = format!(
                    "calls seen {seen} = reported {reported} + left out by the copy policy {counted} + lost {lost}"
                );
                checks.push(if seen == reported + counted + lost {
                    Ok(text)
                } else {
                    Err(text)
                });
                // Those of the other ring are read by the other process.
                let records = sum(reason::RECORDS) - totals.of(probe::ATTACH, reason::RECORDS);
                let text = format!(
                    "records submitted {records} = records read {}",
                    self.records
                );
                checks.push(if records == self.records {
                    Ok(text)
                } else {
                    Err(text)
                });
            }
        }
        let counters = self.pipeline.counters();
        let text = format!(
            "credentials parsed {} = events {} + lost {}",
            counters.credentials, counters.usage_events, counters.credentials_lost
        );
        checks.push(if counters.sums().is_ok() {
            Ok(text)
        } else {
            Err(text)
        });
        checks
    }
}

/// The probes' counters that tell of a loss, and how the event calls it.
const LOSSES: &[(u32, LossReason, LossUnit)] = &[
    (reason::RING_FULL, LossReason::RingFull, LossUnit::Records),
    (reason::FAULT, LossReason::CopyRefused, LossUnit::Calls),
    (reason::OVERSIZE, LossReason::Oversize, LossUnit::Calls),
    (reason::TABLE_FULL, LossReason::MapFull, LossUnit::Calls),
    (reason::COMPAT, LossReason::Unseen, LossUnit::Calls),
    (reason::IO_URING, LossReason::Unseen, LossUnit::Calls),
    (reason::KERNEL, LossReason::CopyRefused, LossUnit::Calls),
    (reason::OVER_BUDGET, LossReason::OverBudget, LossUnit::Calls),
];
