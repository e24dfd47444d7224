//! The attacher's part of the loaded probes: its ring, its maps and the programs of breakpoints.
#![expect(
    unsafe_code,
    reason = "the probes' map values are plain old data, which aya wants to be told"
)]

use super::places::Passed;
use crate::kernel::{
    keylog::PointKind,
    probes::{Error, map, program},
};
use agent_common::abi;
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::PerfEvent,
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

#[repr(transparent)]
#[derive(Clone, Copy)]
struct FileValue(abi::File);
// SAFETY: integers, no padding.
unsafe impl Pod for FileValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct PassedValue(abi::Passed);
// SAFETY: integers with explicit padding.
unsafe impl Pod for PassedValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct BreakpointsValue(abi::Breakpoints);
// SAFETY: integers, no padding.
unsafe impl Pod for BreakpointsValue {}

/// See the module.
pub struct AttachMaps {
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    files: HashMap<MapData, FileValue, u32>,
    breakpoints: HashMap<MapData, u32, BreakpointsValue>,
    places: HashMap<MapData, u32, PassedValue>,
    /// None, where the kernel refuses them.
    programs: Option<Programs>,
}

/// The programs of breakpoints, loaded.
pub struct Programs {
    key_log: OwnedFd,
    placed: OwnedFd,
    kdf: OwnedFd,
}

impl Programs {
    /// The program that reads a point of this kind: the one place to extend for a library of another form.
    pub fn of(&self, kind: PointKind) -> BorrowedFd<'_> {
        match kind {
            PointKind::KeyLog => self.key_log.as_fd(),
            PointKind::Placed(_) => self.placed.as_fd(),
            PointKind::KdfDerive => self.kdf.as_fd(),
        }
    }

    pub(in crate::kernel) fn load(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut load = |name: &'static str| {
            let failed = |source| Error::Program { name, source };
            let program: &mut PerfEvent = program(ebpf, name)?;
            if program.fd().is_err() {
                program.load().map_err(failed)?;
            }
            let descriptor = program.fd().map_err(failed)?.as_fd();
            descriptor
                .try_clone_to_owned()
                .map_err(|error| Error::Descriptor(name, error))
        };
        Ok(Self {
            key_log: load("breakpoint_keylog")?,
            placed: load("breakpoint_placed")?,
            kdf: load("breakpoint_kdf")?,
        })
    }
}

impl AttachMaps {
    pub(in crate::kernel) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        // What was wrong was said when they were loaded.
        let programs = Programs::load(ebpf).ok();
        Ok(Self {
            ring: map(ebpf, "ATTACH")?,
            lost: map(ebpf, "ATTACH_LOST")?,
            files: map(ebpf, "FILES")?,
            breakpoints: map(ebpf, "BREAKPOINTS")?,
            places: map(ebpf, "PLACES")?,
            programs,
        })
    }

    pub fn programs(&self) -> Option<&Programs> {
        self.programs.as_ref()
    }

    /// The next record's bytes.
    pub fn next<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.ring.next().map(|item| read(&item))
    }

    /// Records that found the ring full.
    pub fn lost(&self) -> u64 {
        self.lost.get(&0, 0).unwrap_or(0)
    }

    /// What the probes are to know of a file; one of [`abi::file`].
    ///
    /// # Errors
    /// If the map takes no more: then each mapping of the file is told.
    pub fn set_file(&mut self, file: abi::File, what: u32) -> io::Result<()> {
        let set = self.files.insert(FileValue(file), what, 0);
        set.map_err(io::Error::other)
    }

    /// The probes know no file any more: each is told of when it is next mapped.
    pub fn forget_files(&mut self) {
        let files: Vec<FileValue> = self.files.keys().flatten().collect();
        for file in files {
            // Not there any more: nothing to forget.
            let _ = self.files.remove(&FileValue(file.0));
        }
    }

    /// # Errors
    /// If the map takes no more processes.
    pub fn set_breakpoints(&mut self, pid: u32, value: abi::Breakpoints) -> io::Result<()> {
        if value.at.iter().all(|breakpoint| breakpoint.address == 0) {
            // Not there any more: nothing to forget.
            let _ = self.breakpoints.remove(&pid);
            return Ok(());
        }
        let set = self.breakpoints.insert(pid, BreakpointsValue(value), 0);
        set.map_err(io::Error::other)
    }

    /// # Errors
    /// If the map takes no more.
    pub fn set_places(&mut self, key: u32, passed: &Passed) -> io::Result<()> {
        let value = PassedValue(passed.into());
        self.places.insert(key, value, 0).map_err(io::Error::other)
    }

    /// A hit that is under way finds nothing and reads nothing.
    pub fn remove_places(&mut self, key: u32) {
        let _ = self.places.remove(&key);
    }
}

impl AsFd for AttachMaps {
    /// Readable when there are records.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}
