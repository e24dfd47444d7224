//! Each of the agent's processes is stopped, or ended by force: the file can be written all the same, nobody meets a
//! breakpoint of before, and what can go on goes on.

use crate::support::{
    Kept, LONG, Library, Target, is_there, milliseconds, program, request, signal, turn, until,
};
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Instant;
use tokentrail_agent::kernel::keeper::{Scope, Way};

/// Environment of the child that stands for the agent: the library, and the target's id, offset and start.
const CHILD: &str = "TOKENTRAIL_KEEPER_CHILD";

fn overwrite(library: &Library) -> std::time::Duration {
    let begin = Instant::now();
    let copied = Command::new("cp")
        .arg(program("sum"))
        .arg(&library.path)
        .status();
    assert!(copied.unwrap().success());
    let took = begin.elapsed();
    library.is_right().unwrap();
    took
}

#[test]
fn a_keeper_that_is_stopped_is_ended_and_another_takes_its_place() {
    let Some(_turn) = turn("a_keeper_that_is_stopped_is_ended_and_another_takes_its_place") else {
        return;
    };
    for kept in [Way::Multi, Way::Perf].into_iter().filter_map(Kept::start) {
        let mut took = Vec::new();
        for end in [Signal::STOP, Signal::KILL, Signal::STOP] {
            let library = Library::new();
            let target = Target::start(&library.path);
            let scope = Scope::Process(target.pid());
            let attachment = kept.attach(&library.path, &target, scope).unwrap();
            let keeper = kept.pid();
            signal(keeper, end);
            took.push(overwrite(&library));
            let why = kept.lost(attachment);
            assert!(why.contains("started anew"), "{why}");
            until("another keeper", || {
                kept.keeper.pids().1.is_some_and(|now| now != keeper)
            });
            library.renew();
            let again = Target::start(&library.path);
            let scope = Scope::Process(again.pid());
            kept.attach(&library.path, &again, scope).unwrap();
            took.push(overwrite(&library));
        }
        eprintln!("keeper stopped: written in {}", milliseconds(&mut took));
    }
}

#[test]
fn without_its_watch_a_keeper_works_on_and_ends_with_it() {
    let Some(_turn) = turn("without_its_watch_a_keeper_works_on_and_ends_with_it") else {
        return;
    };
    for kept in [Way::Multi, Way::Perf].into_iter().filter_map(Kept::start) {
        let (watch, keeper) = (kept.keeper.pids().0, kept.pid());
        let library = Library::new();
        let target = Target::start(&library.path);
        let scope = Scope::Process(target.pid());
        let attachment = kept.attach(&library.path, &target, scope).unwrap();
        signal(watch, Signal::STOP);
        overwrite(&library);
        assert_eq!(kept.lost(attachment), "somebody writes to the file");
        signal(watch, Signal::CONT);

        library.renew();
        let target = Target::start(&library.path);
        let scope = Scope::Process(target.pid());
        let attachment = kept.attach(&library.path, &target, scope).unwrap();
        assert_eq!(kept.pid(), keeper);
        signal(watch, Signal::KILL);
        overwrite(&library);
        assert_eq!(kept.lost(attachment), "the keeper has ended");
        until("the keeper ends", || !is_there(keeper));
        let refused = kept.attach(&library.path, &target, scope);
        assert!(refused.is_err(), "{refused:?}");
    }
}

#[test]
fn a_keeper_answers_writers_while_its_agent_is_stopped_and_ends_with_it() {
    let Some(_turn) = turn("a_keeper_answers_writers_while_its_agent_is_stopped") else {
        return;
    };
    for way in [Way::Multi, Way::Perf] {
        let library = Library::new();
        let target = Target::start(&library.path);
        let Some(mut agent) = Agent::start(&library, &target, way) else {
            continue;
        };
        assert!(target.has_breakpoint());
        signal(agent.child.id(), Signal::STOP);
        overwrite(&library);
        signal(agent.child.id(), Signal::CONT);
        assert_eq!(agent.line(), "somebody writes to the file");
        agent.end();

        library.renew();
        let target = Target::start(&library.path);
        let mut agent = Agent::start(&library, &target, way).unwrap();
        agent.end();
        until("both processes end with their agent", || {
            !is_there(agent.watch) && !is_there(agent.keeper)
        });
        assert!(!target.has_breakpoint());

        // All of them at once.
        library.renew();
        let target = Target::start(&library.path);
        let mut agent = Agent::start(&library, &target, way).unwrap();
        signal(agent.keeper, Signal::STOP);
        agent.end();
        overwrite(&library);
        until("both processes end with their agent", || {
            !is_there(agent.watch) && !is_there(agent.keeper)
        });
    }
}

/// A process that stands for the agent.
struct Agent {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    watch: u32,
    keeper: u32,
}

impl Agent {
    fn start(library: &Library, target: &Target, way: Way) -> Option<Self> {
        let start = tokentrail_agent::kernel::scope::start_ticks(target.pid()).unwrap();
        let facts = format!(
            "{way} {} {} {start} {}",
            target.pid(),
            target.offset(),
            library.path.display()
        );
        let mut child = Command::new("/proc/self/exe")
            .args(["--exact", "--nocapture", "stopped::the_agent_itself"])
            .env(CHILD, facts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut agent = Self {
            child,
            said,
            watch: 0,
            keeper: 0,
        };
        let line = agent.line();
        if line == "skipped" {
            agent.end();
            return None;
        }
        let (watch, keeper) = line.split_once(' ').unwrap();
        (agent.watch, agent.keeper) = (watch.parse().unwrap(), keeper.parse().unwrap());
        Some(agent)
    }

    /// What it says next to this test.
    fn line(&mut self) -> String {
        let end = Instant::now() + LONG;
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended");
            if let Some((_, said)) = line.split_once("keeper says: ") {
                return said.trim().to_owned();
            }
            assert!(Instant::now() < end);
        }
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Not a test by itself: what [`Agent`] runs.
#[test]
fn the_agent_itself() {
    let Ok(facts) = std::env::var(CHILD) else {
        return;
    };
    let mut words = facts.splitn(5, ' ');
    let mut word = || words.next().unwrap();
    let way = match word() {
        "perf" => Way::Perf,
        _ => Way::Multi,
    };
    let (pid, offset, start) = (
        word().parse().unwrap(),
        word().parse().unwrap(),
        word().parse().unwrap(),
    );
    let path = word();
    let mut out = std::io::stdout();
    let Some(kept) = Kept::start(way) else {
        writeln!(out, "keeper says: skipped").unwrap();
        return;
    };
    let file = File::open(path).unwrap();
    let attachment = kept
        .keeper
        .attach(&tokentrail_agent::kernel::keeper::Request {
            file: &file,
            state: tokentrail_agent::kernel::keylog::FileState::of(&file).unwrap(),
            scope: Scope::Process(pid),
            start_ticks: start,
            places: vec![tokentrail_agent::kernel::keeper::Place {
                program: tokentrail_agent::kernel::keeper::Program::KeylogPoint,
                file_offset: offset,
                cookie: 0,
                returns: false,
            }],
        })
        .unwrap();
    let (watch, keeper) = (kept.keeper.pids().0, kept.pid());
    writeln!(out, "keeper says: {watch} {keeper}").unwrap();
    writeln!(out, "keeper says: {}", kept.lost(attachment)).unwrap();
    // Until it is ended.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn a_keeper_that_ends_again_and_again_is_started_less_often() {
    let Some(_turn) = turn("a_keeper_that_ends_again_and_again_is_started_less_often") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Multi) else {
        return;
    };
    let library = Library::new();
    let target = Target::start(&library.path);
    let begin = Instant::now();
    for _ in 0..4 {
        let keeper = kept.pid();
        signal(keeper, Signal::KILL);
        until("another keeper", || {
            kept.keeper.pids().1.is_some_and(|now| now != keeper)
        });
    }
    // 100, 200, 400 and 800 ms.
    assert!(begin.elapsed().as_millis() >= 1_500);
    let file = File::open(&library.path).unwrap();
    let request = request(&file, &target, Scope::Process(target.pid()));
    kept.keeper.attach(&request).unwrap();
    fs::write(&library.path, fs::read(program("sum")).unwrap()).unwrap();
    library.is_right().unwrap();
}
