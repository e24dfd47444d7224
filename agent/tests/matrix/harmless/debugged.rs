//! Who uses debug registers beside the agent: a debugger, perf, a process that puts breakpoints on itself, a tracer. Two
//! of the four are always theirs, and what they count is right.

use super::stage::Stage;
use crate::support::clients::{CLIENTS, CURL};
use crate::support::expect::stop;
use crate::support::process::{Place, Program, Spec};
use crate::support::report::Cells;
use crate::support::scenario::{Exchange, Request, requests};
use crate::support::{fixtures, known, say, turn};
use anyhow::{Context, Result, ensure};
use std::path::Path;

#[test]
fn debugged() {
    let Some(_turn) = turn("debugged") else {
        return;
    };
    let mut stage = Stage::new("debugged").unwrap();
    let mut cells = Cells::new("debugged");
    let library = stage.library("library").unwrap();
    let read = stage.curl_until_read(&library).map(drop);
    cells.check("library-read", read);

    for (cell, scenario) in [("itself", "own_breakpoints"), ("tracer", "traced")] {
        match control(&stage, &library, scenario) {
            Ok(()) => cells.check(cell, counts(&mut stage, &library, cell, scenario)),
            Err(error) => cells.skip(cell, &format!("not out of scope either: {error:#}")),
        }
    }
    taken(&mut stage, &library, &mut cells);
    match fixtures::system("/usr/bin/gdb") {
        Ok(gdb) => {
            for session in SESSIONS {
                let held = debugger(&mut stage, &gdb, &library, &session);
                cells.check(session.cell, held);
            }
        }
        Err(missing) => cells.skip("gdb", &format!("{missing:#}")),
    }
    match fixtures::system("/usr/bin/perf") {
        Ok(perf) => measured(&mut stage, &perf, &library, &mut cells),
        Err(missing) => cells.skip("perf", &format!("{missing:#}")),
    }
    stop(stage.agent, &mut cells);
    cells.finish();
}

/// Whether this machine has debug registers for whom nobody watches.
fn control(stage: &Stage, library: &Path, scenario: &'static str) -> Result<()> {
    let asked = requests(&stage.lab, &format!("control-{scenario}"), 1);
    run(stage, library, scenario, &asked, &stage.lab.outside()).map(drop)
}

fn run(
    stage: &Stage,
    library: &Path,
    scenario: &'static str,
    asked: &[Request],
    place: &Place,
) -> Result<Vec<Exchange>> {
    let mut running = stage.script(scenario, library, asked)?.start(place)?;
    running.reach("begun")?;
    running.go()?;
    running.finish()
}

/// The process counts itself, and ends with an error if a count is wrong; its requests are read all the same.
fn counts(stage: &mut Stage, library: &Path, cell: &str, scenario: &'static str) -> Result<()> {
    let asked = requests(&stage.lab, cell, 4);
    let place = stage.lab.inside();
    let done = run(stage, library, scenario, &asked, &place)?;
    read_from_second(stage, cell, &asked, &done)
}

/// Puts four instruction breakpoints that only count on this thread and on those that it makes (perf_event_open(2)), and
/// becomes another program, which keeps them.
const TAKE_ALL: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
place = ctypes.cast(libc.getppid, ctypes.c_void_p).value
attributes = bytearray(128)
struct.pack_into("IIQQQQQIIQQ", attributes, 0, 5, 128, 0, 0, 0, 0, 1 << 1 | 1 << 5 | 1 << 6, 0, 4, place, 8)
held = (ctypes.c_char * 128).from_buffer(attributes)
for _ in range(4):
    if libc.syscall(298, held, 0, -1, -1, 0) < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Programs that hold all four debug registers themselves: a library is read by a uprobe, and a program, whose own text
/// takes none, is listed.
fn taken(stage: &mut Stage, library: &Path, cells: &mut Cells) {
    match taken_outside(stage, library) {
        Ok(()) => cells.check("taken-library", taken_library(stage, library)),
        Err(error) => {
            return cells.skip("taken", &format!("not out of scope either: {error:#}"));
        }
    }
    match fixtures::go_client() {
        Ok(program) => cells.check("taken-program", taken_program(stage, &program)),
        Err(missing) => cells.skip("taken-program", &format!("{missing:#}")),
    }
}

/// Whether a process may take them all for whom nobody watches.
fn taken_outside(stage: &Stage, library: &Path) -> Result<()> {
    let asked = requests(&stage.lab, "taken-outside", 1);
    let place = stage.lab.outside();
    let mut running = stage.script("taken", library, &asked)?.start(&place)?;
    running.reach(&asked[0].cell)?;
    running.go()?;
    running.finish().map(drop)
}

fn taken_library(stage: &mut Stage, library: &Path) -> Result<()> {
    stage.user_as("taken", library, "taken").map(drop)
}

/// How often a program is run that may be too quick.
const TRIES: usize = 5;

fn taken_program(stage: &mut Stage, program: &Path) -> Result<()> {
    let client = CLIENTS.iter().find(|client| client.name == "go");
    let place = stage.lab.inside();
    known::introduce(&stage.agent, &Spec::new(program), &place)?;
    let client = client.context("the Go client")?;
    // It may be over before the agent finds that it cannot attach.
    let mut listed = Ok(());
    for _ in 0..TRIES {
        let asked = stage.ask_once(client, &place, |mut spec| {
            let program = std::mem::replace(&mut spec.program, "/usr/bin/python3".into());
            let words = ["-I".into(), "-c".into(), TAKE_ALL.into()];
            let words = words.into_iter().chain([program.into_os_string()]);
            spec.args.splice(0..0, words);
            spec
        });
        let (errand, _) = asked?;
        let (path, credential) = (errand.path, errand.credential);
        listed = stage.read_or_listed(&path, &credential, &["breakpoints_taken"]);
        ensure!(!stage.was_read(&credential)?, "it was read");
        if listed.is_ok() {
            break;
        }
    }
    listed
}

/// The first handshake may be over before anything can be attached: it is not what is asked here.
fn read_from_second(
    stage: &mut Stage,
    cell: &str,
    asked: &[Request],
    done: &[Exchange],
) -> Result<()> {
    let first = stage.was_read(&asked[0].credential)?;
    say(&format!("debugged: {cell}: first request read: {first}"));
    stage.each_was_read(&asked[1..], &done[1..])
}

/// What gdb takes of the debug registers, and when.
struct Session {
    cell: &'static str,
    /// A breakpoint and a watchpoint, or else two breakpoints.
    watch: bool,
    /// The process has its TLS library before gdb comes.
    early: bool,
}

const SESSIONS: [Session; 3] = [
    Session {
        cell: "gdb-breakpoints",
        watch: false,
        early: true,
    },
    Session {
        cell: "gdb-watchpoint",
        watch: true,
        early: true,
    },
    Session {
        cell: "gdb-before-the-library",
        watch: false,
        early: false,
    },
];

fn debugger(stage: &mut Stage, gdb: &Path, library: &Path, session: &Session) -> Result<()> {
    let Session { cell, watch, early } = *session;
    let asked = requests(&stage.lab, cell, 4);
    let place = stage.lab.inside();
    let script = stage.script("debugged", library, &asked)?;
    let mut running = script.with("early", early).start(&place)?;
    running.reach("begun")?;
    let at = running.at.clone();
    let address = |name: &str| at[name].as_u64().context("an address");
    let second = if watch {
        format!("watch *(long *) {:#x}", address("place")?)
    } else {
        format!("hbreak *{:#x}", address("pgid")?)
    };
    let first = format!("hbreak *{:#x}", address("ppid")?);
    let commands = |number: u32, command: &str| {
        format!("{command}\ncommands\nsilent\nprintf \"met {number}\\n\"\ncontinue\nend\n")
    };
    let file = stage.lab.path("gdb.commands");
    let text = format!(
        "set pagination off\nset confirm off\nset debuginfod enabled off\nset width 0\n{}{}printf \"set\\n\"\ncontinue\n",
        commands(1, &first),
        commands(2, &second)
    );
    std::fs::write(&file, text)?;
    let spec = Spec::new(gdb)
        .args(["-q", "-nx", "-batch", "-p"])
        .arg(running.pid().to_string())
        .arg("-x")
        .arg(&file);
    let mut debugger = Program::start(&spec, &Place::default())?;
    loop {
        if debugger.line()? == "set" {
            break;
        }
    }
    running.go()?;
    let done = running.finish()?;
    let finished = debugger.finish()?;
    let met = |number: u32| {
        let line = format!("met {number}");
        finished.stdout.iter().filter(|one| **one == line).count()
    };
    ensure!(
        (met(1), met(2)) == (10, 10),
        "gdb met its two {} and {} times instead of 10: {} {}",
        met(1),
        met(2),
        finished.stdout.join(" | "),
        finished.stderr
    );
    read_from_second(stage, cell, &asked, &done)
}

/// `perf stat` of a client, by what every kernel counts and by the processor's own counters.
fn measured(stage: &mut Stage, perf: &Path, library: &Path, cells: &mut Cells) {
    for (cell, event) in [
        ("perf-software", "page-faults"),
        ("perf-instructions", "instructions:u"),
    ] {
        let out = stage.lab.path("perf.csv");
        let place = stage.lab.inside();
        let ask = |stage: &Stage| {
            stage.ask(&CURL, &place, |mut spec| {
                let curl = std::mem::replace(&mut spec.program, perf.to_owned());
                let words = ["stat", "-x,", "-e", event, "-o"].map(Into::into);
                let words = words.into_iter().chain([out.clone().into(), curl.into()]);
                spec.args.splice(0..0, words);
                spec.env("LD_LIBRARY_PATH", library)
            })
        };
        let read = stage.until_read(ask);
        let said = std::fs::read_to_string(&out).unwrap_or_default();
        if said.contains("<not supported>") {
            cells.skip(cell, "this machine does not count it");
            continue;
        }
        cells.check(cell, read.and_then(|_| counted(&said)));
    }
}

/// perf-stat(1), CSV: the count comes first.
fn counted(said: &str) -> Result<()> {
    let line = said
        .lines()
        .find(|line| !line.starts_with('#') && line.contains(','));
    let count = line.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
    ensure!(count > Some(0), "perf counted nothing: {said:?}");
    Ok(())
}
