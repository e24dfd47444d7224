//! Points that the keeper holds (`crate::kernel::keeper`): uprobes, where no breakpoint is to be had or the configuration
//! asks for them.
//!
//! Attaching one takes tens of milliseconds and opens a file, so that a thread of its own does it. Owners take turns: of
//! one's many programs the others' need not wait for more than one.
//!
//! Invariant: the file that is passed on is the one that was searched, in the state that it was searched in.

use super::{Bell, point::Refused, processes::Spot};
use crate::kernel::{
    keeper::{self, AttachmentId, Keeper, Program, Request, Scope},
    keylog::{FileState, discover},
    owner::Owner,
    points::Unattached,
    record::ProcessKey,
};
use agent_common::abi::{self, TICK};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};
use tracing::debug;

/// What is to be attached.
pub struct Job {
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
    pub result: Result<AttachmentId, Refused>,
}

/// The thread that asks the keeper.
pub struct Kept {
    keeper: Arc<Keeper>,
    jobs: Sender<Job>,
    done: Receiver<Done>,
}

impl Kept {
    /// # Errors
    /// If there can be no thread.
    pub fn start(keeper: Arc<Keeper>, bell: Bell) -> io::Result<Self> {
        let (jobs, receiver) = channel::<Job>();
        let (sender, done) = channel();
        std::thread::Builder::new().name("uprobes".into()).spawn({
            let keeper = Arc::clone(&keeper);
            move || {
                let mut turns = Turns::default();
                while let Some(job) = next(&receiver, &mut turns) {
                    let result = attach(&keeper, &job);
                    if sender.send(Done { job, result }).is_err() {
                        return;
                    }
                    bell.ring();
                }
            }
        })?;
        Ok(Self { keeper, jobs, done })
    }

    pub fn ask(&self, job: Job) {
        // The thread ends with the other end of its channel alone.
        let _ = self.jobs.send(job);
    }

    pub fn next(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    pub fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }
}

/// What waits, by owner.
struct Turns<J> {
    waiting: BTreeMap<Owner, VecDeque<J>>,
    turns: VecDeque<Owner>,
}

impl<J> Default for Turns<J> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            turns: VecDeque::new(),
        }
    }
}

impl<J> Turns<J> {
    fn push(&mut self, owner: Owner, job: J) {
        let of_owner = self.waiting.entry(owner.clone()).or_default();
        if of_owner.is_empty() {
            self.turns.push_back(owner);
        }
        of_owner.push_back(job);
    }

    fn next(&mut self) -> Option<J> {
        let owner = self.turns.pop_front()?;
        let of_owner = self.waiting.get_mut(&owner)?;
        let job = of_owner.pop_front();
        if of_owner.is_empty() {
            self.waiting.remove(&owner);
        } else {
            self.turns.push_back(owner);
        }
        job
    }
}

/// The job whose turn it is; waits where there is none. `None`: there will be no more.
fn next(jobs: &Receiver<Job>, turns: &mut Turns<Job>) -> Option<Job> {
    if turns.turns.is_empty() {
        let job = jobs.recv().ok()?;
        turns.push(job.owner.clone(), job);
    }
    for job in jobs.try_iter() {
        turns.push(job.owner.clone(), job);
    }
    turns.next()
}

fn attach(keeper: &Keeper, job: &Job) -> Result<AttachmentId, Refused> {
    let file = open(job).map_err(|error| {
        debug!(%error, pid = job.process.pid, "a file is not attached to");
        Refused::Gone
    })?;
    let state = FileState::of(&file).map_err(|_| Refused::For(Unattached::Refused))?;
    if !state.as_kernel().has_content_of(&job.file) {
        return Err(Refused::For(Unattached::Written));
    }
    let request = Request {
        file: &file,
        state,
        scope: match job.host {
            true => Scope::Host,
            false => Scope::Process(job.process.pid),
        },
        start_ticks: job.process.start / TICK,
        places: vec![keeper::Place {
            program: job.program,
            file_offset: job.file_offset,
            cookie: u64::from(job.spot.places) << 32 | u64::from(job.spot.point.0),
            returns: false,
        }],
    };
    match keeper.attach(&request) {
        Ok(attachment) => Ok(attachment.id),
        Err(refused) => {
            debug!(%refused, pid = job.process.pid, "no uprobe");
            Err(reason(&refused))
        }
    }
}

fn open(job: &Job) -> io::Result<File> {
    discover::open_at(job.process.pid, job.spot.address).map_err(io::Error::other)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_many_jobs_hold_another_owners() {
        let mut turns = Turns::default();
        for job in 0..3 {
            turns.push(Owner::named("many"), job);
        }
        assert_eq!(turns.next(), Some(0));
        turns.push(Owner::named("one"), 100);
        let rest: Vec<_> = std::iter::from_fn(|| turns.next()).collect();
        assert_eq!(rest, [1, 100, 2]);
        assert!(turns.waiting.is_empty());
    }
}
