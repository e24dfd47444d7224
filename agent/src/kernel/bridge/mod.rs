//! The bridge: TLS connections that were open before the agent are read through the classic probes on the library's own
//! functions, for the processes that have such connections, and only as long.
//!
//! At the start each process of the scope that has a TCP connection open and a library mapped whose functions are known
//! ([`functions`]) gets its probes before the agent is ready, because the first bytes that pass would otherwise be
//! missed. From then on the pipeline says which sockets carry such TLS ([`Bridges::want`]) and which do not, or not any
//! more ([`Bridges::over`]); whether the others are still open is looked up in `/proc` now and then ([`Bridges::look`]).
//! With the last socket the process's probes go.
//!
//! Invariant: a process has probes only while a socket of it is wanted; nobody else's functions are touched.
//! The probes change text, so that they are the keeper's (`super::keeper`), which lets go of a library when somebody writes
//! to it: then the process's connections stay unread from there on.
//!
//! Invariant: at most [`PROCESSES`] processes, and fewer where the keeper has no room; the others stay unread.
//! Invariant: a place is attached to in the very file that it was found in: a probe elsewhere would break the program.

pub(in crate::kernel) mod functions;
mod links;
mod sockets;
mod thread;

pub use thread::{Bridge, Request};

use functions::Place;
pub(super) use links::Maps;

use super::{
    keeper::{AttachmentId, Keeper, Lost, Refused, Request as Attach, Scope, Why as Gone},
    keylog::{FileState, Searches, discover},
    probes::Probes,
    record::ProcessKey,
    scope::start_ticks,
};
use agent_common::abi::TICK;
use sockets::Tables;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{debug, info, warn};

/// Most processes with a bridge.
const PROCESSES: usize = 256;
/// Processes that are remembered as having nothing to attach to.
const WITHOUT: usize = 4_096;
/// Files whose functions are remembered.
const FILES: usize = 16_384;
/// Most files of one process that get probes: its libraries, and a few copies.
const COPIES: usize = 8;
/// How often the sockets of each are looked for.
pub const LOOK: Duration = Duration::from_secs(10);
/// A socket that was open at the start and of which the pipeline has said nothing for so long is not waited for any
/// more: it is idle, or carries something else.
const PATIENCE: Duration = Duration::from_secs(600);

/// Why a socket keeps its process's probes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It was open at the start; since when it is waited for.
    Open(Instant),
    /// The pipeline has met TLS on it whose begin it did not see.
    Wanted,
}

struct Bridged {
    attached: Vec<AttachmentId>,
    start: u64,
    /// By inode number.
    sockets: BTreeMap<u64, Why>,
}

/// A file with places, and the state in which it has them.
struct Searched {
    file: discover::MappedFile,
    state: FileState,
    places: Arc<[Place]>,
}

/// Every process with a bridge, by its id.
pub struct Bridges {
    on: bool,
    processes: BTreeMap<u32, Bridged>,
    files: HashMap<FileState, Arc<[Place]>>,
    /// Processes that cannot have one, by id and start time in ticks.
    without: BTreeSet<(u32, u64)>,
    searches: Arc<Searches>,
    keeper: Option<Arc<Keeper>>,
    full: bool,
    looked: Instant,
}

impl Bridges {
    /// Without `wanted`, or without somebody to attach, no process gets one.
    pub fn new(wanted: bool, searches: Arc<Searches>, keeper: Option<Arc<Keeper>>) -> Self {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy();
        let safe = returns_are_safe(&release);
        if wanted && !safe {
            info!(
                %release,
                "this kernel may end sandboxed programs at the return of a probed function: \
                 TLS connections that were open before stay unread"
            );
        }
        Self {
            on: wanted && safe && keeper.is_some(),
            processes: BTreeMap::new(),
            files: HashMap::new(),
            without: BTreeSet::new(),
            searches,
            keeper,
            full: false,
            looked: Instant::now(),
        }
    }

    /// Gives those of these processes a bridge that may need one.
    pub fn begin(&mut self, processes: &[ProcessKey], probes: &Mutex<Probes>) {
        if !self.on {
            return;
        }
        let mut tables = Tables::default();
        let since = Instant::now();
        for process in processes {
            let sockets = tables.of_process(process.pid);
            if sockets.is_empty() {
                continue;
            }
            if self.files_of(*process).is_empty() {
                continue;
            }
            for socket in sockets {
                self.add(*process, socket, Why::Open(since), probes);
            }
        }
    }

    /// TLS whose begin was not seen passes through this socket of the process.
    pub fn want(&mut self, process: ProcessKey, socket: u64, probes: &Mutex<Probes>) {
        if self.on {
            self.add(process, socket, Why::Wanted, probes);
        }
    }

    /// It is closed, or carries something else.
    pub fn over(&mut self, process: ProcessKey, socket: u64, probes: &Mutex<Probes>) {
        if let Some(bridge) = self.processes.get_mut(&process.pid)
            && bridge.sockets.remove(&socket).is_some()
        {
            self.remove_idle(probes);
        }
    }

    /// Looks which sockets are still there, if it is time for that.
    pub fn look(&mut self, now: Instant, probes: &Mutex<Probes>) {
        if now.duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        for (pid, bridge) in &mut self.processes {
            if !is_running(*pid, bridge.start) {
                bridge.sockets.clear();
                continue;
            }
            let open = sockets::descriptors(*pid);
            bridge.sockets.retain(|socket, why| {
                let waited = match why {
                    Why::Open(since) => now.duration_since(*since) < PATIENCE,
                    Why::Wanted => true,
                };
                waited && open.may_have(*socket)
            });
        }
        self.remove_idle(probes);
        let pids: Vec<u32> = self.processes.keys().copied().collect();
        for pid in pids {
            self.check(pid, probes);
        }
    }

    /// No process has a bridge any more.
    pub fn clear(&mut self, probes: &Mutex<Probes>) {
        for bridge in self.processes.values_mut() {
            bridge.sockets.clear();
        }
        self.remove_idle(probes);
        self.files.clear();
        self.without.clear();
    }

    fn add(&mut self, process: ProcessKey, socket: u64, why: Why, probes: &Mutex<Probes>) {
        if let Some(bridge) = self.processes.get_mut(&process.pid)
            && bridge.start / TICK == process.start / TICK
        {
            bridge.sockets.insert(socket, why);
            return;
        }
        let name = (process.pid, process.start / TICK);
        if self.without.contains(&name) {
            return;
        }
        if self.processes.len() >= PROCESSES {
            self.warn_once("as many processes as there may be have a bridge");
            return;
        }
        let attached = self.attach(process);
        if attached.is_empty() {
            self.is_without(name);
            return;
        }
        info!(pid = process.pid, files = attached.len(), "bridge attached");
        let bridge = Bridged {
            attached,
            start: process.start,
            sockets: BTreeMap::from([(socket, why)]),
        };
        self.processes.insert(process.pid, bridge);
        self.count(probes);
        self.check(process.pid, probes);
    }

    fn is_without(&mut self, name: (u32, u64)) {
        if self.without.len() >= WITHOUT {
            self.without.clear();
        }
        self.without.insert(name);
    }

    fn attach(&mut self, process: ProcessKey) -> Vec<AttachmentId> {
        let Some(keeper) = self.keeper.clone() else {
            return Vec::new();
        };
        let mut attached = Vec::new();
        for found in self.files_of(process) {
            let request = Attach {
                file: &found.file.file,
                state: found.state,
                scope: Scope::Process(process.pid),
                start_ticks: process.start / TICK,
                places: links::wanted(&found.places),
            };
            match keeper.attach(&request) {
                Ok(attachment) => attached.push(attachment.id),
                Err(
                    refused @ (Refused::Attachments(_)
                    | Refused::Files(_)
                    | Refused::Events(_)
                    | Refused::Descriptors),
                ) => {
                    self.warn_once(&refused.to_string());
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
        attached
    }

    /// What the keeper has lost: somebody writes to the library, or the keeper is another one now.
    pub fn lost(&mut self, lost: &Lost, probes: &Mutex<Probes>) {
        let lacks = |bridge: &Bridged| lost.ids.iter().any(|id| bridge.attached.contains(id));
        let pids = self.processes.iter().filter(|(_, bridge)| lacks(bridge));
        let pids: Vec<u32> = pids.map(|(pid, _)| *pid).collect();
        for pid in pids {
            self.lose(pid, &lost.why, probes);
        }
    }

    /// Half a bridge is none: what is left of it goes, and is attached again where that is of use.
    fn lose(&mut self, pid: u32, why: &Gone, probes: &Mutex<Probes>) {
        let Some(bridge) = self.processes.remove(&pid) else {
            return;
        };
        self.detach(pid, &bridge.attached, probes);
        info!(pid, %why, "bridge lost");
        let process = ProcessKey {
            pid,
            start: bridge.start,
        };
        match why {
            Gone::Restarted(_) => {
                for (socket, why) in bridge.sockets {
                    self.add(process, socket, why, probes);
                }
            }
            // The process has the old file's text, or a mixture: neither is searched again.
            Gone::Written | Gone::Gone | Gone::Ended => self.is_without((pid, bridge.start / TICK)),
        }
        self.count(probes);
    }

    /// What was lost before anybody knew its id.
    fn check(&mut self, pid: u32, probes: &Mutex<Probes>) {
        let Some((keeper, bridge)) = self.keeper.as_ref().zip(self.processes.get(&pid)) else {
            return;
        };
        if !bridge.attached.iter().all(|id| keeper.holds(*id)) {
            self.lose(pid, &Gone::Written, probes);
        }
    }

    fn detach(&self, pid: u32, attached: &[AttachmentId], probes: &Mutex<Probes>) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = keeper.detach(attached)
        {
            warn!(pid, %error, "a bridge is detached later");
        }
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.forget_calls(pid);
    }

    fn warn_once(&mut self, why: &str) {
        if !std::mem::replace(&mut self.full, true) {
            warn!(
                processes = self.processes.len(),
                why, "some TLS connections that were open before stay unread"
            );
        }
    }

    /// The files that a process has mapped as code and that have places, opened.
    fn files_of(&mut self, process: ProcessKey) -> Vec<Searched> {
        let mappings = discover::files_of_process(process.pid).unwrap_or_default();
        let mut files = Vec::new();
        for mapping in mappings {
            files.extend(self.places_in(&mapping));
            if files.len() == COPIES {
                break;
            }
        }
        files
    }

    /// `None` also of what is no file, or gone: it is asked again when it is met again.
    fn places_in(&mut self, mapping: &discover::Mapping) -> Option<Searched> {
        let unopened = |error: &_| debug!(%error, "a mapped file was not looked at");
        let file = mapping.open().inspect_err(unopened).ok()?;
        // Before the search: the keeper attaches to nothing that is another state by then.
        let state = FileState::of(&file.file).ok()?;
        let places = match self.files.get(&state) {
            Some(known) => Arc::clone(known),
            None => {
                let places: Arc<[Place]> =
                    self.searches.find(&file.file)?.functions.as_slice().into();
                if self.files.len() >= FILES {
                    self.files.clear();
                }
                self.files.insert(state, Arc::clone(&places));
                places
            }
        };
        (!places.is_empty()).then_some(Searched {
            file,
            state,
            places,
        })
    }

    fn remove_idle(&mut self, probes: &Mutex<Probes>) {
        let idle: Vec<u32> = self
            .processes
            .iter()
            .filter(|(_, bridge)| bridge.sockets.is_empty())
            .map(|(pid, _)| *pid)
            .collect();
        for pid in &idle {
            let Some(bridge) = self.processes.remove(pid) else {
                continue;
            };
            self.detach(*pid, &bridge.attached, probes);
            info!(pid, "bridge removed");
        }
        if !idle.is_empty() {
            self.full = false;
            self.count(probes);
        }
    }

    fn count(&self, probes: &Mutex<Probes>) {
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        // At most `PROCESSES`.
        if let Err(error) = probes.count_bridges(self.processes.len() as u32) {
            warn!(%error, "connections that were open before stay unread");
        }
    }
}

/// Since 6.11 a probed function returns through a system call of its own (`uretprobe`), which filters knew nothing of:
/// programs with a filter that ends them for unknown calls were ended. 6.14 lets it pass them, and so do later versions
/// of 6.12 and 6.13.
fn returns_are_safe(release: &str) -> bool {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let mut number = || numbers.next().unwrap_or(0);
    match (number(), number(), number()) {
        (6, 11, _) => false,
        (6, 12, patch) => patch >= 20,
        (6, 13, patch) => patch >= 8,
        _ => true,
    }
}

/// Ids are used again.
fn is_running(pid: u32, start: u64) -> bool {
    start_ticks(pid) == Some(start / TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_end_programs_at_a_return_are_known() {
        for safe in [
            "6.1.0-56-amd64",
            "5.15.0-1-generic",
            "6.12.117+deb12-amd64",
            "6.18.44-fc-v445",
            "6.14.0",
            "7.0.0-rc1",
        ] {
            assert!(returns_are_safe(safe), "{safe}");
        }
        for unsafe_one in ["6.11.0-29-generic", "6.12.0-55.el10.x86_64", "6.13.2"] {
            assert!(!returns_are_safe(unsafe_one), "{unsafe_one}");
        }
    }
}
