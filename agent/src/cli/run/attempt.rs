//! `attempt`: locks itself down as a worker and tries what must not work. For tests.
//!
//! Exit status 0: it worked. 3: it was refused, with the reason on standard output. Ended by SIGSYS: the filter's
//! strongest answer.

use super::super::AttemptArguments;
use std::process::ExitCode;
use tokentrail_agent::privilege::{attempt::Attempt, folders::Allowed, lockdown};

pub fn attempt(arguments: AttemptArguments) -> anyhow::Result<ExitCode> {
    let attempt: Attempt = arguments.what.parse().map_err(anyhow::Error::msg)?;
    let worker = lockdown::Worker {
        user: arguments.user.map(|user| (user, user)),
        allowed: Allowed {
            read: vec!["/proc".into()],
            write: arguments.write,
            connect: arguments.connect,
        },
        make: Vec::new(),
        libraries: false,
    };
    for what in lockdown::worker(&worker)? {
        println!("weaker: {what}");
    }
    Ok(match attempt.make() {
        Ok(()) => {
            println!("done");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("refused: {error}");
            ExitCode::from(3)
        }
    })
}
