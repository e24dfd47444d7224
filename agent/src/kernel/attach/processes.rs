//! Which processes have which points attached, and who owns the descriptors.
//!
//! An attachment is one point in one program: the breakpoints of all threads that the process had then. Children that it
//! forks later inherit them, so that they are members of the attachment; the descriptors go when the last member has
//! executed another program or ended.
//!
//! Invariant: an attachment has at least one member, and is in the list of each of them.
//! Invariant: a process has at most [`abi::BREAKPOINTS_MAX`] attachments that are breakpoints.

use crate::{
    flow::Nanos,
    kernel::{
        owner::Owner,
        record::{PointId, ProcessKey},
    },
};
use agent_common::abi::{self, BREAKPOINTS_MAX};
use std::collections::{HashMap, HashSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttachmentId(u64);

/// A point in a process.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub point: PointId,
    /// What is watched.
    pub address: u64,
    /// The point's code: the same, but of a word of data.
    pub code: u64,
    /// Key in the probes' map `PLACES`, of a point that is no C function.
    pub places: u32,
}

/// One point in one program. `D` is what keeps it attached.
#[derive(Debug)]
pub struct Attachment<D> {
    pub spot: Spot,
    /// It takes a slot of each thread: no uprobe.
    pub is_breakpoint: bool,
    pub descriptors: Vec<D>,
    pub owner: Owner,
    /// Every thread was covered from then on: children that were forked later have inherited it.
    pub since: Nanos,
    members: HashSet<ProcessKey>,
}

impl Spot {
    /// As the probes know it.
    pub fn as_kernel(self) -> abi::Breakpoint {
        abi::Breakpoint {
            address: self.address,
            point: self.point.0,
            places: self.places,
        }
    }
}

impl<D> Attachment<D> {
    /// Whether this process has it.
    pub fn is_of(&self, process: ProcessKey) -> bool {
        self.members.contains(&process)
    }
}

#[derive(Debug)]
struct Process {
    start: Nanos,
    attachments: Vec<AttachmentId>,
}

#[derive(Debug)]
pub struct Processes<D> {
    processes: HashMap<u32, Process>,
    attachments: HashMap<AttachmentId, Attachment<D>>,
    next: u64,
    /// Descriptors of all attachments, and by owner.
    descriptors: usize,
    by_owner: HashMap<Owner, usize>,
}

impl<D> Default for Processes<D> {
    fn default() -> Self {
        Self {
            processes: HashMap::new(),
            attachments: HashMap::new(),
            next: 0,
            descriptors: 0,
            by_owner: HashMap::new(),
        }
    }
}

impl<D> Processes<D> {
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    pub fn descriptors_of(&self, owner: &Owner) -> usize {
        self.by_owner.get(owner).copied().unwrap_or(0)
    }

    /// The points of this owner's attachments that are no breakpoints.
    pub fn uprobes_of(&self, owner: &Owner) -> impl Iterator<Item = PointId> {
        let uprobes = self.attachments.values().filter(|one| !one.is_breakpoint);
        let of_owner = uprobes.filter(move |one| one.owner == *owner);
        of_owner.map(|one| one.spot.point)
    }

    pub fn keys(&self) -> Vec<ProcessKey> {
        let key = |(pid, process): (&u32, &Process)| ProcessKey {
            pid: *pid,
            start: process.start,
        };
        self.processes.iter().map(key).collect()
    }

    /// What this process has attached.
    pub fn of(&self, process: ProcessKey) -> impl Iterator<Item = &Attachment<D>> {
        self.processes
            .get(&process.pid)
            .filter(move |known| known.start == process.start)
            .into_iter()
            .flat_map(|known| &known.attachments)
            .filter_map(|id| self.attachments.get(id))
    }

    /// Whether there is room for one more breakpoint.
    pub fn has_room(&self, process: ProcessKey) -> bool {
        let attachments = self.of(process);
        let breakpoints = attachments.filter(|attachment| attachment.is_breakpoint);
        breakpoints.count() < BREAKPOINTS_MAX
    }

    /// The value of the probes' map `BREAKPOINTS` for this process, with one more than it has.
    pub fn breakpoints(
        &self,
        process: ProcessKey,
        more: Option<abi::Breakpoint>,
    ) -> abi::Breakpoints {
        let breakpoints = self
            .of(process)
            .filter(|attachment| attachment.is_breakpoint);
        let known = breakpoints.map(|attachment| attachment.spot.as_kernel());
        let mut value = abi::Breakpoints {
            start: process.start,
            ..Default::default()
        };
        for (slot, breakpoint) in value.at.iter_mut().zip(known.chain(more)) {
            *slot = breakpoint;
        }
        value
    }

    /// A point was attached to this process alone.
    pub fn add(
        &mut self,
        process: ProcessKey,
        spot: Spot,
        is_breakpoint: bool,
        descriptors: Vec<D>,
        owner: Owner,
        since: Nanos,
    ) {
        let id = AttachmentId(self.next);
        self.next += 1;
        self.descriptors += descriptors.len();
        *self.by_owner.entry(owner.clone()).or_default() += descriptors.len();
        self.attachments.insert(
            id,
            Attachment {
                spot,
                is_breakpoint,
                descriptors,
                owner,
                since,
                members: HashSet::from([process]),
            },
        );
        self.list(process).attachments.push(id);
    }

    /// One more process has what another has: the first attachment that fits.
    pub fn join(
        &mut self,
        process: ProcessKey,
        fits: impl Fn(&Attachment<D>) -> bool,
    ) -> Option<Nanos> {
        let (id, attachment) = self
            .attachments
            .iter_mut()
            .find(|(_, attachment)| fits(attachment))?;
        let (id, since) = (*id, attachment.since);
        if attachment.members.insert(process) {
            self.list(process).attachments.push(id);
        }
        Some(since)
    }

    /// A child was forked at `time`: it is a member of what its parent had by then and what is `inherited`. Gives the rest,
    /// which the child does not have: point and address.
    pub fn fork(
        &mut self,
        parent: ProcessKey,
        child: ProcessKey,
        time: Nanos,
        inherited: impl Fn(&D) -> bool,
    ) -> Vec<(PointId, u64)> {
        let ids = match self.processes.get(&parent.pid) {
            Some(known) if known.start == parent.start => known.attachments.clone(),
            _ => return Vec::new(),
        };
        let mut missed = Vec::new();
        for id in ids {
            let Some(attachment) = self.attachments.get_mut(&id) else {
                continue;
            };
            if attachment.since > time || !attachment.descriptors.iter().all(&inherited) {
                missed.push((attachment.spot.point, attachment.spot.address));
                continue;
            }
            attachment.members.insert(child);
            self.list(child).attachments.push(id);
        }
        missed
    }

    /// The process has ended, or has executed another program. Gives the attachments of which it was the last member.
    pub fn leave(&mut self, process: ProcessKey) -> Vec<Attachment<D>> {
        match self.processes.get(&process.pid) {
            Some(known) if known.start == process.start => {}
            _ => return Vec::new(),
        }
        let Some(known) = self.processes.remove(&process.pid) else {
            return Vec::new();
        };
        let mut over = Vec::new();
        for id in known.attachments {
            let Some(attachment) = self.attachments.get_mut(&id) else {
                continue;
            };
            attachment.members.remove(&process);
            if attachment.members.is_empty() {
                over.extend(self.take(id));
            }
        }
        over
    }

    /// Takes the attachments that fit from every process, and says which processes those are.
    pub fn remove(
        &mut self,
        fits: impl Fn(&Attachment<D>) -> bool,
    ) -> (Vec<Attachment<D>>, Vec<ProcessKey>) {
        let ids: Vec<AttachmentId> = self
            .attachments
            .iter()
            .filter(|(_, attachment)| fits(attachment))
            .map(|(id, _)| *id)
            .collect();
        let mut over = Vec::new();
        let mut of = HashSet::new();
        for id in ids {
            let Some(attachment) = self.take(id) else {
                continue;
            };
            for member in &attachment.members {
                if let Some(known) = self.processes.get_mut(&member.pid) {
                    known.attachments.retain(|other| *other != id);
                    of.insert(*member);
                }
            }
            over.push(attachment);
        }
        self.processes
            .retain(|_, known| !known.attachments.is_empty());
        (over, of.into_iter().collect())
    }

    fn take(&mut self, id: AttachmentId) -> Option<Attachment<D>> {
        let attachment = self.attachments.remove(&id)?;
        self.descriptors -= attachment.descriptors.len();
        if let Some(count) = self.by_owner.get_mut(&attachment.owner) {
            *count -= attachment.descriptors.len();
            if *count == 0 {
                self.by_owner.remove(&attachment.owner);
            }
        }
        Some(attachment)
    }

    /// What is known of another process of the same id is over: its end was missed.
    fn list(&mut self, process: ProcessKey) -> &mut Process {
        self.processes.entry(process.pid).or_insert(Process {
            start: process.start,
            attachments: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32) -> ProcessKey {
        ProcessKey {
            pid,
            start: u64::from(pid) * 10,
        }
    }

    fn spot(point: u32, address: u64) -> Spot {
        Spot {
            point: PointId(point),
            address,
            code: address,
            places: 7,
        }
    }

    fn with(pid: u32, since: Nanos) -> Processes<&'static str> {
        let mut processes = Processes::default();
        processes.add(
            process(pid),
            spot(1, 0x10),
            true,
            vec!["a", "b"],
            Owner::named("u"),
            since,
        );
        processes
    }

    #[test]
    fn descriptors_go_with_the_last_of_a_family() {
        let mut processes = with(1, 5);
        assert!(
            processes
                .fork(process(1), process(2), 6, |_| true)
                .is_empty()
        );
        assert!(
            processes
                .fork(process(2), process(3), 7, |_| true)
                .is_empty()
        );
        assert_eq!(processes.descriptors_of(&Owner::named("u")), 2);
        assert!(processes.leave(process(1)).is_empty());
        assert!(processes.leave(process(3)).is_empty());
        let over = processes.leave(process(2));
        assert_eq!(over[0].descriptors, ["a", "b"]);
        assert_eq!((processes.descriptors(), processes.keys().len()), (0, 0));
        assert_eq!(processes.descriptors_of(&Owner::named("u")), 0);
    }

    #[test]
    fn a_child_that_was_forked_before_has_nothing_of_it() {
        let mut processes = with(1, 5);
        assert_eq!(
            processes.fork(process(1), process(2), 4, |_| true),
            [(PointId(1), 0x10)]
        );
        assert_eq!(processes.of(process(2)).count(), 0);
        assert_eq!(processes.leave(process(1)).len(), 1);
    }

    #[test]
    fn what_is_not_inherited_is_missed_and_may_be_joined() {
        let mut processes = with(1, 5);
        let missed = processes.fork(process(1), process(2), 6, |descriptor| *descriptor != "b");
        assert_eq!(missed, [(PointId(1), 0x10)]);
        assert_eq!(
            processes.join(process(2), |known| known.spot.point == PointId(1)),
            Some(5)
        );
        assert_eq!(
            processes.join(process(2), |known| known.spot.point == PointId(1)),
            Some(5)
        );
        assert_eq!(processes.of(process(2)).count(), 1);
        assert_eq!(processes.join(process(2), |_| false), None);
        assert!(processes.leave(process(1)).is_empty());
        assert_eq!(processes.leave(process(2)).len(), 1);
    }

    #[test]
    fn another_process_of_the_same_id_is_another() {
        let mut processes = with(1, 5);
        let other = ProcessKey { pid: 1, start: 11 };
        assert_eq!(processes.of(other).count(), 0);
        assert!(processes.leave(other).is_empty());
        assert!(processes.fork(other, process(2), 9, |_| true).is_empty());
        assert_eq!(processes.of(process(1)).count(), 1);
    }

    #[test]
    fn a_point_is_taken_from_all_of_them() {
        let mut processes = with(1, 5);
        processes.fork(process(1), process(2), 6, |_| true);
        processes.add(
            process(2),
            spot(2, 0x20),
            true,
            vec!["c"],
            Owner::named("u"),
            8,
        );
        assert!(!processes.has_room(process(2)) && processes.has_room(process(1)));
        let value = processes.breakpoints(process(2), None);
        assert_eq!((value.at[0].address, value.at[1].places), (0x10, 7));
        let (over, of) = processes.remove(|attachment| attachment.spot.point == PointId(1));
        assert_eq!((over.len(), of.len()), (1, 2));
        assert_eq!(processes.of(process(2)).count(), 1);
        assert_eq!(processes.descriptors(), 1);
        let value = processes.breakpoints(process(2), None);
        assert_eq!((value.at[0].address, value.at[1].address), (0x20, 0));
    }
}
