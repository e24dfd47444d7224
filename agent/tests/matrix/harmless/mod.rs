//! Nothing that runs is hurt or changed by being watched, and nothing that is not watched is touched at all: files whose
//! content changes below an agent, programs that copy their code or debug themselves, processes that come and go in
//! every way, and what is given back when they have gone.
//!
//! `TOKENTRAIL_ALL=1` repeats as often as the promise is made for.

mod copied;
mod debugged;
mod exhausted;
mod given_back;
mod hangs;
mod lives;
mod mounts;
mod outside;
mod overwritten;
mod renamed;
mod rungs;
mod stage;

/// Instructions of a sum whose text lies wherever a key-log point of libssl lies in its file.
pub const SHORT_SUM: u32 = 120_000;
/// The same of a small Go program.
pub const LONG_SUM: u32 = 1_000_000;
