//! What must hold of the sinks after all kills.

use super::shared::arrived::first_copies;
use super::shared::verdict::{Got, holes_are_losses, unclean};
use super::sinks::Sinks;
use super::truth::{Killed, Run, Truth, Who};
use crate::support::agent::Agent;
use crate::support::event::Event;
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::scenario::Request;
use agent_common::event::{LossDetail, LossReason, Stage};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};

type Losses = BTreeMap<(u64, u64), LossDetail>;

pub fn check(lab: &Lab, cells: &mut Cells, sinks: &Sinks, truth: &Truth, asked: &[Request]) {
    let all: BTreeMap<u64, &Run> = truth
        .runs
        .iter()
        .map(|(epoch, run)| (*epoch, run))
        .collect();
    let mut first = None;
    for sink in Sinks::NAMES {
        let has = sinks.have(sink);
        let kept = first_copies(sink, &has);
        let got = Got::of(kept.join("\n").as_bytes());
        cells.check(&format!("{sink}-all"), complete(sink, &got, &all));
        cells.check(&format!("{sink}-order"), in_order(&kept));
        cells.check(&format!("{sink}-kills"), told_of(&got.losses, &all));
        cells.check(&format!("{sink}-started"), starts(&kept, &all));
        // Copies at another sink are the same bytes, too.
        let kept: BTreeSet<String> = kept.into_iter().collect();
        crate::support::say(&format!(
            "kill: {sink} has {} events, {} of them again",
            kept.len(),
            has.len() - kept.len()
        ));
        let first = first.get_or_insert_with(|| kept.clone());
        let differ = kept.symmetric_difference(first).count();
        cells.check(
            &format!("{sink}-same"),
            if differ == 0 {
                Ok(())
            } else {
                Err(anyhow::anyhow!("{differ} events differ"))
            },
        );
    }
    cells.check("credentials", credentials(lab, &sinks.have("file"), asked));
    let killed = |run: &&&Run| run.killed.is_some();
    crate::support::say(&format!(
        "kill: {} runs, {} of them without an end, {} kills before there was a run",
        all.len(),
        all.values().filter(killed).filter(|run| !run.ended).count(),
        truth.early
    ));
}

/// Every durable event is there, but for those that losses tell of, and no other.
fn complete(sink: &str, got: &Got, runs: &BTreeMap<u64, &Run>) -> Result<()> {
    for (epoch, has) in &got.events {
        let run = runs
            .get(epoch)
            .with_context(|| format!("the spool knows of no run {epoch}"))?;
        let last = has.last().copied().unwrap_or(0);
        ensure!(
            last <= run.sequence,
            "event {last} of {epoch} was never durable: {run:?}"
        );
    }
    for (epoch, run) in runs {
        holes_are_losses(sink, got, &got.losses, *epoch, run.sequence);
    }
    Ok(())
}

/// Those that came first came in the order of their numbers.
fn in_order(kept: &[String]) -> Result<()> {
    let mut before = (0, 0);
    for json in kept {
        let event = Event::parse(json)?;
        let name = (
            event.epoch().context("an epoch")?,
            event.sequence().context("a sequence")?,
        );
        ensure!(before < name, "{name:?} came after {before:?}");
        before = name;
    }
    Ok(())
}

/// Each kill of a run is told of once: by the next run, if the run did not end; by itself, if only the privileged
/// process was killed.
fn told_of(losses: &Losses, runs: &BTreeMap<u64, &Run>) -> Result<()> {
    let of_stage = |stage| -> Losses {
        let of_it = |(_, loss): &(&(u64, u64), &LossDetail)| {
            loss.reason == LossReason::UncleanEnd && loss.stage == stage
        };
        losses
            .iter()
            .filter(of_it)
            .map(|(name, loss)| (*name, loss.clone()))
            .collect()
    };
    let (ends, kernel) = (unclean(&of_stage(Stage::Pipeline)), of_stage(Stage::Kernel));
    for (epoch, run) in runs {
        let end = ends.get(epoch);
        let Some(killed) = run.killed else {
            ensure!(end.is_none(), "{epoch} ended in good order, and {end:?}");
            continue;
        };
        // Without its other half the worker ends in good order, but for one that had nothing to give out.
        let worker = !matches!(killed.who, Who::Privileged | Who::PrivilegedFirst);
        ensure!(
            !(killed.ready && worker && run.ended),
            "it was killed: {run:?}"
        );
        if killed.who == Who::Privileged && killed.ready {
            ensure!(run.ended, "the worker did not end in good order: {run:?}");
        }
        if !run.ended {
            let end =
                end.with_context(|| format!("nothing tells of the end of {epoch}: {run:?}"))?;
            let first = end.events.as_ref().context("its first event")?.first;
            ensure!(first == run.sequence + 1, "{end:?} of {run:?}");
            ensure!(end.from.unix_nanos() == run.time, "{end:?} of {run:?}");
            holds(end, &killed)?;
        } else if run.sequence > 0 {
            let mut told = kernel.iter().filter(|((of, _), _)| of == epoch);
            let (_, end) = told
                .next()
                .with_context(|| format!("nothing tells of the probes' end in {epoch}: {run:?}"))?;
            ensure!(told.next().is_none(), "{epoch} tells of it twice");
            holds(end, &killed)?;
        }
    }
    let unknown: Vec<_> = ends
        .keys()
        .filter(|epoch| !runs.contains_key(epoch))
        .collect();
    ensure!(unknown.is_empty(), "ends of no run: {unknown:?}");
    Ok(())
}

/// The span holds the kill, and how many were lost is not known.
fn holds(end: &LossDetail, killed: &Killed) -> Result<()> {
    ensure!(end.count.is_none(), "{end:?} has a count");
    ensure!(
        end.from <= killed.after && killed.before <= end.to,
        "{end:?} does not hold {killed:?}"
    );
    Ok(())
}

/// Runs that have events begin with `agent_started`, and those that ended have `agent_stopped` last.
fn starts(kept: &[String], runs: &BTreeMap<u64, &Run>) -> Result<()> {
    let mut by_epoch: BTreeMap<u64, Vec<Event>> = BTreeMap::new();
    for json in kept {
        let event = Event::parse(json)?;
        let epoch = event.epoch().context("an epoch")?;
        by_epoch.entry(epoch).or_default().push(event);
    }
    for (epoch, events) in by_epoch {
        ensure!(
            events[0].action() == Some("agent_started"),
            "{epoch} begins with {}",
            events[0].brief()
        );
        let last = events.last().and_then(Event::action);
        let ended = runs.get(&epoch).is_some_and(|run| run.ended);
        ensure!(
            !ended || last == Some("agent_stopped"),
            "{epoch} ended with {last:?}"
        );
        let told = events.iter().filter(|event| event.action().is_some());
        for event in told {
            let sinks = event.sinks();
            ensure!(
                sinks == ["otlp", "http", "file", "stdout"],
                "it reports of the sinks {sinks:?}"
            );
        }
    }
    Ok(())
}

/// Fingerprints are those of the generated credentials, which stand nowhere themselves.
fn credentials(lab: &Lab, has: &[String], asked: &[Request]) -> Result<()> {
    let fingerprints: BTreeSet<String> = asked
        .iter()
        .map(|request| Agent::fingerprint_in(lab, &request.credential))
        .collect::<Result<_>>()?;
    let mut met = BTreeSet::new();
    for json in has {
        let event = Event::parse(json)?;
        met.extend(event.fingerprints().into_iter().map(str::to_owned));
    }
    ensure!(met == fingerprints, "met {met:?}, not {fingerprints:?}");
    let mut files = vec![lab.path("out/events.ndjson")];
    for entry in std::fs::read_dir(lab.path("spool"))? {
        files.push(entry?.path());
    }
    for path in files {
        let bytes = std::fs::read(&path)?;
        for request in asked {
            let found = memchr::memmem::find(&bytes, request.credential.as_bytes());
            ensure!(found.is_none(), "a credential in {}", path.display());
        }
    }
    Ok(())
}
