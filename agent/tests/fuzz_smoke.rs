//! Every fuzz target for some seconds on the stable toolchain, and proof that none is forgotten.
//!
//! What coverage-guided fuzzing (`fuzz/`) does in hours this does not; it finds what a parser does with nearly valid
//! input. `TOKENTRAIL_FUZZ_SECONDS` sets the seconds per target, `TOKENTRAIL_FUZZ_SEED` the first number of the
//! generator, `TOKENTRAIL_FUZZ_TARGET` the one target to run.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "fuzz_smoke/forgotten.rs"]
mod forgotten;
#[path = "fuzz_smoke/mutate.rs"]
mod mutate;
#[path = "fuzz_smoke/seeds.rs"]
mod seeds;

use mutate::Mutator;
use std::{
    fmt::Write as _,
    panic::catch_unwind,
    sync::{Mutex, Once},
    time::{Duration, Instant},
};
use tokentrail_agent::fuzz::{TARGETS, Target};

const SECONDS: f64 = 1.0;
/// Runs of one target at most, however fast it is.
const RUNS: u32 = 20_000;
/// No input of the sizes made here may take so long, even in a debug build on a busy machine.
const SLOW: Duration = Duration::from_secs(20);

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => match text.parse() {
            Ok(value) => value,
            Err(_) => panic!("{name}={text} is not a number"),
        },
        Err(_) => default,
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What is under way in each thread, for the watchdog.
static RUNNING: Mutex<Vec<(Instant, &'static str, Vec<u8>)>> = Mutex::new(Vec::new());

/// Ends the tests where a run does not end, with the input that shows it.
fn watch() {
    static WATCHDOG: Once = Once::new();
    WATCHDOG.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let running = RUNNING.lock().unwrap();
                let slow = running.iter().find(|(began, ..)| began.elapsed() > SLOW);
                if let Some((_, name, data)) = slow {
                    eprintln!("{}", failure(name, "does not end", data));
                    std::process::exit(101);
                }
            }
        });
    });
}

fn failure(name: &str, what: &str, data: &[u8]) -> String {
    let len = data.len();
    format!("fuzz target {name} {what} on {len} bytes:\n{}", hex(data))
}

/// What is wrong, with the input that shows it.
fn run(target: &Target, data: &[u8]) -> Result<(), String> {
    watch();
    let began = Instant::now();
    RUNNING
        .lock()
        .unwrap()
        .push((began, target.name, data.to_vec()));
    let result = catch_unwind(|| (target.run)(data));
    RUNNING
        .lock()
        .unwrap()
        .retain(|(other, name, _)| (*other, *name) != (began, target.name));
    result.map_err(|_| failure(target.name, "fails", data))
}

/// All seeds, then mutants until the time is over or one fails. Returns how many mutants.
fn smoke(target: &Target, seed: u64, time: Duration) -> Result<u32, String> {
    let seeds = seeds::of(target.name);
    for data in &seeds {
        run(target, data)?;
    }
    let mut mutator = Mutator::new(seed, &seeds);
    let (began, mut runs) = (Instant::now(), 0);
    while runs < RUNS && (runs == 0 || began.elapsed() < time) {
        run(target, &mutator.next())?;
        runs += 1;
    }
    Ok(runs)
}

#[test]
fn every_target_takes_nearly_valid_input() {
    let time = Duration::from_secs_f64(variable("TOKENTRAIL_FUZZ_SECONDS", SECONDS));
    let seed: u64 = variable("TOKENTRAIL_FUZZ_SEED", 0x746f_6b65_6e74_7261);
    let only = std::env::var("TOKENTRAIL_FUZZ_TARGET").ok();
    let chosen = |target: &&Target| only.as_ref().is_none_or(|name| name == target.name);
    assert!(
        TARGETS.iter().any(|target| chosen(&target)),
        "{only:?} is no target"
    );
    let mut failures = Vec::new();
    for target in TARGETS.iter().filter(chosen) {
        let began = Instant::now();
        match smoke(target, seed, time) {
            Ok(runs) => println!(
                "{:<20} {runs} mutants in {:?}",
                target.name,
                began.elapsed()
            ),
            Err(failure) => failures.push(failure),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn failures_are_found_and_shown() {
    fn fragile(data: &[u8]) {
        assert!(!data.ends_with(b"\xff"), "ends with 255");
    }
    let target = Target {
        name: "fragile",
        path: "",
        run: fragile,
    };
    let seeds = [b"abc".to_vec()];
    let mut mutator = Mutator::new(1, &seeds);
    let found = (0..RUNS).find_map(|_| run(&target, &mutator.next()).err());
    let text = found.unwrap();
    assert!(text.starts_with("fuzz target fragile fails on"), "{text}");
    assert!(text.ends_with("ff"), "{text}");
}

#[test]
fn names_are_sorted_and_unique() {
    assert!(TARGETS.is_sorted_by(|a, b| a.name < b.name));
}
