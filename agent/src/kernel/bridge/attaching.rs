//! Looking for a process's libraries and having the keeper attach to them, on threads of their own ([`Askers`]).
//!
//! Invariant: a place is attached to in the very file that it was found in: a probe elsewhere would break the program.
//! Invariant: each job that was taken is answered once, unless its file hangs for ever.

use super::{functions::Place, links};
use crate::kernel::{
    keeper::{self, Askers, AttachmentId, Keeper, Refused, Request, Scope, Turn},
    keylog::{FileState, Searches, discover},
    owner::Owner,
    record::ProcessKey,
};
use agent_common::abi::TICK;
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::{debug, info};

/// Files whose functions are remembered.
const FILES: usize = 16_384;
/// Most files of one process that get probes: its libraries, and a few copies.
const COPIES: usize = 8;

/// A process to look at.
pub(super) struct Job {
    pub number: u64,
    pub process: ProcessKey,
}

/// What came of a [`Job`].
pub struct Attached {
    pub(super) number: u64,
    pub(super) process: ProcessKey,
    /// None if the process has nothing to attach to, or nothing could be.
    pub(super) ids: Vec<AttachmentId>,
    /// Something was refused that need not be refused next time.
    pub(super) refused: Option<Refusal>,
}

pub(super) enum Refusal {
    /// A bound of the keeper's was met.
    Full(String),
    /// The keeper did not answer, or ended, or the job was dropped.
    ForNow,
}

/// See the module.
pub(super) struct Attaching {
    askers: Askers<Job>,
    worker: Arc<Worker>,
}

struct Worker {
    searches: Arc<Searches>,
    keeper: Arc<Keeper>,
    files: Mutex<HashMap<FileState, Arc<[Place]>>>,
}

/// A file with places, and the state in which it has them.
struct Searched {
    file: discover::MappedFile,
    state: FileState,
    places: Arc<[Place]>,
}

impl Attaching {
    /// `done` is called by the threads.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(
        searches: Arc<Searches>,
        keeper: Arc<Keeper>,
        done: impl Fn(Attached) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let worker = Arc::new(Worker {
            searches,
            keeper,
            files: Mutex::default(),
        });
        let working = Arc::clone(&worker);
        let askers = Askers::start(move |turn, job: Job| {
            let mut attached = Attached {
                number: job.number,
                process: job.process,
                ids: Vec::new(),
                refused: turn.refused().map(|_| Refusal::ForNow),
            };
            if attached.refused.is_none() {
                working.attach(turn, &mut attached);
            }
            done(attached);
        })?;
        Ok(Self { askers, worker })
    }

    /// False: too many of its owner's wait, or of all.
    #[must_use]
    pub fn ask(&self, owner: &Owner, job: Job) -> bool {
        self.askers.take(owner, job.number, job)
    }

    /// Drops the jobs up to this number that have not begun.
    pub fn drop_up_to(&self, number: u64) {
        self.askers.drop_up_to(number);
    }

    /// What each file holds is looked up again when it is met again.
    pub fn forget_files(&self) {
        self.worker.files().clear();
    }
}

impl Worker {
    fn files(&self) -> MutexGuard<'_, HashMap<FileState, Arc<[Place]>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attach(&self, turn: &Turn<'_>, attached: &mut Attached) {
        let process = attached.process;
        for found in self.files_of(process.pid) {
            let request = Request {
                file: &found.file.file,
                state: found.state,
                scope: Scope::Process(process.pid),
                start_ticks: process.start / TICK,
                places: links::wanted(&found.places),
            };
            match turn.ask(|| self.keeper.attach(&request)) {
                Ok(attachment) => attached.ids.push(attachment.id),
                Err(
                    refused @ (Refused::Attachments(_)
                    | Refused::Files(_)
                    | Refused::Events(_)
                    | Refused::Descriptors),
                ) => {
                    attached.refused = Some(Refusal::Full(refused.to_string()));
                    break;
                }
                // Its file may hang, and so may the process's others.
                Err(Refused::Late | Refused::Restarted | Refused::NoKeeper) => {
                    attached.refused = Some(Refusal::ForNow);
                    break;
                }
                Err(refused) => info!(
                    pid = process.pid,
                    path = %found.file.mapping.path.display(),
                    %refused,
                    "connections that were open before stay unread"
                ),
            }
        }
    }

    /// The files that a process has mapped as code and that have places, opened.
    fn files_of(&self, pid: u32) -> Vec<Searched> {
        let mappings = discover::files_of_process(pid).unwrap_or_default();
        let found = mappings
            .iter()
            .filter_map(|mapping| self.places_in(mapping));
        found.take(COPIES).collect()
    }

    /// `None` also of what is no file, or gone: it is asked again when it is met again.
    fn places_in(&self, mapping: &discover::Mapping) -> Option<Searched> {
        let unopened = |error: &_| debug!(%error, "a mapped file was not looked at");
        let file = mapping.open().inspect_err(unopened).ok()?;
        // What could not be attached to need not be searched.
        keeper::check_file(&file.file, Scope::Process(mapping.pid), None).ok()?;
        // Before the search: the keeper attaches to nothing that is another state by then.
        let state = FileState::of(&file.file).ok()?;
        let known = self.files().get(&state).map(Arc::clone);
        let places = match known {
            Some(known) => known,
            None => {
                let places: Arc<[Place]> =
                    self.searches.find(&file.file)?.functions.as_slice().into();
                let mut files = self.files();
                if files.len() >= FILES {
                    files.clear();
                }
                files.insert(state, Arc::clone(&places));
                places
            }
        };
        (!places.is_empty()).then_some(Searched {
            file,
            state,
            places,
        })
    }
}
