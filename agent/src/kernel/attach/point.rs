//! Putting one point into one process: breakpoints for all its threads, and what the probes must know of them.
//!
//! Invariant: the probes know a breakpoint before it is switched on, and nothing of one that is not attached.
//! Invariant: the process is the one that was meant when its breakpoints are switched on: its start is looked at after
//! they were made, and made ones belong to threads, not to numbers.

use super::{
    breakpoint::Breakpoint,
    findings::Known,
    maps::AttachMaps,
    places::{PlacesTable, Taken},
    processes::{Attachment, Processes},
};
use crate::{
    flow::Nanos,
    kernel::{
        decode::now,
        keylog::PointKind,
        owner::{self, Owner},
        points::Unattached,
        record::ProcessKey,
        scope::start_ticks,
    },
};
use agent_common::abi::{self, TICK};
use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};
use std::{
    collections::HashSet,
    fs, io,
    os::fd::BorrowedFd,
    sync::mpsc::{Sender, channel},
};
use tracing::{debug, warn};

/// Descriptors that are left for everything else.
const OTHERS: usize = 256;
/// The part of all descriptors that one owner's processes may take.
const SHARE: usize = 4;
/// How often threads are listed again, to find those that were made meanwhile.
const ROUNDS: usize = 16;

/// Why a point was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The process has ended, or is another.
    Gone,
    For(Unattached),
}

/// What is attached, and what it takes to attach more.
pub struct Attachments {
    pub processes: Processes<Breakpoint>,
    pub maps: AttachMaps,
    places: PlacesTable,
    /// Closing takes up to half a millisecond each: not for the thread that attaches.
    closing: Sender<Vec<Breakpoint>>,
}

impl Attachments {
    /// # Errors
    /// If there can be no thread.
    pub fn new(maps: AttachMaps) -> io::Result<Self> {
        let (closing, closed) = channel::<Vec<Breakpoint>>();
        std::thread::Builder::new()
            .name("detacher".into())
            .spawn(move || closed.iter().for_each(drop))?;
        Ok(Self {
            processes: Processes::default(),
            maps,
            places: PlacesTable::default(),
            closing,
        })
    }

    /// Gives when it was attached.
    ///
    /// # Errors
    /// Why it was not: nothing is left behind then.
    pub fn attach(
        &mut self,
        process: ProcessKey,
        known: &Known,
        address: u64,
    ) -> Result<Nanos, Refused> {
        let same = |attachment: &&Attachment<Breakpoint>| {
            attachment.point == known.id && attachment.address == address
        };
        if let Some(attached) = self.processes.of(process).find(same) {
            return Ok(attached.since);
        }
        if !self.processes.has_room(process) {
            return Err(Refused::For(Unattached::NoBreakpoint));
        }
        let owner = owner::of(process.pid);
        let room = self.room(&owner);
        if room == 0 {
            return Err(Refused::For(Unattached::Limit));
        }
        let kind = known.point.kind;
        let places = self.take_places(kind)?;
        let made = self.make(process, known, (address, places), room);
        let descriptors = match made {
            Ok(descriptors) => descriptors,
            Err(refused) => {
                let before = self.processes.breakpoints(process, None);
                self.tell(process, before);
                self.give_back(kind, places);
                return Err(refused);
            }
        };
        let since = now();
        self.processes.add(
            process,
            (known.id, address, places),
            descriptors,
            owner,
            since,
        );
        Ok(since)
    }

    /// Closes what belonged to these.
    pub fn detach(&mut self, over: Vec<Attachment<Breakpoint>>) {
        for attachment in over {
            if attachment.places != NO_PLACES
                && let Some(key) = self.places.give_back(attachment.places)
            {
                self.maps.remove_places(key);
            }
            // Where the other thread is gone they are closed here.
            let _ = self.closing.send(attachment.descriptors);
        }
    }

    /// Detaches what fits from every process.
    pub fn detach_all(&mut self, fits: impl Fn(&Attachment<Breakpoint>) -> bool) {
        let (over, of) = self.processes.remove(fits);
        for process in of {
            let left = self.processes.breakpoints(process, None);
            self.tell(process, left);
        }
        self.detach(over);
    }

    /// The process has ended or executes another program.
    pub fn leave(&mut self, process: ProcessKey) {
        let over = self.processes.leave(process);
        self.detach(over);
    }

    /// Descriptors that this owner's processes may still take.
    fn room(&self, owner: &Owner) -> usize {
        // Asked for each time: somebody may lower it while the agent runs.
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(limit)
            .unwrap_or(usize::MAX)
            .saturating_sub(OTHERS.min(usize::try_from(limit / 2).unwrap_or(OTHERS)));
        let share = (most / SHARE).saturating_sub(self.processes.descriptors_of(owner));
        most.saturating_sub(self.processes.descriptors()).min(share)
    }

    fn take_places(&mut self, kind: PointKind) -> Result<u32, Refused> {
        let PointKind::Placed(places) = kind else {
            return Ok(NO_PLACES);
        };
        match self.places.take(places) {
            None => Err(Refused::For(Unattached::Limit)),
            Some(Taken::Known(key)) => Ok(key),
            Some(Taken::New(key)) => match self.maps.set_places(key, places) {
                Ok(()) => Ok(key),
                Err(error) => {
                    warn!(%error, "the probes cannot be told what a point passes");
                    self.places.give_back(key);
                    Err(Refused::For(Unattached::Refused))
                }
            },
        }
    }

    fn give_back(&mut self, kind: PointKind, places: u32) {
        if let PointKind::Placed(_) = kind
            && let Some(key) = self.places.give_back(places)
        {
            self.maps.remove_places(key);
        }
    }

    fn make(
        &mut self,
        process: ProcessKey,
        known: &Known,
        (address, places): (u64, u32),
        room: usize,
    ) -> Result<Vec<Breakpoint>, Refused> {
        let more = abi::Breakpoint {
            address,
            point: known.id.0,
            places,
        };
        let value = self.processes.breakpoints(process, Some(more));
        if let Err(error) = self.maps.set_breakpoints(process.pid, value) {
            debug!(%error, "the probes cannot be told of more processes");
            return Err(Refused::For(Unattached::Limit));
        }
        let program = self.maps.programs().of(known.point.kind);
        let breakpoints = of_threads(process.pid, address, program, room)?;
        if start_ticks(process.pid) != Some(process.start / TICK) {
            return Err(Refused::Gone);
        }
        for breakpoint in &breakpoints {
            if let Err(error) = breakpoint.enable() {
                warn!(%error, "a breakpoint cannot be switched on");
                return Err(Refused::For(Unattached::Refused));
            }
        }
        Ok(breakpoints)
    }

    fn tell(&mut self, process: ProcessKey, value: abi::Breakpoints) {
        if let Err(error) = self.maps.set_breakpoints(process.pid, value) {
            // Hits that the probes know nothing of are counted, and nothing is read.
            warn!(%error, "the probes cannot be told of a process's breakpoints");
        }
    }
}

/// What stands in the place of a key of a point that needs none.
const NO_PLACES: u32 = u32::MAX;

/// A breakpoint for each thread that there is: those that are made later inherit theirs.
fn of_threads(
    pid: u32,
    address: u64,
    program: BorrowedFd<'_>,
    room: usize,
) -> Result<Vec<Breakpoint>, Refused> {
    let mut seen = HashSet::new();
    let mut made = Vec::new();
    let mut refused = None;
    for _ in 0..ROUNDS {
        let threads = threads(pid);
        let before = seen.len();
        for thread in threads {
            if !seen.insert(thread) {
                continue;
            }
            if made.len() >= room {
                return Err(Refused::For(Unattached::Limit));
            }
            match Breakpoint::new(thread, address, program) {
                Ok(breakpoint) => made.push(breakpoint),
                // It has ended.
                Err(Errno::SRCH) => {}
                Err(errno) => refused = Some(errno),
            }
        }
        // A thread that was made between the list and its maker's breakpoint has inherited none. One that was made right
        // after it has two now: its hits are told twice, which is one secret more of the same.
        if seen.len() == before {
            break;
        }
    }
    match refused {
        // No thread may be left out for want of a descriptor: it would be one of many, and nobody would know.
        Some(Errno::MFILE | Errno::NFILE) => Err(Refused::For(Unattached::Descriptors)),
        // A debugger may hold the slots of single threads.
        _ if !made.is_empty() => Ok(made),
        Some(Errno::NOSPC) => Err(Refused::For(Unattached::NoBreakpoint)),
        Some(errno) => {
            debug!(%errno, pid, "a breakpoint is refused");
            Err(Refused::For(Unattached::Refused))
        }
        None => Err(Refused::Gone),
    }
}

fn threads(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"));
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}
