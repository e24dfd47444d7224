//! Empty probes, attached until SIGTERM or SIGINT.

use super::{super::run::tell_ready, ProbesArguments, print};
use serde_json::json;
use std::process::ExitCode;
use tokentrail_agent::kernel::empty::Empty;

pub fn probes(arguments: &ProbesArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let attached = Empty::attach(arguments.set, arguments.rung)?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        print(&json!({
            "set": arguments.set.to_string(),
            "rung": attached.rung.map(|rung| rung.to_string()),
            "places": attached.places,
        }))?;
        tell_ready(arguments.ready_fd)?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}
