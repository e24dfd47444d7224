//! The bridge's probes: loading them, attaching them for one process, and what their maps hold of it.
#![expect(
    unsafe_code,
    reason = "the probes' map values are plain old data, which aya wants to be told"
)]

use super::functions::{Place, Role};
use crate::kernel::probes::{Error, Probes, map, program};
use agent_common::abi;
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, MapError},
    programs::{
        UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use std::{num::NonZeroU32, path::Path};

const ENTER: &str = "bridge_enter";
const RETURN: &str = "bridge_return";
const FORGET: &str = "bridge_forget";

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

/// The probes of one process. Dropping them detaches them: entries first, so that no call is left without its return.
#[derive(Default)]
pub(super) struct Links {
    entries: Vec<UProbeLink>,
    returns: Vec<UProbeLink>,
}

impl Links {
    pub fn len(&self) -> usize {
        self.entries.len() + self.returns.len()
    }

    /// How many [`Probes::attach_bridge`] makes of them.
    pub fn of(places: &[Place]) -> usize {
        let moves = places
            .iter()
            .filter(|place| matches!(place.role, Role::Moves(_)));
        places.len() + moves.count()
    }
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
        for name in [ENTER, RETURN, FORGET] {
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

    /// Attaches at `places` of `file`, for one process alone: returns first, so that no call is met without its return.
    pub(super) fn attach_bridge(
        &mut self,
        file: &Path,
        places: &[Place],
        pid: NonZeroU32,
        links: &mut Links,
    ) -> Result<(), Error> {
        for place in places {
            if let Role::Moves(_) = place.role {
                let link = self.attach_at(RETURN, file, place.file_offset, 0, pid)?;
                links.returns.push(link);
            }
        }
        for place in places {
            let (name, cookie) = match place.role {
                Role::Moves(form) => (ENTER, form),
                Role::Forgets => (FORGET, 0),
                Role::Frees => (FORGET, abi::bridge::FREES),
            };
            let link = self.attach_at(name, file, place.file_offset, cookie, pid)?;
            links.entries.push(link);
        }
        Ok(())
    }

    fn attach_at(
        &mut self,
        name: &'static str,
        file: &Path,
        file_offset: u64,
        cookie: u64,
        pid: NonZeroU32,
    ) -> Result<UProbeLink, Error> {
        let failed = |source| Error::Program { name, source };
        let program: &mut UProbe = program(&mut self.ebpf, name)?;
        let place = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(file_offset),
            cookie: Some(cookie),
        };
        let id = program
            .attach(place, file, UProbeScope::OneProcess(pid))
            .map_err(failed)?;
        program.take_link(id).map_err(failed)
    }
}
