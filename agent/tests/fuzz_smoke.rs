//! Every fuzz target for some seconds on the stable toolchain, and proof that none is forgotten.
//!
//! What coverage-guided fuzzing (`fuzz/`) does in hours this does not; it finds what a parser does with nearly valid
//! input. `TOKENTRAIL_FUZZ_SECONDS` sets the seconds per target, `TOKENTRAIL_FUZZ_SEED` the first number of the
//! generator.

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

fn run(target: &Target, data: &[u8]) {
    let began = Instant::now();
    let result = catch_unwind(|| (target.run)(data));
    assert!(
        result.is_ok(),
        "fuzz target {} fails on {} bytes:\n{}",
        target.name,
        data.len(),
        hex(data)
    );
    assert!(
        began.elapsed() < SLOW,
        "fuzz target {} takes {:?} on {} bytes:\n{}",
        target.name,
        began.elapsed(),
        data.len(),
        hex(data)
    );
}

#[test]
fn every_target_takes_nearly_valid_input() {
    let time = Duration::from_secs_f64(variable("TOKENTRAIL_FUZZ_SECONDS", SECONDS));
    let seed: u64 = variable("TOKENTRAIL_FUZZ_SEED", 0x746f_6b65_6e74_7261);
    for target in TARGETS {
        let seeds = seeds::of(target.name);
        for data in &seeds {
            run(target, data);
        }
        let mut mutator = Mutator::new(seed, &seeds);
        let (began, mut runs) = (Instant::now(), 0);
        while runs < RUNS && began.elapsed() < time {
            run(target, &mutator.next());
            runs += 1;
        }
        println!(
            "{:<20} {} seeds, {runs} mutants in {:?}",
            target.name,
            seeds.len(),
            began.elapsed()
        );
        assert!(runs > 0, "{}: no time for one run", target.name);
    }
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
    let found = catch_unwind(|| {
        let mut mutator = Mutator::new(1, &[b"abc".to_vec()]);
        for _ in 0..RUNS {
            run(&target, &mutator.next());
        }
    });
    let text = match found {
        Ok(()) => panic!("not found in {RUNS} mutants"),
        Err(found) => found.downcast::<String>().unwrap(),
    };
    assert!(text.starts_with("fuzz target fragile fails on"), "{text}");
    assert!(text.ends_with("ff"), "{text}");
}

#[test]
fn names_are_sorted_and_unique() {
    assert!(TARGETS.is_sorted_by(|a, b| a.name < b.name));
}
