//! The agent end to end: real programs, a real agent, one generated credential per cell (see `support`).
//!
//! `cargo test -p agent --test matrix` says what it skips and why; `cargo xtask test` runs it as it should be run.

mod ahead;
mod bridge;
mod budget;
mod canary;
mod clients;
mod connections;
mod container;
mod coverage;
mod crowd;
mod fixtures;
mod grpc;
mod harmless;
mod hostile;
mod http2;
mod kernel_tls;
mod kill;
mod late;
mod privilege;
mod processes;
mod quic;
mod repeated;
mod rotate;
mod scope;
mod serving;
mod stop;
mod support;
mod unread;
