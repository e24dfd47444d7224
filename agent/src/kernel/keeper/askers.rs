//! Threads that ask the keeper: they open strangers' files, whose server may hang, and attaching takes tens of milliseconds.
//! Owners take turns, and none has all threads.
//!
//! Invariant: each job that was taken is done once, unless its file hangs for ever or the threads are dropped before.

use super::{Refused, patience::Late};
use crate::kernel::{
    keylog::{
        process::{
            Lane,
            pool::{Pool, Threads},
        },
        searches::{Queue, Shares, Taken},
    },
    owner::Owner,
};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

const THREADS: [Threads; 3] = [
    Threads { usual: 1, most: 16 },
    Threads { usual: 0, most: 0 },
    Threads { usual: 0, most: 0 },
];

/// Dropping it leaves to themselves the threads whose files hang.
pub struct Askers<J: Send + 'static> {
    pool: Pool<Queue<(u64, J)>>,
    dropped: Arc<AtomicU64>,
}

/// What a job may do.
pub struct Turn<'a> {
    late: &'a Late,
    owner: &'a Owner,
    refused: Option<Refused>,
}

impl Turn<'_> {
    /// Asks the keeper, unless the job was dropped, or the owner's requests are not answered.
    ///
    /// # Errors
    /// Why there is no answer, or the keeper's own refusal.
    pub fn ask<T>(&self, ask: impl FnOnce() -> Result<T, Refused>) -> Result<T, Refused> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        let result = ask();
        self.late
            .answered(self.owner, !matches!(result, Err(Refused::Late)));
        result
    }

    /// Why nothing is to be done.
    pub fn refused(&self) -> Option<&Refused> {
        self.refused.as_ref()
    }
}

impl<J: Send + 'static> Askers<J> {
    /// # Errors
    /// If there can be no thread.
    pub fn start(work: impl Fn(&Turn<'_>, J) + Send + Sync + 'static) -> io::Result<Self> {
        let dropped: Arc<AtomicU64> = Arc::default();
        let no_more = Arc::clone(&dropped);
        let late = Late::default();
        let queue = Queue::new(Shares {
            running_of_owner: 2,
            ..Shares::default()
        });
        let pool = Pool::start(
            queue,
            THREADS,
            |_| {},
            move |line, _, taken| {
                let Taken { owner, ticket, job } = taken;
                let (number, job) = job;
                let refused = if number <= no_more.load(Ordering::Relaxed) {
                    Some(Refused::Ended)
                } else {
                    late.refuses(&owner).then_some(Refused::Late)
                };
                let turn = Turn {
                    late: &late,
                    owner: &owner,
                    refused,
                };
                work(&turn, job);
                line.with(|queue: &mut Queue<(u64, J)>| {
                    queue.done(&owner, ticket, Instant::now());
                });
            },
        )?;
        Ok(Self { pool, dropped })
    }

    /// False: too many of its owner's wait, or of all. Numbers rise.
    #[must_use]
    pub fn take(&self, owner: &Owner, number: u64, job: J) -> bool {
        let now = Instant::now();
        let pushed = self
            .pool
            .handle()
            .with(|queue| queue.push(owner, Lane::Prompt, (number, job), now));
        pushed.is_ok()
    }

    /// Drops the jobs up to this number that have not begun.
    pub fn drop_up_to(&self, number: u64) {
        self.dropped.store(number, Ordering::Relaxed);
    }
}
