//! The keys of the probes' maps `PLACES` and `CALLERS`: what a point passes that is no C function. Points of equal form
//! share one.
//!
//! Invariant: what a key stands for stays as it is while an attachment refers to it.

use crate::kernel::keylog::Places;
use std::{collections::HashMap, hash::Hash};

/// Keys that a map has room for (`agent-ebpf/src/maps.rs`); of `CALLERS`, with four callers each.
const MOST: u32 = 4_096;

/// From a word that is watched to where a call of its method returns to, and what the caller has where.
pub type Callers = Vec<(i64, Places)>;

/// What the probes need to know of a point, besides its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Nothing: it is a C function.
    Usual,
    /// A key of `PLACES`.
    Places(u32),
    /// A key of `CALLERS`.
    Callers(u32),
}

impl Passed {
    /// As the probes know it.
    pub fn key(self) -> u32 {
        match self {
            Self::Usual => u32::MAX,
            Self::Places(key) | Self::Callers(key) => key,
        }
    }
}

#[derive(Debug)]
pub struct Keys<T> {
    entries: HashMap<T, Entry>,
    free: Vec<u32>,
    next: u32,
}

impl<T> Default for Keys<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            free: Vec::new(),
            next: 0,
        }
    }
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

impl<T: Clone + Eq + Hash> Keys<T> {
    /// One more user of this; `None` if there is no room.
    pub fn take(&mut self, what: &T) -> Option<Taken> {
        if let Some(entry) = self.entries.get_mut(what) {
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
        self.entries.insert(what.clone(), Entry { key, users: 1 });
        Some(Taken::New(key))
    }

    /// One user less. Gives what is to be removed from the map, if it was the last.
    pub fn give_back(&mut self, key: u32) -> Option<T> {
        let (what, entry) = self
            .entries
            .iter_mut()
            .find(|(_, entry)| entry.key == key)?;
        entry.users -= 1;
        if entry.users > 0 {
            return None;
        }
        let what = what.clone();
        self.entries.remove(&what);
        self.free.push(key);
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::keylog::places::{LabelPlace, Place, Register};

    fn places(offset: i32) -> Places {
        Places {
            label: LabelPlace::Master,
            secret: Place::At(Register::Rsp, offset),
            length: Place::Constant(48),
            client_random: None,
        }
    }

    #[test]
    fn equal_places_share_an_entry_until_the_last_goes() {
        let mut table = Keys::default();
        assert_eq!(table.take(&places(1)), Some(Taken::New(0)));
        assert_eq!(table.take(&places(1)), Some(Taken::Known(0)));
        assert_eq!(table.take(&places(2)), Some(Taken::New(1)));
        assert_eq!(table.give_back(0), None);
        assert_eq!(table.give_back(0), Some(places(1)));
        assert_eq!(table.give_back(0), None);
        assert_eq!(table.take(&places(3)), Some(Taken::New(0)));
    }

    #[test]
    fn there_are_no_more_than_the_map_takes() {
        let mut table = Keys::default();
        assert!((0..MOST).all(|number| table.take(&places(number as i32)).is_some()));
        assert_eq!(table.take(&places(-1)), None);
        table.give_back(9);
        assert_eq!(table.take(&places(-1)), Some(Taken::New(9)));
    }
}
