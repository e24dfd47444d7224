//! What is attached is hit, in that process alone, and leaves with it; what must not be attached is refused.

use crate::support::{Kept, Library, Target, is_there, request, signal, turn, until};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use tokentrail_agent::kernel::keeper::{Place, Program, Refused, Scope, Way};
use tokentrail_agent::kernel::keylog::FileState;

const WAYS: [Way; 2] = [Way::Multi, Way::Perf];

#[test]
fn one_process_is_hit_and_no_other() {
    let Some(_turn) = turn("one_process_is_hit_and_no_other") else {
        return;
    };
    for kept in WAYS.into_iter().filter_map(Kept::start) {
        let library = Library::new();
        let mut target = Target::start(&library.path);
        let mut bystander = Target::start(&library.path);
        let scope = Scope::Process(target.pid());
        let attachment = kept.attach(&library.path, &target, scope).unwrap();
        assert!(kept.keeper.holds(attachment.id));
        let mut later = Target::start(&library.path);
        assert!(target.has_breakpoint());
        assert!(!bystander.has_breakpoint() && !later.has_breakpoint());
        target.tell("c 3");
        target.tell("t 2");
        bystander.tell("c 5");
        later.tell("c 5");
        assert_eq!(kept.hits(), 5);
        // A fork of it works, whether it is hit or not.
        target.tell("f 1");
        let before = kept.hits();
        kept.keeper.detach(&[attachment.id]).unwrap();
        assert!(!target.has_breakpoint());
        target.tell("c 3");
        assert_eq!(kept.hits(), before);
        assert!(!kept.keeper.holds(attachment.id));
    }
}

#[test]
fn returns_are_hit_and_all_places_of_an_attachment() {
    let Some(_turn) = turn("returns_are_hit_and_all_places_of_an_attachment") else {
        return;
    };
    for kept in WAYS.into_iter().filter_map(Kept::start) {
        let library = Library::new();
        let mut target = Target::start(&library.path);
        let file = File::open(&library.path).unwrap();
        let mut request = request(&file, &target, Scope::Process(target.pid()));
        let at = |program, returns| Place {
            program,
            returns,
            ..request.places[0]
        };
        request.places = vec![
            at(Program::BridgeReturn, true),
            at(Program::BridgeEnter, false),
        ];
        let attachment = kept.keeper.attach(&request).unwrap();
        target.tell("c 10");
        assert_eq!(kept.hits(), 20);
        kept.keeper.detach(&[attachment.id]).unwrap();
        target.tell("c 10");
        assert_eq!(kept.hits(), 20);
    }
}

#[test]
fn every_process_is_hit_where_that_is_asked_for() {
    let Some(_turn) = turn("every_process_is_hit_where_that_is_asked_for") else {
        return;
    };
    for kept in WAYS.into_iter().filter_map(Kept::start) {
        let library = Library::new();
        let mut target = Target::start(&library.path);
        let attachment = kept.attach(&library.path, &target, Scope::Host).unwrap();
        let mut later = Target::start(&library.path);
        target.tell("c 3");
        later.tell("c 4");
        assert_eq!(kept.hits(), 7);
        kept.keeper.detach(&[attachment.id]).unwrap();
    }
}

#[test]
fn what_would_be_unsafe_is_refused_with_its_reason() {
    let Some(_turn) = turn("what_would_be_unsafe_is_refused_with_its_reason") else {
        return;
    };
    for kept in WAYS.into_iter().filter_map(Kept::start) {
        let library = Library::new();
        let target = Target::start(&library.path);
        let scope = Scope::Process(target.pid());
        let attach = || kept.attach(&library.path, &target, scope);

        let writer = OpenOptions::new().write(true).open(&library.path).unwrap();
        assert_eq!(attach(), Err(Refused::Writer));
        drop(writer);

        let file = File::open(&library.path).unwrap();
        let mut changed = request(&file, &target, scope);
        changed.state = FileState {
            changed: (0, 0),
            ..changed.state
        };
        assert_eq!(kept.keeper.attach(&changed), Err(Refused::Changed));

        let mut other = request(&file, &target, scope);
        other.start_ticks += 1;
        assert_eq!(kept.keeper.attach(&other), Err(Refused::Ended));

        let mut none = request(&file, &target, scope);
        none.places.clear();
        assert_eq!(kept.keeper.attach(&none), Err(Refused::Places));

        let mut beyond = request(&file, &target, scope);
        beyond.places[0].file_offset = 1 << 40;
        let refused = kept.keeper.attach(&beyond).unwrap_err();
        assert!(matches!(refused, Refused::Kernel(_)), "{refused}");

        let mut memory = File::from(memfd_create("library", MemfdFlags::empty()).unwrap());
        memory.write_all(&fs::read(&library.path).unwrap()).unwrap();
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let memory = File::open(path).unwrap();
        let of_memory = request(&memory, &target, scope);
        assert_eq!(kept.keeper.attach(&of_memory), Err(Refused::Memory));

        let own = File::open(format!("/proc/{}/exe", target.pid())).unwrap();
        let of_program = request(&own, &target, scope);
        assert_eq!(kept.keeper.attach(&of_program), Err(Refused::Executable));

        let pseudo = File::open("/proc/self/maps").unwrap();
        let mut of_pseudo = request(&file, &target, scope);
        of_pseudo.file = &pseudo;
        let refused = kept.keeper.attach(&of_pseudo).unwrap_err();
        assert!(matches!(refused, Refused::FileSystem(_)), "{refused}");

        // None of them left anything.
        assert!(kept.keeper.is_empty());
        assert!(!target.has_breakpoint());
        assert!(attach().is_ok());
    }
}

#[test]
fn points_leave_with_their_process() {
    let Some(_turn) = turn("points_leave_with_their_process") else {
        return;
    };
    for kept in WAYS.into_iter().filter_map(Kept::start) {
        let library = Library::new();
        let mut target = Target::start(&library.path);
        let scope = Scope::Process(target.pid());
        let attachment = kept.attach(&library.path, &target, scope).unwrap();
        let name = fs::canonicalize(&library.path).unwrap();
        assert!(opened(kept.pid(), &name) > 0);
        fs::remove_file(&library.path).unwrap();
        target.end();
        assert_eq!(kept.lost(attachment), "the process has ended");
        let deleted = format!("{} (deleted)", name.display());
        until("the deleted file is given back", || {
            opened(kept.pid(), deleted.as_ref()) == 0
        });
    }
}

/// How many descriptors of a process's threads name this file.
fn opened(pid: u32, name: &std::path::Path) -> usize {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads
        .filter_map(|thread| fs::read_dir(thread.path().join("fd")).ok())
        .flat_map(|descriptors| descriptors.flatten())
        .filter(|one| fs::read_link(one.path()).is_ok_and(|link| link == name))
        .count()
}

#[test]
fn a_process_that_changes_text_takes_none() {
    let Some(_turn) = turn("a_process_that_changes_text_takes_none") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Multi) else {
        return;
    };
    let library = Library::new();
    // Known by what it has mapped.
    let preload = library.path.with_file_name("librrpreload.so");
    fs::copy(crate::support::program("point"), &preload).unwrap();
    let mut target = Target::start(&preload);
    let file = File::open(&preload).unwrap();
    let scope = Scope::Process(target.pid());
    let refused = kept.keeper.attach(&request(&file, &target, scope));
    assert_eq!(refused, Err(Refused::Translated("rr".to_owned())));
    target.tell("c 1");
    assert_eq!(kept.hits(), 0);
}

#[test]
fn both_processes_end_with_their_agent() {
    let Some(_turn) = turn("both_processes_end_with_their_agent") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Multi) else {
        return;
    };
    let library = Library::new();
    let target = Target::start(&library.path);
    let scope = Scope::Process(target.pid());
    kept.attach(&library.path, &target, scope).unwrap();
    let (watch, keeper) = (kept.keeper.pids().0, kept.pid());
    // A terminal's interrupt is for the agent, which ends them in good order.
    signal(keeper, Signal::INT);
    signal(watch, Signal::TERM);
    assert!(target.has_breakpoint());
    drop(kept);
    assert!(!is_there(keeper) && !is_there(watch));
    assert!(!target.has_breakpoint());
}
