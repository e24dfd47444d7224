//! The process that searches: many files at once, each on a thread of its lane.
//!
//! Invariant: it opens nothing; what it reads are descriptors of regular files that it was handed.
//! Invariant: it ends with its supervisor, and with the privileged process.

use super::message::{Answer, Ask};
use super::pool::{Line, Pool, Threads};
use super::{Failure, Lane};
use crate::kernel::bare;
use crate::kernel::keylog::elf::FileSource;
use crate::kernel::keylog::finder::{Found, LookError, look_again};
use crate::privilege::filter;
use crate::privilege::message;
use crate::privilege::pipe::{self, Pipe};
use rustix::process::Pid;
use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

/// All lanes together stay below what the privileged process has under way at most, so that none waits for ever.
const THREADS: [Threads; 3] = [
    Threads { usual: 2, most: 24 },
    Threads { usual: 1, most: 4 },
    Threads { usual: 1, most: 4 },
];

struct Job {
    number: u64,
    lane: Lane,
    hint: Option<Box<Found>>,
    file: File,
}

struct Waiting(VecDeque<Job>);

impl Line for Waiting {
    type Job = Job;

    fn next(&mut self, lane: Lane, _: Instant) -> Option<Job> {
        let at = self.0.iter().position(|job| job.lane == lane)?;
        self.0.remove(at)
    }

    fn waits(&self, lane: Lane, _: Instant) -> bool {
        self.0.iter().any(|job| job.lane == lane)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Does what is asked for until nobody asks any more. To be called in a process with one thread.
pub(super) fn run(pipe: Pipe, supervisor: Pid) -> Result<(), Box<dyn std::error::Error>> {
    if !bare::end_with(Some(supervisor))? {
        return Ok(());
    }
    filter::searcher()?;
    let pipe = Arc::new(pipe);
    let answers = Arc::clone(&pipe);
    let pool = Pool::start(
        Waiting(VecDeque::new()),
        THREADS,
        begin,
        move |_, lane, job: Job| {
            let outcome = search(&job.file, job.hint.as_deref(), lane);
            // Its end of the file goes before the answer is there.
            drop(job.file);
            answer(&answers, job.number, outcome);
        },
    )?;
    let line = pool.handle();
    let mut receiver = pipe.receiver();
    loop {
        match receiver.receive_with::<Ask>() {
            Ok((Ask::Search { number, lane, hint }, Some(file))) => {
                let file = File::from(file);
                line.with(|waiting| {
                    waiting.0.push_back(Job {
                        number,
                        lane,
                        hint,
                        file,
                    });
                });
            }
            // No room for its descriptor.
            Ok((Ask::Search { number, .. }, None)) => {
                answer(&pipe, number, Err(Failure::Read(libc::EMFILE)));
            }
            Err(pipe::Error::Message(_)) => {}
            Err(_) => return Ok(()),
        }
    }
}

/// A thread's own priority.
fn begin(lane: Lane) {
    // Where the kernel refuses, it competes with the others: slower for them, and not wrong.
    let _ = match lane {
        Lane::Prompt => Ok(()),
        Lane::Large => bare::be_nice(),
        Lane::Ahead => bare::be_idle(),
    };
}

fn search(file: &File, hint: Option<&Found>, lane: Lane) -> Result<Box<Found>, Failure> {
    let searched = catch_unwind(AssertUnwindSafe(|| {
        let stat = rustix::fs::fstat(file).map_err(std::io::Error::from)?;
        crate::kernel::keylog::discover::check_regular(stat.st_mode)?;
        look_again(&FileSource::new(file)?, hint, lane.limits())
    }));
    match searched {
        Ok(Ok(found)) => Ok(Box::new(found)),
        Ok(Err(error)) => Err(Failure::from(&error as &LookError)),
        Err(_) => Err(Failure::Stumbled),
    }
}

fn answer(pipe: &Pipe, number: u64, outcome: Result<Box<Found>, Failure>) {
    let sent = pipe.send(&Answer::Searched { number, outcome });
    if let Err(pipe::Error::Message(message::Error::TooLong(_))) = sent {
        let outcome = Err(Failure::TooMuch);
        let _ = pipe.send(&Answer::Searched { number, outcome });
    }
    // Else the other side is gone, or does not read: the search runs out of time there.
}
