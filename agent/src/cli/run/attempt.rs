//! `attempt`: locks itself down as a worker, or a process of the finder, and tries what must not work. For tests.
//!
//! Exit status 0: it worked. 3: it was refused, with the reason on standard output (the finder: standard error). Ended by SIGSYS: the filter's
//! strongest answer.

use super::super::{AttemptArguments, FinderProcess};
use std::process::ExitCode;
use tokentrail_agent::privilege::{
    attempt::Attempt,
    filter,
    folders::{self, Allowed},
    lockdown,
};

pub fn attempt(arguments: AttemptArguments) -> anyhow::Result<ExitCode> {
    let attempt: Attempt = arguments.what.parse().map_err(anyhow::Error::msg)?;
    if let Some(process) = arguments.finder {
        let account = arguments.user.map(|user| (user, user));
        let weaker = match process {
            FinderProcess::Supervisor => lockdown::finder(account)?,
            FinderProcess::Searcher => {
                let weaker = lockdown::finder(account)?;
                filter::searcher()?;
                weaker
            }
            FinderProcess::Landlock => folders::weaker(folders::restrict(&Allowed::default())?),
        };
        for what in weaker {
            eprintln!("weaker: {what}");
        }
        // Standard output is none of its business.
        return Ok(match attempt.make() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("refused: {error}");
                ExitCode::from(3)
            }
        });
    }
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
