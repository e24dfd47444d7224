//! Every fuzz entry point of the collector by its name: what `fuzz/` runs for hours and `tests/serve/fuzz_smoke.rs` for
//! a moment.
//!
//! An entry takes any bytes, is deterministic, and panics only where its module breaks an invariant.
//!
//! Invariant: each has a target in `fuzz/`.

/// One entry point.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[Target {
    name: "search_language",
    run: crate::search::language::fuzz::fuzz,
}];

/// Runs one of them.
///
/// # Panics
/// Where an invariant is broken, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let Some(target) = target else {
        panic!("no fuzz target {name}");
    };
    (target.run)(data);
}
