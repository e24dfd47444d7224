//! Points that the keeper holds (`crate::kernel::keeper`): uprobes, where no breakpoint is to be had or the configuration
//! asks for them.
//!
//! Invariant: the file that is passed on is the one that was searched, in the state that it was searched in.

use super::{Bell, point::Refused, processes::Spot};
use crate::kernel::{
    keeper::{self, Askers, Attachment, Keeper, Program, Request, Scope},
    keylog::{FileState, discover},
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
        mpsc::{Receiver, channel},
    },
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

/// The threads that ask the keeper, and its answers.
pub struct Kept {
    keeper: Arc<Keeper>,
    askers: Askers<Box<Job>>,
    done: Receiver<Done>,
}

impl Kept {
    /// # Errors
    /// If there can be no thread.
    pub fn start(keeper: Arc<Keeper>, bell: Bell) -> io::Result<Self> {
        let (sender, done) = channel();
        let asked = Arc::clone(&keeper);
        let askers = Askers::start(move |turn, job: Box<Job>| {
            let result = turn.ask(|| attach(&asked, &job)).map_err(|refused| {
                debug!(%refused, pid = job.process.pid, "no uprobe");
                reason(&refused)
            });
            // Nobody takes it at the end.
            let _ = sender.send(Done { job: *job, result });
            bell.ring();
        })?;
        Ok(Self {
            keeper,
            askers,
            done,
        })
    }

    /// False: too many of its owner's wait, or of all.
    #[must_use]
    pub fn ask(&self, job: Job) -> bool {
        let owner = job.owner.clone();
        self.askers.take(&owner, job.number, Box::new(job))
    }

    /// Drops the jobs up to this number that have not begun.
    pub fn drop_up_to(&self, number: u64) {
        self.askers.drop_up_to(number);
    }

    pub fn next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
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
