//! The entries of the probes' map `PLACES`: what a point passes that is no C function. Points of equal form share one.
//!
//! Invariant: an entry stays as it is while an attachment refers to it.

use crate::kernel::keylog::{Places, Point, PointKind};
use agent_common::abi;
use std::collections::HashMap;

/// Entries that the map has room for (`agent-ebpf/src/maps.rs`).
const MOST: u32 = 4_096;

/// What one point passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passed {
    first: Places,
    also: Option<Places>,
}

impl Passed {
    /// `None` of a C function.
    pub fn of(point: &Point) -> Option<Self> {
        match point.kind {
            PointKind::Placed(first) => Some(Self {
                first,
                also: point.also,
            }),
            PointKind::KeyLog | PointKind::KdfDerive => None,
        }
    }
}

impl From<&Passed> for abi::Passed {
    fn from(passed: &Passed) -> Self {
        let also = passed.also.unwrap_or(passed.first);
        Self {
            count: 1 + u64::from(passed.also.is_some()),
            secrets: [passed.first.into(), also.into()],
        }
    }
}

#[derive(Debug, Default)]
pub struct PlacesTable {
    entries: HashMap<Passed, Entry>,
    free: Vec<u32>,
    next: u32,
}

#[derive(Debug)]
struct Entry {
    key: u32,
    users: usize,
}

/// What taking an entry means for the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is to be written.
    New(u32),
    Known(u32),
}

impl PlacesTable {
    /// One more user of this; `None` if there is no room.
    pub fn take(&mut self, passed: Passed) -> Option<Taken> {
        if let Some(entry) = self.entries.get_mut(&passed) {
            entry.users += 1;
            return Some(Taken::Known(entry.key));
        }
        let key = match self.free.pop() {
            Some(key) => key,
            None if self.next < MOST => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.entries.insert(passed, Entry { key, users: 1 });
        Some(Taken::New(key))
    }

    /// One user less. Gives the key that is to be removed from the map, if it was the last.
    pub fn give_back(&mut self, key: u32) -> Option<u32> {
        let (passed, entry) = self
            .entries
            .iter_mut()
            .find(|(_, entry)| entry.key == key)
            .map(|(passed, entry)| (*passed, entry))?;
        entry.users -= 1;
        if entry.users > 0 {
            return None;
        }
        self.entries.remove(&passed);
        self.free.push(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::keylog::places::{LabelPlace, Place, Register};

    fn places(offset: i32) -> Passed {
        let first = Places {
            label: LabelPlace::Master,
            secret: Place::At(Register::Rsp, offset),
            length: Place::Constant(48),
            client_random: None,
        };
        Passed { first, also: None }
    }

    #[test]
    fn equal_places_share_an_entry_until_the_last_goes() {
        let mut table = PlacesTable::default();
        assert_eq!(table.take(places(1)), Some(Taken::New(0)));
        assert_eq!(table.take(places(1)), Some(Taken::Known(0)));
        assert_eq!(table.take(places(2)), Some(Taken::New(1)));
        assert_eq!(table.give_back(0), None);
        assert_eq!(table.give_back(0), Some(0));
        assert_eq!(table.give_back(0), None);
        assert_eq!(table.take(places(3)), Some(Taken::New(0)));
    }

    #[test]
    fn there_are_no_more_than_the_map_takes() {
        let mut table = PlacesTable::default();
        assert!((0..MOST).all(|number| table.take(places(number as i32)).is_some()));
        assert_eq!(table.take(places(-1)), None);
        table.give_back(9);
        assert_eq!(table.take(places(-1)), Some(Taken::New(9)));
    }
}
