//! The hidden command `finder`: its standard input and output are the pipes to the process that has started it.

use super::super::FinderArguments;
use anyhow::Context as _;
use std::{
    os::fd::{AsFd as _, BorrowedFd},
    process::ExitCode,
};
use tokentrail_agent::{
    kernel::{
        bare,
        keylog::process::supervisor::{Ended, supervise},
    },
    privilege::{lockdown, pipe::Pipe},
};

pub fn finder(arguments: &FinderArguments) -> anyhow::Result<ExitCode> {
    let agent = rustix::process::getppid();
    // As for the worker: its parent says when it is over.
    bare::ignore_stop_signals()?;
    let pipes = [
        pipe(std::io::stdin().as_fd())?,
        pipe(std::io::stdout().as_fd())?,
    ];
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    drop(null);
    let account = arguments.user.zip(arguments.group);
    let weaker = lockdown::finder(account).context("the finder cannot be locked down")?;
    if !bare::end_with(agent)? {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(match supervise(pipes, weaker)? {
        Ended::Supervisor | Ended::Searcher(Ok(())) => ExitCode::SUCCESS,
        Ended::Searcher(Err(error)) => {
            eprintln!("tokentrail-agent: the finder cannot search: {error}");
            ExitCode::FAILURE
        }
    })
}

fn pipe(end: BorrowedFd<'_>) -> anyhow::Result<Pipe> {
    Pipe::new(end.try_clone_to_owned()?)
        .context("this command is for `run` alone: standard input and output are not its pipes")
}
