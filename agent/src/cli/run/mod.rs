//! `run`: two processes, signals, and the end.
//!
//! This one, the one that was started, becomes the privileged process ([`privileged`]); it starts its own executable
//! again with the hidden command `worker` ([`worker`], with its reports in [`reports`]). What may pass between them and
//! what each may do is said in `tokentrail_agent::privilege`; how both keep to their budget, in [`guard`] and
//! [`affordable`]. The end is orderly: probes are detached, what is in the
//! ring is read, what waits is given out.

mod affordable;
pub mod attempt;
mod doors;
pub mod finder;
mod guard;
mod live;
mod privileged;
mod reload;
mod reports;
pub mod worker;

use super::{RunArguments, start};
use anyhow::Context as _;
use std::{
    io::Write as _,
    os::fd::{FromRawFd as _, OwnedFd},
    process::ExitCode,
};
use tokentrail_agent::config::Config;
use tracing::warn;
use tracing_subscriber::{
    EnvFilter, Registry, layer::SubscriberExt as _, reload::Handle, util::SubscriberInitExt as _,
};

pub fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let config = start::configuration(&arguments)?;
    let log = Log::start(&config);
    leave_no_core();
    let scopes = start::scopes(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(privileged::observe(arguments, config, scopes, &log))
}

/// Other people's secrets are in this memory: no core is written, and what a debugger writes has no heap in it
/// (core(5), `coredump_filter`).
fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cores of the agent cannot be turned off");
    }
    if let Err(error) = std::fs::write("/proc/self/coredump_filter", "0") {
        warn!(%error, "memory cannot be left out of cores");
    }
}

/// The log on standard error, whose level may change.
struct Log(Handle<EnvFilter, Registry>);

impl Log {
    fn start(config: &Config) -> Self {
        let (filter, handle) = tracing_subscriber::reload::Layer::new(Self::filter(config));
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false);
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .init();
        Self(handle)
    }

    /// The variable TOKENTRAIL_LOG goes before the configuration.
    fn filter(config: &Config) -> EnvFilter {
        EnvFilter::try_from_env("TOKENTRAIL_LOG")
            .or_else(|_| EnvFilter::try_new(&config.agent.log))
            .unwrap_or_else(|_| EnvFilter::new("info"))
    }

    fn change(&self, config: &Config) {
        if let Err(error) = self.0.reload(Self::filter(config)) {
            warn!(%error, "the log's level stays as it was");
        }
    }
}

pub fn tell_ready(fd: Option<i32>) -> anyhow::Result<()> {
    if let Some(fd) = fd {
        anyhow::ensure!(fd > 2, "--ready-fd {fd}: standard descriptors are taken");
        rustix::io::fcntl_getfd(borrowed(fd)).with_context(|| format!("--ready-fd {fd}"))?;
        let mut file = std::fs::File::from(owned(fd));
        file.write_all(b"ready\n")
            .with_context(|| format!("--ready-fd {fd}"))?;
    }
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    Ok(())
}

#[expect(
    unsafe_code,
    reason = "a descriptor that the parent process passed by its number"
)]
fn owned(fd: i32) -> OwnedFd {
    // SAFETY: `tell_ready` has checked that it is open; by the contract of --ready-fd it is ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[expect(
    unsafe_code,
    reason = "a descriptor that the parent process passed by its number"
)]
fn borrowed(fd: i32) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: only asked whether it is open.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) }
}
