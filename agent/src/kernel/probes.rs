//! Loading and attaching the probes; what is attached; what they counted.
//!
//! Invariant: the scope's maps are filled before the first probe is attached.
#![expect(
    unsafe_code,
    reason = "the probes' map values are plain old data, which aya wants to be told"
)]

use super::{
    attach::{
        breakpoint::{At, Breakpoint},
        maps::{AttachMaps, Programs},
    },
    bridge, btf,
    features::Rung,
    hooks::Hook,
    keeper,
    keylog::PointKind,
    record::ConnectionKey,
    scope::{self, Hierarchy, Member, Resolved, Scope},
};
use agent_common::abi::{self, probe, reason};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{ProgramError, UProbe},
};
use aya_log::EbpfLogger;
use std::os::fd::{AsFd as _, OwnedFd};

/// What `cargo xtask build` made, or nothing.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes.o"));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this agent was built without its probes: build it with `cargo xtask build`")]
    NoObject,
    #[error(transparent)]
    Btf(#[from] btf::Error),
    #[error("this kernel's type information has no {0}: the probes cannot know where it is")]
    MissingOffsets(String),
    #[error("cannot load the probes: {}{}", chain(.0), hint(&format!("{:?}", .0)))]
    Load(#[from] aya::EbpfError),
    #[error("cannot use probe {name}: {}{}", chain(.source), hint(&format!("{:?}", .source)))]
    Program {
        name: &'static str,
        source: ProgramError,
    },
    #[error("cannot use map {name}: {source}")]
    Map {
        name: &'static str,
        source: MapError,
    },
    #[error("the probes have no {0}: they are of another build")]
    Absent(&'static str),
    #[error("cannot keep probe {0} at hand: {1}")]
    Descriptor(&'static str, std::io::Error),
    #[error(transparent)]
    Scope(#[from] scope::Error),
}

/// An error with its causes, which hold what the kernel said.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    // aya adds the verifier's output even where there is none.
    text.trim_end()
        .trim_end_matches("Verifier output:")
        .trim_end()
        .to_owned()
}

fn hint(debug: &str) -> &'static str {
    if !debug.contains("code: 1,") && !debug.contains("PermissionDenied") {
        ""
    } else if rustix::process::geteuid().is_root() {
        " (this kernel refuses such programs, or the process lacks a capability: see `tokentrail-agent doctor`)"
    } else {
        " (not permitted: run as root, or with the capabilities that `tokentrail-agent doctor` lists)"
    }
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct OffsetsValue(abi::Offsets);
// SAFETY: `u32`s, no padding.
unsafe impl Pod for OffsetsValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct SettingsValue(abi::Settings);
// SAFETY: `u32`s, no padding.
unsafe impl Pod for SettingsValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct ProcessValue(pub(super) abi::ProcessId);
// SAFETY: integers with explicit padding.
unsafe impl Pod for ProcessValue {}

#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct ConnectionValue(abi::Connection);
// SAFETY: integers with explicit padding.
unsafe impl Pod for ConnectionValue {}

/// A call between its entry and its exit, which only the probes look into (`agent-ebpf/src/maps.rs`): its size.
pub(super) type CallValue = [u8; 56];

/// What the probes are loaded with.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: the best that this kernel allows.
    pub rung: Option<Rung>,
    pub ring_bytes: u32,
    pub copy_bytes: u32,
    pub multiplexed_bytes: u32,
    pub connections: u32,
    /// The agent's own other process, which is as little observed as this one.
    pub worker: Option<u32>,
    /// Files that processes make executable are told of.
    pub tell_made: bool,
}

/// Loaded probes. Dropping it detaches them all.
pub struct Probes {
    pub(super) ebpf: Ebpf,
    /// Of sockets and lifecycle, while they are attached. Key-log points are the attacher's.
    pub(super) hooks: Vec<Hook>,
    pub(super) scopes: Vec<Scope>,
    pub(super) hierarchy: Option<Hierarchy>,
    cgroups: HashMap<MapData, u64, u32>,
    levels: Array<MapData, u32>,
    pub(super) processes: HashMap<MapData, ProcessValue, u32>,
    pub(super) connections: HashMap<MapData, u64, ConnectionValue>,
    pub(super) calls: HashMap<MapData, u64, CallValue>,
    /// Inode numbers by `struct sock *`.
    multiplexed: HashMap<MapData, u64, u64>,
    pub(super) bridge: bridge::Maps,
    /// All of them, until the keeper's programs are made.
    pub(super) maps: Option<keeper::Maps>,
    pub(super) members: Vec<Member>,
    pub(super) tell_made: bool,
}

/// Read-only view of the counters, for another thread.
pub struct Counters(PerCpuArray<MapData, u64>);

/// The log of the probes themselves, handed on to the agent's log.
pub struct Diagnostics(EbpfLogger<&'static dyn log::Log>);

impl Diagnostics {
    pub fn hand_on(&mut self) {
        self.0.flush();
    }
}

/// The ring, for the thread that drains it.
pub type Ring = RingBuf<MapData>;

/// Whether this agent has its probes.
pub fn built_in() -> bool {
    !OBJECT.is_empty()
}

/// Loads and attaches on the best rung that works, or on the one that is asked for; says why the better was refused.
pub fn start(scopes: &[Scope], options: &Options) -> Result<(Probes, Rung, Option<Error>), Error> {
    let attach = |rung| {
        let mut probes = Probes::load(scopes.to_vec(), options)?;
        probes.attach(rung)?;
        Ok::<_, Error>(probes)
    };
    if let Some(rung) = options.rung {
        return Ok((attach(rung)?, rung, None));
    }
    match attach(Rung::Tracing) {
        Ok(probes) => Ok((probes, Rung::Tracing, None)),
        Err(refused @ Error::Program { .. }) => {
            Ok((attach(Rung::Tracepoints)?, Rung::Tracepoints, Some(refused)))
        }
        Err(error) => Err(error),
    }
}

/// The ring behind a descriptor that the process with the probes has passed on.
pub fn ring_of(descriptor: OwnedFd) -> Result<Ring, Error> {
    let failed = |source| Error::Map {
        name: "RING",
        source,
    };
    let map = MapData::from_fd(descriptor).map_err(failed)?;
    RingBuf::try_from(Map::RingBuf(map)).map_err(failed)
}

impl Probes {
    /// Loads the probes and fills the scope's maps; attaches nothing.
    pub fn load(scopes: Vec<Scope>, options: &Options) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let found = btf::find()?;
        let missing = found.missing_required();
        if !missing.is_empty() {
            return Err(Error::MissingOffsets(missing.join(", ")));
        }
        let hierarchy = Hierarchy::find().ok();
        let resolved = scopes
            .iter()
            .map(|scope| scope.resolve(hierarchy.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        let settings = SettingsValue(abi::Settings {
            copy_bytes: options.copy_bytes,
            multiplexed_bytes: options.multiplexed_bytes,
            scope_host: u32::from(scopes.contains(&Scope::Host)),
            scope_processes: u32::from(
                scopes
                    .iter()
                    .any(|scope| matches!(scope, Scope::Processes(_))),
            ),
            own_process: std::process::id(),
            own_worker: options.worker.unwrap_or(0),
            tell_made: u32::from(options.tell_made),
        });
        let offsets = OffsetsValue(found.offsets);
        let mut ebpf = EbpfLoader::new()
            .override_global("OFFSETS", &offsets, true)
            .override_global("SETTINGS", &settings, true)
            .map_max_entries("RING", options.ring_bytes)
            .map_max_entries("CONNECTIONS", options.connections)
            .load(OBJECT)?;
        let maps = keeper::Maps::of(&ebpf).map_err(|error| Error::Map {
            name: "descriptors",
            source: MapError::IoError(error),
        })?;
        let mut probes = Self {
            maps: Some(maps),
            cgroups: map(&mut ebpf, "CGROUPS")?,
            levels: map(&mut ebpf, "LEVELS")?,
            processes: map(&mut ebpf, "PROCESSES")?,
            connections: map(&mut ebpf, "CONNECTIONS")?,
            calls: map(&mut ebpf, "CALLS")?,
            multiplexed: map(&mut ebpf, "MULTIPLEXED")?,
            bridge: bridge::Maps::take(&mut ebpf)?,
            ebpf,
            hooks: Vec::new(),
            scopes,
            hierarchy,
            members: Vec::new(),
            tell_made: options.tell_made,
        };
        for resolved in &resolved {
            probes.enter(resolved)?;
        }
        Ok(probes)
    }

    pub(super) fn enter(&mut self, resolved: &Resolved) -> Result<(), Error> {
        for member in &resolved.members {
            self.add(*member)?;
        }
        for (pid, ticks) in &resolved.processes {
            self.processes
                .insert(ProcessValue(scope::process_id(*pid, *ticks)), 1, 0)
                .map_err(|source| Error::Map {
                    name: "PROCESSES",
                    source,
                })?;
        }
        Ok(())
    }

    pub(super) fn add(&mut self, member: Member) -> Result<(), Error> {
        self.cgroups
            .insert(member.id, 1, 0)
            .map_err(|source| Error::Map {
                name: "CGROUPS",
                source,
            })?;
        self.members.push(member);
        let levels = self.members.iter().fold(0u32, |bits, member| {
            bits | 1u32.checked_shl(member.level).unwrap_or(0)
        });
        self.levels.set(0, levels, 0).map_err(|source| Error::Map {
            name: "LEVELS",
            source,
        })
    }

    /// A cgroup was made: takes it into the scope if the scope names it and it is not there yet.
    pub fn cgroup_made(&mut self, path: &str) -> Result<Option<Member>, Error> {
        let fits = |hierarchy| {
            self.scopes
                .iter()
                .find_map(|scope| scope.fits_new(hierarchy, path))
        };
        let Some(member) = self.hierarchy.as_ref().and_then(fits) else {
            return Ok(None);
        };
        if self.members.contains(&member) {
            return Ok(None);
        }
        // First what is waited for: processes may be in it already.
        self.add(member)?;
        self.forget_removed();
        Ok(Some(member))
    }

    /// Takes cgroups out of the scope that are not there any more: a removed one has no processes, and a unit that is
    /// started again and again would fill the map with its former ones.
    pub(super) fn forget_removed(&mut self) {
        let hierarchy = self.hierarchy.as_ref();
        let there: Vec<Member> = self
            .scopes
            .iter()
            .filter_map(|scope| scope.resolve(hierarchy).ok())
            .flat_map(|resolved| resolved.members)
            .collect();
        let cgroups = &mut self.cgroups;
        self.members.retain(|member| {
            // What cannot be removed from the map stays in the list, to be tried again.
            there.contains(member) || cgroups.remove(&member.id).is_err()
        });
    }

    /// What the attacher needs of them. To be taken once.
    pub fn attach_maps(&mut self) -> Result<AttachMaps, Error> {
        AttachMaps::take(&mut self.ebpf)
    }

    /// Whether key-log points can be attached with the rights that this process has now: tried on this thread, at an
    /// instruction that it does not reach.
    pub fn can_attach_points(&mut self) -> bool {
        let Ok(programs) = Programs::load(&mut self.ebpf) else {
            return false;
        };
        let address = OBJECT.as_ptr() as u64;
        Breakpoint::new(0, At::Instruction(address), programs.of(PointKind::KeyLog))
            .is_ok_and(|breakpoint| breakpoint.enable().is_ok())
    }

    /// Lets more of a connection be copied, because its messages do not wait for one another.
    ///
    /// # Errors
    /// If the map takes no more.
    pub fn multiplexed(&mut self, connection: ConnectionKey) -> Result<(), Error> {
        let name = "MULTIPLEXED";
        self.multiplexed
            .insert(connection.sock, connection.inode, 0)
            .map_err(|source| Error::Map { name, source })
    }

    /// Removes Unix connections that were idle since `before` (no tracepoint tells when they close).
    pub fn sweep(&mut self, before: u64) -> usize {
        let idle: Vec<u64> = self
            .connections
            .iter()
            .flatten()
            .filter(|(_, ConnectionValue(connection))| {
                connection.peer_inode != 0 && connection.time < before
            })
            .map(|(sock, _)| sock)
            .collect();
        idle.iter()
            .filter(|sock| self.connections.remove(sock).is_ok())
            .count()
    }

    /// The ring's map for another process; see [`ring_of`].
    pub fn ring_descriptor(&self) -> Result<OwnedFd, Error> {
        match self.ebpf.map("RING") {
            Some(Map::RingBuf(map)) => {
                map.fd()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|error| Error::Map {
                        name: "RING",
                        source: MapError::IoError(error),
                    })
            }
            _ => Err(Error::Absent("RING")),
        }
    }

    /// Loads the programs of key-log points, so that attaching them needs no right to load programs.
    pub fn load_points(&mut self) -> Result<(), Error> {
        Programs::load(&mut self.ebpf)?;
        for name in POINT_UPROBES {
            let program: &mut UProbe = program(&mut self.ebpf, name)?;
            if program.fd().is_err() {
                program
                    .load()
                    .map_err(|source| Error::Program { name, source })?;
            }
        }
        Ok(())
    }

    pub fn ring(&mut self) -> Result<Ring, Error> {
        let map = self.ebpf.take_map("RING").ok_or(Error::Absent("RING"))?;
        RingBuf::try_from(map).map_err(|source| Error::Map {
            name: "RING",
            source,
        })
    }

    /// What a debug build of the probes has to say; other builds say nothing.
    pub fn diagnostics(&mut self) -> Option<Diagnostics> {
        EbpfLogger::init(&mut self.ebpf).ok().map(Diagnostics)
    }

    pub fn counters(&mut self) -> Result<Counters, Error> {
        let map = self
            .ebpf
            .take_map("COUNTERS")
            .ok_or(Error::Absent("COUNTERS"))?;
        PerCpuArray::try_from(map)
            .map(Counters)
            .map_err(|source| Error::Map {
                name: "COUNTERS",
                source,
            })
    }
}

impl Counters {
    /// Sum over all CPUs of each (probe, reason), as the probes have them now.
    pub fn read(&self) -> Result<Totals, Error> {
        let mut totals = Totals::default();
        for row in 0..probe::COUNT {
            for what in 0..reason::COUNT {
                let values = self
                    .0
                    .get(&(row * reason::COUNT + what), 0)
                    .map_err(|source| Error::Map {
                        name: "COUNTERS",
                        source,
                    })?;
                totals.0[row as usize][what as usize] = values.iter().sum();
            }
        }
        Ok(totals)
    }
}

/// `COUNTERS`, by [`probe`] and [`reason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals(pub [[u64; reason::COUNT as usize]; probe::COUNT as usize]);

impl Totals {
    /// All of them one after the other, for another process.
    pub fn values(&self) -> Vec<u64> {
        self.0.iter().flatten().copied().collect()
    }

    /// What [`values`](Self::values) gave; `None` of another number of counters.
    pub fn from_values(values: &[u64]) -> Option<Self> {
        let mut totals = Self::default();
        if values.len() != totals.0.as_flattened().len() {
            return None;
        }
        totals.0.as_flattened_mut().copy_from_slice(values);
        Some(totals)
    }

    pub fn of(&self, row: u32, what: u32) -> u64 {
        self.0[row as usize][what as usize]
    }
}

/// The programs of key-log points where uprobes are used instead of breakpoints.
const POINT_UPROBES: [&str; 3] = ["keylog_point", "kdf_derive", "keylog_placed"];

pub(super) fn map<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Absent(name))?;
    T::try_from(map).map_err(|source| Error::Map { name, source })
}

pub(super) fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, Error>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(Error::Absent(name))?
        .try_into()
        .map_err(|source| Error::Program { name, source })
}
