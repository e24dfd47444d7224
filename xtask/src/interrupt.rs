//! Ctrl-C and SIGTERM: noticed, so that every guard runs before the program ends.
//!
//! Children run in process groups of their own and do not hear a terminal's Ctrl-C; they are ended by their guards
//! while the error of [`check`] travels up.
//!
//! Invariant: after a signal no new step begins.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static NOTICED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The error that a signal becomes.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Call once, first.
pub fn install() -> Result<()> {
    let flag = NOTICED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .with_context(|| format!("cannot handle signal {signal}"))?;
    }
    Ok(())
}

pub fn check() -> Result<(), Interrupted> {
    match NOTICED.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Interrupted),
        _ => Ok(()),
    }
}
