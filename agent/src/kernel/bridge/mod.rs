//! The bridge: TLS connections that were open before the agent are read through the classic probes on the library's own
//! functions, for the processes that have such connections, and only as long.
//!
//! At the start each process of the scope that has a TCP connection open and a library mapped whose functions are known
//! ([`functions`]) gets its probes before the agent is ready, as far as that does not take too long, because the first
//! bytes that pass would otherwise be missed. From then on the pipeline says which sockets carry such TLS ([`Bridges::want`]) and which do not, or not any
//! more ([`Bridges::over`]); whether the others are still open is looked up in `/proc` now and then ([`Bridges::look`]).
//! With the last socket the process's probes go. Looking for libraries and attaching are done by threads of their own
//! ([`attaching`]), because the files are other people's.
//!
//! Invariant: a process has probes only while a socket of it is wanted; nobody else's functions are touched.
//! The probes change text, so that they are the keeper's (`super::keeper`), which lets go of a library when somebody writes
//! to it: then the process's connections stay unread from there on.
//!
//! Invariant: at most so many processes and attachments as [`room`] allows, and fewer where the keeper has no room; the
//! others stay unread.
//! Invariant: a place is attached to in the very file that it was found in: a probe elsewhere would break the program.

mod attaching;
pub(in crate::kernel) mod functions;
mod links;
mod room;
mod sockets;
mod thread;

pub use attaching::Attached;
pub use thread::{Bridge, Request};

pub(super) use links::Maps;

use super::{
    keeper::{AttachmentId, Keeper, Lost, Why as Gone},
    keylog::Searches,
    owner::Owner,
    probes::Probes,
    record::ProcessKey,
    scope::start_ticks,
};
use agent_common::abi::TICK;
use attaching::{Attaching, Job, Refusal};
use room::Room;
use sockets::Tables;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tracing::{info, warn};

/// Processes that are remembered as having nothing to attach to.
const WITHOUT: usize = 4_096;
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
    /// Of the job that attaches.
    number: u64,
    owner: Owner,
    /// `None` while that is under way.
    attached: Option<Vec<AttachmentId>>,
    start: u64,
    /// By inode number.
    sockets: BTreeMap<u64, Why>,
}

impl Bridged {
    fn attachments(&self) -> &[AttachmentId] {
        self.attached.as_deref().unwrap_or_default()
    }
}

/// Every process with a bridge, by its id.
pub struct Bridges {
    searches: Arc<Searches>,
    /// `None` if no process gets a bridge.
    keeper: Option<Arc<Keeper>>,
    attaching: Option<Attaching>,
    /// Of the last job.
    number: u64,
    processes: BTreeMap<u32, Bridged>,
    /// Processes that cannot have one, by id and start time in ticks.
    without: BTreeSet<(u32, u64)>,
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
            searches,
            keeper: keeper.filter(|_| wanted && safe),
            attaching: None,
            number: 0,
            processes: BTreeMap::new(),
            without: BTreeSet::new(),
            full: false,
            looked: Instant::now(),
        }
    }

    /// Starts the threads that attach. `done` is called by them, and its word is for [`attached`](Self::attached).
    fn start(&mut self, done: impl Fn(Attached) + Send + Sync + 'static) -> io::Result<()> {
        if let Some(keeper) = &self.keeper {
            let (searches, keeper) = (Arc::clone(&self.searches), Arc::clone(keeper));
            self.attaching = Some(Attaching::start(searches, keeper, done)?);
        }
        Ok(())
    }

    /// Whether the answer for a process is still to come.
    fn awaits(&self) -> bool {
        self.processes.values().any(|one| one.attached.is_none())
    }

    /// Gives those of these processes a bridge that may need one.
    fn begin(&mut self, processes: &[ProcessKey]) {
        if self.attaching.is_none() {
            return;
        }
        let mut tables = Tables::default();
        let since = Instant::now();
        for process in processes {
            let mut sockets = tables.of_process(process.pid).into_iter();
            // What is refused for one is refused for all.
            let _ = sockets.all(|socket| self.want(*process, socket, Why::Open(since)));
        }
    }

    /// It is closed, or carries something else.
    fn over(&mut self, process: ProcessKey, socket: u64, probes: &Mutex<Probes>) {
        if let Some(bridge) = self.processes.get_mut(&process.pid)
            && bridge.sockets.remove(&socket).is_some()
        {
            self.remove_idle(probes);
        }
    }

    /// Looks which sockets are still there, if it is time for that.
    fn look(&mut self, now: Instant, probes: &Mutex<Probes>) {
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

    /// No process has a bridge any more. What is being attached goes when it is.
    fn clear(&mut self, probes: &Mutex<Probes>) {
        for bridge in self.processes.values_mut() {
            bridge.sockets.clear();
        }
        self.remove_idle(probes);
        if let Some(attaching) = &self.attaching {
            attaching.drop_up_to(self.number);
            attaching.forget_files();
        }
        self.without.clear();
    }

    /// This socket of the process needs its probes. False: it gets none.
    fn want(&mut self, process: ProcessKey, socket: u64, why: Why) -> bool {
        let Some(attaching) = &self.attaching else {
            return false;
        };
        if let Some(bridge) = self.processes.get_mut(&process.pid)
            && bridge.start / TICK == process.start / TICK
        {
            bridge.sockets.insert(socket, why);
            return true;
        }
        let name = (process.pid, process.start / TICK);
        if self.without.contains(&name) {
            return false;
        }
        let owner = Owner::of(process.pid);
        if !self.room().for_process(&owner) {
            self.warn_once("as many processes as there may be have a bridge");
            return false;
        }
        self.number += 1;
        let job = Job {
            number: self.number,
            process,
        };
        if !attaching.ask(&owner, job) {
            self.warn_once("too many processes wait for one");
            return false;
        }
        let bridge = Bridged {
            number: self.number,
            owner,
            attached: None,
            start: process.start,
            sockets: BTreeMap::from([(socket, why)]),
        };
        self.processes.insert(process.pid, bridge);
        true
    }

    fn room(&self) -> Room<'_> {
        let of = |one: &'_ Bridged| one.attachments().len();
        Room::left_by(self.processes.values().map(|one| (&one.owner, of(one))))
    }

    /// A process was looked at, and attached to if there was anything to attach to.
    fn attached(&mut self, attached: Attached, probes: &Mutex<Probes>) {
        let Attached {
            number,
            process,
            ids,
            refused,
        } = attached;
        let pid = process.pid;
        if let Some(Refusal::Full(bound)) = &refused {
            self.warn_once(bound);
        }
        let asked = self.processes.get(&pid);
        let Some(asked) = asked.filter(|bridge| bridge.number == number) else {
            // Nobody needs it any more. What the probes know may be of a later one.
            return self.give_back(pid, &ids);
        };
        if ids.is_empty() {
            self.processes.remove(&pid);
            // What was refused for now may be asked for again.
            if refused.is_none() {
                self.is_without((pid, process.start / TICK));
            }
            return;
        }
        if !self.room().for_attachments(&asked.owner, ids.len()) {
            self.processes.remove(&pid);
            self.warn_once("as many files as there may be have probes of a bridge");
            return self.detach(pid, &ids, probes);
        }
        info!(pid, files = ids.len(), "bridge attached");
        if let Some(bridge) = self.processes.get_mut(&pid) {
            bridge.attached = Some(ids);
        }
        self.count(probes);
        self.check(pid, probes);
    }

    fn is_without(&mut self, name: (u32, u64)) {
        if self.without.len() >= WITHOUT {
            self.without.clear();
        }
        self.without.insert(name);
    }

    /// What the keeper has lost: somebody writes to the library, or the keeper is another one now.
    fn lost(&mut self, lost: &Lost, probes: &Mutex<Probes>) {
        let lacks = |bridge: &Bridged| {
            let attached = bridge.attachments();
            lost.ids.iter().any(|id| attached.contains(id))
        };
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
        self.detach(pid, bridge.attachments(), probes);
        info!(pid, %why, "bridge lost");
        let process = ProcessKey {
            pid,
            start: bridge.start,
        };
        match why {
            Gone::Restarted(_) => {
                let mut sockets = bridge.sockets.into_iter();
                let _ = sockets.all(|(socket, why)| self.want(process, socket, why));
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
        let lost = bridge.attachments().iter().find(|id| !keeper.holds(**id));
        if let Some(why) = lost.map(|id| keeper.why_lost(*id)) {
            self.lose(pid, &why, probes);
        }
    }

    fn detach(&self, pid: u32, attached: &[AttachmentId], probes: &Mutex<Probes>) {
        if attached.is_empty() {
            return;
        }
        self.give_back(pid, attached);
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.forget_calls(pid);
    }

    fn give_back(&self, pid: u32, attached: &[AttachmentId]) {
        if let Some(keeper) = &self.keeper
            && !attached.is_empty()
            && let Err(error) = keeper.detach(attached)
        {
            warn!(pid, %error, "a bridge is detached later");
        }
    }

    fn warn_once(&mut self, why: &str) {
        if !std::mem::replace(&mut self.full, true) {
            warn!(
                processes = self.processes.len(),
                why, "some TLS connections that were open before stay unread"
            );
        }
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
            if bridge.attached.is_some() {
                self.detach(*pid, bridge.attachments(), probes);
                info!(pid, "bridge removed");
            }
        }
        if !idle.is_empty() {
            self.full = false;
            self.count(probes);
        }
    }

    fn count(&self, probes: &Mutex<Probes>) {
        let attached = self.processes.values().filter(|one| one.attached.is_some());
        let mut probes = probes.lock().unwrap_or_else(PoisonError::into_inner);
        // At most `room::PROCESSES`.
        if let Err(error) = probes.count_bridges(attached.count() as u32) {
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
