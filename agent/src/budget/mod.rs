//! What the agent itself may cost: CPU time and memory of both processes together.
//!
//! Three answers, in this order. Over its CPU time it reads a share of the exchanges and skips the rest: the privileged
//! process measures ([`Meter`]) and chooses the share ([`Controller`]), the pipeline asks its [`Gate`] at each exchange.
//! Over its memory, buffers that wait and what is known of ended processes are given up. Where that does not help for
//! long, the probes are detached for a while.
//!
//! What is skipped is counted and told of; nothing is guessed from what was left out.
//!
//! Invariant: the parts here know no probes, no connections and no messages; clocks are handed in.

mod controller;
mod gate;
mod meter;

pub use controller::{Controller, Limits, Over, Verdict};
pub use gate::{Gate, Skipped};
pub use meter::{Meter, Usage};

/// A share of exchanges, in parts of this: all of them.
pub const WHOLE: u16 = 1_024;
