//! The keeper of uprobes, as it is: its real processes, real uprobes on libraries of these tests, real writers.
//!
//! Only root can run these; others see that they were skipped. `TOKENTRAIL_OVERWRITES` says how often each writer
//! overwrites (20 without it).
//!
//! Invariant: uprobes are put on files of these tests alone, and processes that they started are stopped and ended.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod attach;
mod many;
mod overwrite;
mod stopped;
mod support;
