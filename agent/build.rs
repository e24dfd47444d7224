//! Embeds the probes that `cargo xtask build` made. Without them the agent builds and says at start what is missing.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=TOKENTRAIL_PROBES");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("probes.o");
    let Some(probes) = env::var_os("TOKENTRAIL_PROBES").map(PathBuf::from) else {
        fs::write(&out, b"").expect("OUT_DIR is writable");
        return;
    };
    println!("cargo::rerun-if-changed={}", probes.display());
    let bytes = fs::read(&probes).unwrap_or_else(|error| panic!("TOKENTRAIL_PROBES={}: {error}", probes.display()));
    fs::write(&out, bytes).expect("OUT_DIR is writable");
}
