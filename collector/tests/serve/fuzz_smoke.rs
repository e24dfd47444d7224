//! The collector's fuzz targets for a moment each, as `agent/tests/fuzz_smoke.rs` does it for the agent's.
//!
//! `TOKENTRAIL_FUZZ_SECONDS` sets the seconds, `TOKENTRAIL_FUZZ_SEED` the first number of the generator.

#[path = "../../../agent/tests/fuzz_smoke/mutate.rs"]
mod mutate;

use crate::support::number;
use mutate::Mutator;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};
use tokentrail::fuzz::TARGETS;

const SEEDS: [&str; 14] = [
    "provider:github status:401 src:10.0.0.0/8 since:24h",
    "status:400..499 path:/admin* -user:root",
    "(host:web-1 or host:\"db \\\"1\\\"\") -(kind:loss or kind:audit)",
    "time:2026-11-22T10:00:00.123456789Z until:2026-11-23",
    "fingerprint:tkf1:k1:___________________________________________ fp:tkf1:k2:*",
    "not status:>=500 not not uid:..0 uid:-9223372036854775808..9223372036854775807",
    "container:* -container:* args:--verbose correlation:x*",
    "src:2001:db8::/32 peer:/run/*.sock peer:@abstract dst:::1/128",
    "loss.intentional:true producer.sequence:<=7",
    "path:\"/a b/\u{fc}\" or path:\u{10ffff}*",
    "((((((((((((status:200))))))))))))",
    "statsu:401",
    "status:99999999999999999999 since:1x",
    "",
];

#[test]
fn every_target_takes_nearly_valid_input() {
    let time = Duration::from_secs(number("TOKENTRAIL_FUZZ_SECONDS", 1));
    let seed = number("TOKENTRAIL_FUZZ_SEED", 0x746f_6b65_6e74_7261);
    let seeds: Vec<Vec<u8>> = SEEDS.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    for target in TARGETS {
        let mut mutator = Mutator::new(seed, &seeds);
        let (start, mut runs) = (Instant::now(), 0_u64);
        let mut inputs = seeds.clone();
        while let Some(input) = inputs.pop() {
            let kept = input.clone();
            let run = catch_unwind(move || (target.run)(&input));
            assert!(
                run.is_ok(),
                "fuzz target {} fails on {:?}",
                target.name,
                String::from_utf8_lossy(&kept)
            );
            runs += 1;
            if inputs.is_empty() && start.elapsed() < time {
                inputs.push(mutator.next());
            }
        }
        println!("{}: {runs} inputs", target.name);
    }
}

#[test]
fn each_target_has_a_cargo_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let name = target.name;
        let text = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            text.contains(&format!("tokentrail::fuzz::run(\"{name}\", data)")),
            "{text}"
        );
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
}
