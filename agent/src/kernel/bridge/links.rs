//! The bridge's probes: loading them, what is attached where, and what their maps hold of a process.
#![expect(
    unsafe_code,
    reason = "the probes' map values are plain old data, which aya wants to be told"
)]

use super::functions::{Place, Role};
use crate::kernel::keeper::{self, Program};
use crate::kernel::probes::{Error, Probes, map, program};
use agent_common::abi;
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, MapError},
    programs::UProbe,
};

const PROGRAMS: [Program; 3] = [
    Program::BridgeEnter,
    Program::BridgeReturn,
    Program::BridgeForget,
];

#[repr(transparent)]
#[derive(Clone, Copy)]
struct KeyValue(abi::BridgeKey);
// SAFETY: integers with explicit padding.
unsafe impl Pod for KeyValue {}

/// Only the probes look into these.
type CallValue = [u8; size_of::<abi::BridgeCall>()];
type ObjectValue = [u8; size_of::<abi::BridgeObject>()];
type TieValue = [u8; size_of::<abi::BridgeTie>()];

/// What the probes know of calls and connections.
pub(in crate::kernel) struct Maps {
    bridges: Array<MapData, u32>,
    calls: HashMap<MapData, u64, CallValue>,
    objects: HashMap<MapData, KeyValue, ObjectValue>,
    ties: HashMap<MapData, u64, TieValue>,
}

/// What is attached at these places, in this order: returns first, so that no call is met without its return. They are
/// detached in the opposite one.
pub(super) fn wanted(places: &[Place]) -> Vec<keeper::Place> {
    let moves = |place: &&Place| matches!(place.role, Role::Moves(_));
    let returns = places.iter().filter(moves).map(|place| keeper::Place {
        program: Program::BridgeReturn,
        file_offset: place.file_offset,
        cookie: 0,
        returns: true,
    });
    let entry = |place: &Place| {
        let (program, cookie) = match place.role {
            Role::Moves(form) => (Program::BridgeEnter, form),
            Role::Forgets => (Program::BridgeForget, 0),
            Role::Frees => (Program::BridgeForget, abi::bridge::FREES),
        };
        keeper::Place {
            program,
            file_offset: place.file_offset,
            cookie,
            returns: false,
        }
    };
    let mut entries: Vec<keeper::Place> = places.iter().map(entry).collect();
    // Those of one program side by side: one link of `uprobe_multi` takes them all.
    entries.sort_by_key(|place| place.program);
    returns.chain(entries).collect()
}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            bridges: map(ebpf, "BRIDGES")?,
            calls: map(ebpf, "BRIDGE_CALLS")?,
            objects: map(ebpf, "BRIDGE_OBJECTS")?,
            ties: map(ebpf, "BRIDGE_TIES")?,
        })
    }

    /// Nothing is known of any connection any more.
    pub fn clear(&mut self) {
        let ties: Vec<u64> = self.ties.keys().flatten().collect();
        for sock in ties {
            // Gone meanwhile: nothing to forget.
            let _ = self.ties.remove(&sock);
        }
        self.forget(|_| true);
    }

    /// Calls and objects of the processes that `fits` names.
    fn forget(&mut self, fits: impl Fn(u32) -> bool) {
        let calls: Vec<u64> = self.calls.keys().flatten().collect();
        for thread in calls.iter().filter(|thread| fits((*thread >> 32) as u32)) {
            let _ = self.calls.remove(thread);
        }
        let objects: Vec<KeyValue> = self.objects.keys().flatten().collect();
        for key in objects.iter().filter(|key| fits(key.0.process)) {
            let _ = self.objects.remove(key);
        }
    }
}

impl Probes {
    /// Loads the bridge's programs, so that attaching them needs no right to load programs.
    pub fn load_bridge(&mut self) -> Result<(), Error> {
        for name in PROGRAMS.map(Program::name) {
            let program: &mut UProbe = program(&mut self.ebpf, name)?;
            if program.fd().is_err() {
                program
                    .load()
                    .map_err(|source| Error::Program { name, source })?;
            }
        }
        Ok(())
    }

    /// How many processes have a bridge: with none the socket probes do not look for calls.
    pub(super) fn count_bridges(&mut self, count: u32) -> Result<(), Error> {
        self.bridge
            .bridges
            .set(0, count, 0)
            .map_err(|source: MapError| Error::Map {
                name: "BRIDGES",
                source,
            })
    }

    /// What a process's calls have left behind, once its probes are detached.
    pub(super) fn forget_calls(&mut self, pid: u32) {
        self.bridge.forget(|process| process == pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_never_met_without_its_return() {
        let place = |role, file_offset| Place { role, file_offset };
        let wanted = wanted(&[
            place(Role::Frees, 1),
            place(Role::Moves(7), 2),
            place(Role::Forgets, 3),
            place(Role::Moves(8), 4),
        ]);
        let shown = |place: &keeper::Place| (place.program, place.file_offset, place.cookie);
        let shown: Vec<_> = wanted.iter().map(shown).collect();
        assert_eq!(
            shown,
            [
                (Program::BridgeReturn, 2, 0),
                (Program::BridgeReturn, 4, 0),
                (Program::BridgeEnter, 2, 7),
                (Program::BridgeEnter, 4, 8),
                (Program::BridgeForget, 1, abi::bridge::FREES),
                (Program::BridgeForget, 3, 0),
            ]
        );
        assert!(
            wanted
                .iter()
                .all(|place| place.returns == (place.program == Program::BridgeReturn))
        );
        assert!(wanted.len() <= keeper::PLACES);
    }
}
