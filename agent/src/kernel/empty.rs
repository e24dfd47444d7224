//! Empty probes for `cargo xtask bench`: what the points cost by themselves, and what the classic way would cost.
//!
//! Invariant: every program loaded here returns at once (`agent-ebpf/src/empty.rs`); nothing is read.

use super::{
    features::Rung,
    hooks::{LIFECYCLE, TRACING},
    keylog::{Cache, Finder, discover},
    probes::{Error, OBJECT, program},
};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{
        FEntry, FExit, ProgramError, RawTracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope},
    },
    sys::{Stats, enable_stats},
};
use std::{
    collections::BTreeMap,
    fmt, fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Which empty probes are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Where the agent has its own: the socket rung, processes, key-log points.
    SamePoints,
    /// Entry and return of `SSL_read` and `SSL_write`, in both forms, as others do it.
    Classic,
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SamePoints => "same-points",
            Self::Classic => "classic",
        })
    }
}

impl FromStr for Set {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "same-points" => Ok(Self::SamePoints),
            "classic" => Ok(Self::Classic),
            _ => Err(format!(
                "unknown set {text:?}: expected same-points or classic"
            )),
        }
    }
}

/// Attached empty probes. Dropping it detaches them.
pub struct Empty {
    ebpf: Ebpf,
    /// The rung that worked.
    pub rung: Option<Rung>,
    /// Places in files that have a probe.
    pub places: usize,
}

/// The functions of the classic way; those that a library does not export are left out.
const CLASSIC: &[&str] = &["SSL_read", "SSL_write", "SSL_read_ex", "SSL_write_ex"];

impl Empty {
    /// `rung`: forced, else the best that this kernel allows.
    pub fn attach(set: Set, rung: Option<Rung>) -> Result<Self, Error> {
        if OBJECT.is_empty() {
            return Err(Error::NoObject);
        }
        let mut empty = Self {
            ebpf: load()?,
            rung: None,
            places: 0,
        };
        match set {
            Set::SamePoints => {
                empty.rung = Some(empty.attach_sockets(rung)?);
                empty.attach_key_log_points()?;
            }
            Set::Classic => empty.attach_classic()?,
        }
        Ok(empty)
    }

    fn attach_sockets(&mut self, forced: Option<Rung>) -> Result<Rung, Error> {
        let rung = match forced {
            Some(Rung::Tracepoints) => Rung::Tracepoints,
            wanted => match self.attach_tracing() {
                Ok(()) => Rung::Tracing,
                Err(error) if wanted.is_some() => return Err(error),
                Err(_) => {
                    // Those that did attach are to go.
                    self.ebpf = load()?;
                    Rung::Tracepoints
                }
            },
        };
        let name = "empty_tracepoint";
        let failed = |source| Error::Program { name, source };
        let tracepoint: &mut RawTracePoint = program(&mut self.ebpf, name)?;
        tracepoint.load().map_err(failed)?;
        let sockets: &[&str] = if rung == Rung::Tracepoints {
            &["sys_exit"]
        } else {
            &[]
        };
        for point in LIFECYCLE.iter().chain(sockets) {
            tracepoint.attach(point).map_err(failed)?;
        }
        Ok(rung)
    }

    fn attach_tracing(&mut self) -> Result<(), Error> {
        let btf = Btf::from_sys_fs().map_err(|error| Error::Load(error.into()))?;
        for (real, function, entry) in TRACING {
            let name = format!("empty_{real}");
            let found = self
                .ebpf
                .program_mut(&name)
                .ok_or(Error::Absent("empty probes"))?;
            let failed = |source| Error::Program { name: real, source };
            if *entry {
                let program: &mut FEntry = found.try_into().map_err(failed)?;
                program
                    .load(function, &btf)
                    .and_then(|()| program.attach().map(drop))
                    .map_err(failed)?;
            } else {
                let program: &mut FExit = found.try_into().map_err(failed)?;
                program
                    .load(function, &btf)
                    .and_then(|()| program.attach().map(drop))
                    .map_err(failed)?;
            }
        }
        Ok(())
    }

    fn attach_key_log_points(&mut self) -> Result<(), Error> {
        let mut finder = Finder::new(Cache::in_memory());
        for path in discover::usual_libraries() {
            let Some(found) = discover::open_regular(&path)
                .ok()
                .and_then(|file| finder.look_at_file(&file).ok())
            else {
                continue;
            };
            for point in found.key_log_points() {
                self.attach_place(
                    "empty_entry",
                    &path,
                    UProbeAttachLocation::AbsoluteOffset(point.file_offset),
                )?;
            }
        }
        Ok(())
    }

    fn attach_classic(&mut self) -> Result<(), Error> {
        for path in discover::usual_libraries() {
            let named = path
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with("libssl."));
            if !named {
                continue;
            }
            for function in CLASSIC {
                for name in ["empty_entry", "empty_return"] {
                    self.attach_place(name, &path, UProbeAttachLocation::Symbol(function))?;
                }
            }
        }
        Ok(())
    }

    fn attach_place(
        &mut self,
        name: &'static str,
        path: &Path,
        location: UProbeAttachLocation<'_>,
    ) -> Result<(), Error> {
        let program: &mut UProbe = program(&mut self.ebpf, name)?;
        let failed = |source| Error::Program { name, source };
        if program.fd().is_err() {
            program.load().map_err(failed)?;
        }
        let point = UProbeAttachPoint {
            location,
            cookie: None,
        };
        match program.attach(point, path, UProbeScope::AllProcesses) {
            Ok(_) => self.places += 1,
            // A library without this function.
            Err(ProgramError::UProbeError(_)) => {}
            Err(source) => return Err(failed(source)),
        }
        Ok(())
    }
}

fn load() -> Result<Ebpf, Error> {
    // The maps are made with every object; these are not used.
    let page = 4096;
    Ok(EbpfLoader::new()
        .map_max_entries("RING", page)
        .map_max_entries("CONNECTIONS", 1)
        .load(OBJECT)?)
}

/// What the kernel counted for one program while its statistics were on.
///
/// `nanoseconds` is taken right around the program (`bpf_prog_start_time` to `update_prog_stats`,
/// `include/linux/filter.h`, `kernel/bpf/trampoline.c`): the program with its helper calls, and about 20 ns of the
/// clock itself. Not in it: how the kernel gets to the program, which is the trap of a uprobe, the trampoline of
/// fentry, the slow path of system calls that a `sys_exit` tracepoint switches on. Throughput has all of that.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RunTime {
    pub hits: u64,
    pub nanoseconds: u64,
}

/// Keeps the kernel's statistics of program run times on, for every program on the host, while it lives.
pub struct Statistics(#[expect(dead_code, reason = "closed on drop")] OwnedFd);

impl Statistics {
    pub fn on() -> std::io::Result<Self> {
        enable_stats(Stats::RunTime)
            .map(Self)
            .map_err(|error| std::io::Error::other(error.to_string()))
    }

    /// Run times of the programs that process `pid` holds, by their (cut) names.
    pub fn of(&self, pid: u32) -> std::io::Result<BTreeMap<String, RunTime>> {
        let own = program_ids(pid)?;
        let mut times: BTreeMap<String, RunTime> = BTreeMap::new();
        // One that was unloaded meanwhile is none of ours.
        for program in aya::programs::loaded_programs().flatten() {
            if own.contains(&program.id()) {
                let time = times
                    .entry(program.name_as_str().unwrap_or("?").to_owned())
                    .or_default();
                time.hits += program.run_count();
                time.nanoseconds +=
                    u64::try_from(program.run_time().as_nanos()).unwrap_or(u64::MAX);
            }
        }
        Ok(times)
    }
}

/// `prog_id` of every program descriptor of a process (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c); links, which
/// name their program too, are left out.
fn program_ids(pid: u32) -> std::io::Result<Vec<u32>> {
    let folder = PathBuf::from(format!("/proc/{pid}/fdinfo"));
    let mut ids = Vec::new();
    for entry in fs::read_dir(folder)?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("prog_jited:") {
            ids.extend(
                text.lines()
                    .find_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()),
            );
        }
    }
    Ok(ids)
}
