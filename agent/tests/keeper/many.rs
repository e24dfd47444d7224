//! As many attachments as are allowed, and their end.

use crate::support::{Kept, Library, Restarted, Target, again, request, turn};
use std::fs::File;
use std::time::Instant;
use tokentrail_agent::kernel::keeper::{EVENTS, Refused, Scope, Way};

/// Attachments that go together.
const MANY: usize = 2_000;
const PROCESSES: usize = 40;

#[test]
fn two_thousand_attachments_are_given_up_together() {
    let Some(_turn) = turn("two_thousand_attachments_are_given_up_together") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Multi) else {
        return;
    };
    let library = Library::new();
    let targets: Vec<Target> = (0..PROCESSES)
        .map(|_| Target::start(&library.path))
        .collect();
    let file = File::open(&library.path).unwrap();
    let attached = kept.round(|| {
        let begin = Instant::now();
        let mut ids = Vec::new();
        for number in 0..MANY {
            let target = &targets[number % PROCESSES];
            let request = request(&file, target, Scope::Process(target.pid()));
            ids.push(again(kept.keeper.attach(&request))?.id);
        }
        let there = kept.keeper.len();
        if there == MANY {
            return Ok(begin.elapsed());
        }
        kept.keeper.detach(&ids).unwrap();
        Err(Restarted(format!("{there} attachments")))
    });
    let begin = Instant::now();
    drop(kept);
    let stopped = begin.elapsed();
    eprintln!("uprobe_multi: {MANY} attached in {attached:?}, stopped in {stopped:?}");
    let clean = |target: &Target| !target.has_breakpoint();
    crate::support::until("all are detached", || targets.iter().all(clean));
}

#[test]
fn events_that_are_given_up_one_by_one_are_bounded() {
    let Some(_turn) = turn("events_that_are_given_up_one_by_one_are_bounded") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Perf) else {
        return;
    };
    let library = Library::new();
    let target = Target::start(&library.path);
    let file = File::open(&library.path).unwrap();
    let mut request = request(&file, &target, Scope::Process(target.pid()));
    request.places = vec![request.places[0]; 16];
    let attached = kept.round(|| {
        let begin = Instant::now();
        let mut ids = Vec::new();
        for _ in 0..EVENTS / 16 {
            ids.push(again(kept.keeper.attach(&request))?.id);
        }
        let attached = begin.elapsed();
        let one_more = kept.keeper.attach(&request);
        if one_more == Err(Refused::Events(EVENTS)) {
            return Ok(attached);
        }
        ids.extend(one_more.as_ref().map(|attachment| attachment.id));
        kept.keeper.detach(&ids).unwrap();
        Err(Restarted(format!("{one_more:?}")))
    });
    let begin = Instant::now();
    let (watch, keeper) = (kept.keeper.pids().0, kept.pid());
    drop(kept);
    let waited = begin.elapsed();
    crate::support::until("both processes end", || {
        !crate::support::is_there(watch) && !crate::support::is_there(keeper)
    });
    let ended = begin.elapsed();
    eprintln!(
        "perf: {EVENTS} events attached in {attached:?}, detached in {ended:?}; the agent waited {waited:?}"
    );
    assert!(!target.has_breakpoint());
}
