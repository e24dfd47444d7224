//! The table of processes.

mod entries;
#[cfg(test)]
mod tests;

use crate::flow::Nanos;
use crate::identity::Error;
use crate::identity::cgroup::Cgroups;
use crate::identity::clock::Clock;
use crate::identity::executable::Limits;
use crate::identity::eyes::{Direct, Eyes};
use crate::identity::image::{Forebear, Image};
use crate::identity::placement::Placement;
use crate::identity::procfs::ProcFs;
use crate::kernel::record::{Caller, ProcessKey, ProcessRecord};
use agent_common::event::{
    Cgroup, Executable, HashAbsent, IdentitySource, Principal, Process, ProcessCreation, User,
};
use lru::LruCache;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Splits NUL-separated arguments and replaces the secrets in them. The flag says that they were cut.
pub type Redact = fn(&[u8], bool) -> Vec<String>;

/// Ancestors kept per process.
const ANCESTORS: usize = 16;
/// Programs kept per process.
const IMAGES: usize = 4;

/// How the table works. [`Options::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Options {
    pub redact: Redact,
    /// Running processes kept; the least recently used goes first, and is read from `/proc` when met again.
    pub running: usize,
    /// Ended processes kept.
    pub ended: usize,
    /// How long an ended process is kept.
    pub grace: Duration,
    pub hash: Limits,
    /// How long an event may wait for its program's digest, counted from when the program was met.
    pub hash_wait: Duration,
    /// Where procfs is mounted.
    pub proc: PathBuf,
    /// The host's accounts.
    pub passwd: PathBuf,
}

impl Options {
    /// The defaults, with the function that redacts arguments.
    #[must_use]
    pub fn new(redact: Redact) -> Self {
        Self {
            redact,
            running: 65_536,
            ended: 16_384,
            grace: Duration::from_secs(60),
            hash: Limits::default(),
            hash_wait: Duration::from_millis(200),
            proc: PathBuf::from("/proc"),
            passwd: PathBuf::from("/etc/passwd"),
        }
    }
}

/// What happened in the table, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Running processes pushed out by the limit.
    pub evicted: u64,
    /// Ended processes pushed out by the limit before their time.
    pub ended_evicted: u64,
    /// Processes that no record named, read from `/proc` when they were met.
    pub met_late: u64,
    /// Calls whose process was not known and is gone.
    pub unknown: u64,
    /// Digests refused because too many were waiting.
    pub hashes_refused: u64,
}

/// Who made a call.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Shared between the events of one process while nothing about it changes.
    pub principal: Arc<Principal>,
    pub source: IdentitySource,
}

struct Entry {
    parent: Option<u32>,
    /// Nearest first.
    ancestors: Arc<[Forebear]>,
    /// Oldest first.
    images: VecDeque<(Arc<Image>, IdentitySource)>,
    user_namespace: Option<u32>,
    /// Boot time; only of ended ones.
    ended: Nanos,
    cached: Option<(Facts, Identity)>,
}

/// What a cached principal depends on besides its process.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// Address of the image, which the entry holds; 0 for none.
    image: usize,
    uid: u32,
    gid: u32,
    cgroup: u64,
    network_namespace: u32,
}

impl Entry {
    fn image_at(&self, at: Nanos) -> Option<&(Arc<Image>, IdentitySource)> {
        let started = self
            .images
            .iter()
            .rev()
            .find(|(image, _)| image.since <= at);
        started.or(self.images.front())
    }

    fn facts(&self, caller: &Caller, at: Nanos) -> Facts {
        Facts {
            image: self
                .image_at(at)
                .map_or(0, |(image, _)| Arc::as_ptr(image).addr()),
            uid: caller.uid,
            gid: caller.gid,
            cgroup: caller.cgroup,
            network_namespace: caller.network_namespace,
        }
    }
}

/// Every process that was met, by (pid, start time).
pub struct ProcessTable {
    options: Options,
    proc: ProcFs,
    cgroups: Cgroups,
    eyes: Box<dyn Eyes>,
    own_user_namespace: Option<u32>,
    running: LruCache<ProcessKey, Entry>,
    /// In the order in which they ended.
    ended: LruCache<ProcessKey, Entry>,
    /// Key of the running process with a pid. Where only `/proc` gave it, its start time is rounded down to a tick.
    pids: HashMap<u32, ProcessKey>,
    counters: Counters,
}

impl ProcessTable {
    /// An empty table; [`scan`](Self::scan) fills it with what runs already.
    ///
    /// # Errors
    /// Where there is no cgroup v2, or a worker thread cannot be started.
    pub fn new(options: Options) -> Result<Self, Error> {
        let direct = Direct::new(&options.proc, &options.passwd, options.hash);
        let eyes = direct.map_err(|source| Error::Read {
            path: options.proc.clone(),
            source,
        })?;
        Self::with(options, Box::new(eyes))
    }

    /// As [`new`](Self::new), with the eyes of another process.
    ///
    /// # Errors
    /// Where there is no cgroup v2.
    pub fn with(options: Options, eyes: Box<dyn Eyes>) -> Result<Self, Error> {
        let proc = ProcFs::new(&options.proc);
        let size = |limit| NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            cgroups: Cgroups::find(&proc)?,
            eyes,
            own_user_namespace: proc.own_namespace("user"),
            running: LruCache::new(size(options.running)),
            ended: LruCache::new(size(options.ended)),
            pids: HashMap::new(),
            counters: Counters::default(),
            proc,
            options,
        })
    }

    /// Takes in every process that runs now. Returns how many.
    ///
    /// # Errors
    /// If `/proc` cannot be listed.
    pub fn scan(&mut self) -> std::io::Result<usize> {
        for pid in self.proc.pids()? {
            self.load(pid, None);
        }
        Ok(self.running.len())
    }

    /// Takes in one record of the kernel.
    pub fn apply(&mut self, record: &ProcessRecord) {
        match record {
            ProcessRecord::Exec {
                time,
                caller,
                parent,
                filename,
                executable,
                arguments,
            } => {
                let key = caller.process;
                let image =
                    Image::executed(*time, filename, *executable, arguments, self.options.redact);
                if !image.request(&*self.eyes, key.pid, Some(parent.pid)) {
                    self.counters.hashes_refused += 1;
                }
                // While the group is there.
                self.cgroups.place(caller.cgroup, Some(key.pid));
                if self.find(key).is_none() {
                    self.find(*parent);
                    self.look_again(*parent);
                    let entry = self.child_of(*parent, None);
                    self.insert(key, entry);
                }
                if let Some(entry) = self.entry(key) {
                    if entry.images.len() == IMAGES {
                        entry.images.pop_front();
                    }
                    entry
                        .images
                        .push_back((Arc::new(image), IdentitySource::Exec));
                    entry.cached = None;
                }
            }
            ProcessRecord::Fork {
                child,
                parent,
                cgroup,
                ..
            } => {
                // A thread shares its process.
                if child.pid != parent.pid {
                    let image = self
                        .load_known(*parent)
                        .and_then(|entry| entry.images.back().cloned());
                    let entry = self.child_of(*parent, image.map(|(image, _)| image));
                    self.insert(*child, entry);
                    self.cgroups.place(*cgroup, Some(child.pid));
                }
            }
            ProcessRecord::Exit { time, process } => self.end(*process, *time),
        }
    }

    /// Who made a call. `at` is its time: the program that ran then is meant.
    ///
    /// May wait for the program's digest, at most [`Options::hash_wait`] after the program was met.
    pub fn resolve(&mut self, caller: &Caller, at: Nanos, clock: &Clock) -> Identity {
        let key = caller.process;
        // The common case, by one look: a process that runs and of which nothing has changed.
        if let Some(entry) = self.running.get(&key)
            && let Some((of, identity)) = &entry.cached
            && *of == entry.facts(caller, at)
        {
            return identity.clone();
        }
        if self.load_known(key).is_none() {
            self.counters.unknown += 1;
            return self.by_call_alone(caller, clock);
        }
        if let Some(entry) = self.entry(key)
            && let Some((of, identity)) = &entry.cached
            && *of == entry.facts(caller, at)
        {
            return identity.clone();
        }
        self.look_again(key);
        let Some(entry) = self.entry(key) else {
            return self.by_call_alone(caller, clock);
        };
        let facts = entry.facts(caller, at);
        let image = entry.image_at(at).cloned();
        let source = image
            .as_ref()
            .map_or(IdentitySource::Fork, |(_, source)| *source);
        let (parent, ancestors) = (entry.parent, entry.ancestors.clone());
        let inherited = entry.user_namespace;
        let image = image.map(|(image, _)| image);
        let (executable, user_namespace, settled) = match &image {
            Some(image) => {
                if !image.request(&*self.eyes, key.pid, parent) {
                    self.counters.hashes_refused += 1;
                }
                image.executable(self.options.hash_wait)
            }
            None => (unknown_executable(), None, true),
        };
        let arguments = image
            .as_ref()
            .and_then(|image| image.arguments(key, &self.proc, &*self.eyes, self.options.redact));
        let placement = self.cgroups.place(caller.cgroup, Some(key.pid));
        let namespace = user_namespace.or(inherited);
        let process = Process {
            parent_pid: parent,
            executable,
            command_args: arguments.map(|(arguments, _)| arguments.clone()),
            command_args_truncated: arguments.is_some_and(|(_, truncated)| *truncated),
            ancestors: ancestors
                .iter()
                .map(|forebear| forebear.ancestor(clock.wall(forebear.key.start)))
                .collect(),
            ..self.process(caller, placement.as_deref(), namespace, clock)
        };
        let principal = principal(process, placement.as_deref());
        let identity = Identity {
            principal: principal.into(),
            source,
        };
        if settled
            && placement.is_some()
            && let Some(entry) = self.entry(key)
        {
            entry.cached = Some((facts, identity.clone()));
        }
        identity
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The cgroup v2 hierarchy.
    #[must_use]
    pub fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    /// Processes known: running and ended.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.running.len(), self.ended.len())
    }

    fn by_call_alone(&mut self, caller: &Caller, clock: &Clock) -> Identity {
        let placement = self.cgroups.place(caller.cgroup, None);
        let process = self.process(caller, placement.as_deref(), None, clock);
        let principal = principal(process, placement.as_deref());
        Identity {
            principal: principal.into(),
            source: IdentitySource::Call,
        }
    }

    /// What the call itself carries.
    fn process(
        &mut self,
        caller: &Caller,
        placement: Option<&Placement>,
        user_namespace: Option<u32>,
        clock: &Clock,
    ) -> Process {
        let foreign = user_namespace
            .is_some_and(|namespace| Some(namespace) != self.own_user_namespace)
            || placement.is_some_and(|placement| placement.container.is_some());
        let name = if foreign {
            None
        } else {
            self.eyes.user_name(caller.uid)
        };
        Process {
            pid: caller.process.pid,
            creation: ProcessCreation {
                time: clock.wall(caller.process.start),
            },
            parent_pid: None,
            executable: unknown_executable(),
            command_args: None,
            command_args_truncated: false,
            real_user: User {
                id: caller.uid,
                name: name.as_deref().map(str::to_owned),
            },
            real_group_id: caller.gid,
            linux: Cgroup {
                cgroup: placement.map(|placement| placement.path.clone()),
                cgroup_id: caller.cgroup,
                network_namespace: caller.network_namespace,
            },
            ancestors: Vec::new(),
        }
    }
}

fn unknown_executable() -> Executable {
    Executable {
        hash_absent: Some(HashAbsent::Unknown),
        ..Executable::default()
    }
}

fn principal(process: Process, placement: Option<&Placement>) -> Principal {
    Principal {
        process,
        container: placement.and_then(|placement| placement.container.clone()),
        systemd: placement.and_then(|placement| placement.systemd.clone()),
        k8s: placement.and_then(Placement::kubernetes),
    }
}
