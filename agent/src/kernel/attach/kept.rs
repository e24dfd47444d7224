//! Points that the keeper holds (`crate::kernel::keeper`): uprobes, where no breakpoint is to be had or the configuration
//! asks for them.
//!
//! Attaching one takes tens of milliseconds and opens a file, whose server may hang: threads of their own do it, one of
//! them unless that hangs. Owners take turns, and none has all threads.
//!
//! Invariant: the file that is passed on is the one that was searched, in the state that it was searched in.

use super::{Bell, point::Refused, processes::Spot};
use crate::kernel::{
    keeper::{self, Attachment, Keeper, Late, Program, Request, Scope},
    keylog::{
        FileState, discover,
        process::{
            Lane,
            pool::{Pool, Threads},
        },
        searches::{Queue, Shares, Taken},
    },
    owner::Owner,
    points::Unattached,
    record::ProcessKey,
};
use agent_common::abi::{self, TICK};
use rustix::io::Errno;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::Instant,
};
use tracing::debug;

/// What is to be attached.
pub struct Job {
    /// Greater than those of all earlier jobs.
    pub number: u64,
    pub process: ProcessKey,
    pub owner: Owner,
    /// Where the point is in the process.
    pub spot: Spot,
    pub program: Program,
    pub file: abi::File,
    pub file_offset: u64,
    /// For every process of the host that has the file mapped.
    pub host: bool,
    /// Why there is no breakpoint instead.
    pub refused: Unattached,
}

/// What came of a job.
pub struct Done {
    pub job: Job,
    pub result: Result<Attachment, Refused>,
}

const THREADS: [Threads; 3] = [
    Threads { usual: 1, most: 16 },
    Threads { usual: 0, most: 0 },
    Threads { usual: 0, most: 0 },
];

/// The threads that ask the keeper.
pub struct Kept {
    keeper: Arc<Keeper>,
    pool: Pool<Queue<Box<Job>>>,
    done: Receiver<Done>,
    /// Jobs up to this number are not done.
    dropped: Arc<AtomicU64>,
}

/// The state that all threads of the pool share.
struct Asking {
    keeper: Arc<Keeper>,
    done: Sender<Done>,
    bell: Bell,
    late: Late,
    dropped: Arc<AtomicU64>,
}

impl Kept {
    /// # Errors
    /// If there can be no thread.
    pub fn start(keeper: Arc<Keeper>, bell: Bell) -> io::Result<Self> {
        let (sender, done) = channel();
        let asking = Asking {
            keeper: Arc::clone(&keeper),
            done: sender,
            bell,
            late: Late::default(),
            dropped: Arc::default(),
        };
        let dropped = Arc::clone(&asking.dropped);
        let queue: Queue<Box<Job>> = Queue::new(Shares {
            running_of_owner: 2,
            ..Shares::default()
        });
        let pool = Pool::start(
            queue,
            THREADS,
            |_| {},
            move |line, _, taken| {
                let Taken { owner, ticket, job } = taken;
                asking.ask(&owner, *job);
                line.with(|queue| queue.done(&owner, ticket, Instant::now()));
            },
        )?;
        Ok(Self {
            keeper,
            pool,
            done,
            dropped,
        })
    }

    /// False: too many of its owner's wait, or of all.
    #[must_use]
    pub fn ask(&self, job: Job) -> bool {
        let owner = job.owner.clone();
        let pushed = self
            .pool
            .handle()
            .with(|queue| queue.push(&owner, Lane::Prompt, Box::new(job), Instant::now()));
        pushed.is_ok()
    }

    /// Drops the jobs up to this number that have not begun.
    pub fn drop_up_to(&self, number: u64) {
        self.dropped.store(number, Ordering::Relaxed);
    }

    pub fn next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }
}

impl Asking {
    fn ask(&self, owner: &Owner, job: Job) {
        let result = if job.number <= self.dropped.load(Ordering::Relaxed) {
            Err(keeper::Refused::Ended)
        } else if self.late.refuses(owner) {
            Err(keeper::Refused::Late)
        } else {
            let result = attach(&self.keeper, &job);
            self.late
                .answered(owner, !matches!(result, Err(keeper::Refused::Late)));
            result
        };
        let result = result.map_err(|refused| {
            debug!(%refused, pid = job.process.pid, "no uprobe");
            reason(&refused)
        });
        // Nobody takes it at the end.
        let _ = self.done.send(Done { job, result });
        self.bell.ring();
    }
}

fn attach(keeper: &Keeper, job: &Job) -> Result<Attachment, keeper::Refused> {
    use keeper::Refused as R;
    let scope = match job.host {
        true => Scope::Host,
        false => Scope::Process(job.process.pid),
    };
    let file = discover::open_at(job.process.pid, job.spot.address).map_err(|error| {
        debug!(%error, pid = job.process.pid, "a file is not attached to");
        match error.errno() {
            Some(Errno::MFILE | Errno::NFILE) => R::Descriptors,
            _ => R::Ended,
        }
    })?;
    // Here already, since its server may hang.
    keeper::check_file(&file, scope, None)?;
    let state = FileState::of(&file).map_err(|error| R::Kernel(error.to_string()))?;
    if !state.as_kernel().has_content_of(&job.file) {
        return Err(R::Changed);
    }
    let request = Request {
        file: &file,
        state,
        scope,
        start_ticks: job.process.start / TICK,
        places: vec![keeper::Place {
            program: job.program,
            file_offset: job.file_offset,
            cookie: u64::from(job.spot.places) << 32 | u64::from(job.spot.point.0),
            returns: false,
        }],
    };
    keeper.attach(&request)
}

fn reason(refused: &keeper::Refused) -> Refused {
    use keeper::Refused as R;
    Refused::For(match refused {
        R::Ended => return Refused::Gone,
        R::Descriptors => Unattached::Descriptors,
        R::Attachments(_) | R::Files(_) | R::Events(_) | R::Places => Unattached::Limit,
        R::Writer | R::Written | R::Changed => Unattached::Written,
        R::Memory | R::FileSystem(_) | R::Layers | R::NoFile | R::Busy | R::Lease(_) => {
            Unattached::NoLease
        }
        R::Executable => Unattached::Executable,
        R::Translated(_) | R::LargePages(_) => Unattached::TextCopied,
        R::Unseen(_)
        | R::Kernel(_)
        | R::Program
        | R::Restarted
        | R::Late
        | R::NoKeeper
        | R::Channel(_) => Unattached::Refused,
    })
}
