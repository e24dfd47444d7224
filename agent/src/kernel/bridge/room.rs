//! How many processes may have a bridge: of one owner never more than is left for all others, so that whoever comes next
//! finds room. Where uprobes are perf's (before Linux 6.6) the keeper's own bound of events comes first, for all owners
//! together.

use crate::kernel::owner::Owner;
use std::collections::BTreeMap;

/// Most processes with a bridge, and most attachments of theirs.
pub(super) const PROCESSES: usize = 256;
const ATTACHMENTS: usize = 512;

#[derive(Clone, Copy, Default)]
struct Taken {
    processes: usize,
    attachments: usize,
}

/// What is taken.
pub(super) struct Room<'a> {
    all: Taken,
    by_owner: BTreeMap<&'a Owner, Taken>,
}

impl<'a> Room<'a> {
    /// Of the processes with a bridge: owner and attachments of each.
    pub fn left_by(processes: impl Iterator<Item = (&'a Owner, usize)>) -> Self {
        let mut room = Self {
            all: Taken::default(),
            by_owner: BTreeMap::new(),
        };
        for (owner, attachments) in processes {
            for taken in [&mut room.all, room.by_owner.entry(owner).or_default()] {
                taken.processes += 1;
                taken.attachments += attachments;
            }
        }
        room
    }

    /// Whether one more process of this owner may have a bridge.
    pub fn for_process(&self, owner: &Owner) -> bool {
        self.of(owner).processes < PROCESSES.saturating_sub(self.all.processes)
    }

    /// Whether a process of this owner may have so many attachments more.
    pub fn for_attachments(&self, owner: &Owner, count: usize) -> bool {
        let left = ATTACHMENTS.saturating_sub(self.all.attachments);
        self.of(owner).attachments + count <= left
    }

    fn of(&self, owner: &Owner) -> Taken {
        self.by_owner.get(owner).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_room_of_who_comes_later() {
        let greedy = Owner::named("greedy");
        let mut there = vec![];
        while Room::left_by(there.iter().copied()).for_process(&greedy) {
            there.push((&greedy, 0));
        }
        assert_eq!(there.len(), PROCESSES / 2);
        // Each later one finds half of what is left.
        let later: Vec<Owner> = (0..7)
            .map(|number| Owner::named(&number.to_string()))
            .collect();
        for owner in &later {
            let before = there.len();
            while Room::left_by(there.iter().copied()).for_process(owner) {
                there.push((owner, 0));
            }
            assert!(there.len() > before);
        }
        assert!(there.len() <= PROCESSES);
        assert!(!Room::left_by(there.into_iter()).for_process(&greedy));
    }

    #[test]
    fn attachments_are_bounded_like_processes() {
        let (greedy, other) = (Owner::named("greedy"), Owner::named("other"));
        let there = [(&greedy, ATTACHMENTS / 4), (&greedy, ATTACHMENTS / 4)];
        let room = Room::left_by(there.into_iter());
        assert!(room.for_attachments(&greedy, 0));
        assert!(!room.for_attachments(&greedy, 1));
        assert!(room.for_attachments(&other, ATTACHMENTS / 2));
        assert!(!room.for_attachments(&other, ATTACHMENTS / 2 + 1));
    }
}
