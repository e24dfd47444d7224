//! What works here, tried on a function of the keeper's own that nobody else maps: leases, and the ways to attach a uprobe
//! to one process.
//!
//! A link alone would not tell: kernels before 6.10 take links of `uprobe_multi` for a process and then pass over all of
//! its threads but the first, where they have not got the correction. So another thread runs the function, and its hits
//! are counted.

use super::{
    Facts, Way,
    calls::{self, Code, Event, Multi},
};
use crate::privilege::capabilities;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, fstat, memfd_create, open},
    io::write,
    thread::CapabilitySet,
};
use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

/// What the keeper needs wherever it runs.
pub(super) const NEEDED: CapabilitySet = CapabilitySet::PERFMON
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::LEASE)
    .union(CapabilitySet::DAC_READ_SEARCH);
/// Names of these, for people.
const CAPABILITIES: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::PERFMON, "CAP_PERFMON"),
    (CapabilitySet::BPF, "CAP_BPF"),
    (CapabilitySet::LEASE, "CAP_LEASE"),
    (CapabilitySet::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
];

/// A program that counts how often it runs.
#[derive(Debug)]
pub struct Counter {
    map: OwnedFd,
    pub perf: OwnedFd,
    /// The same for `uprobe_multi`, or why there is none.
    pub multi: Result<OwnedFd, String>,
}

impl Counter {
    /// # Errors
    /// Those of `bpf`: not permitted, mostly.
    pub fn load() -> Result<Self, String> {
        let map = calls::number().map_err(|error| error.to_string())?;
        let code = counting(&map);
        Ok(Self {
            perf: calls::load("trial", c"GPL", &code, None, false)?,
            multi: calls::load("trial", c"GPL", &code, None, true),
            map,
        })
    }

    /// # Errors
    /// Those of `bpf`.
    pub fn hits(&self) -> io::Result<u64> {
        calls::read_number(self.map.as_fd())
    }
}

/// `if ((n = lookup(map, &zero))) __sync_fetch_and_add(n, 1); return 0;`
fn counting(map: &OwnedFd) -> Vec<u8> {
    let instruction = |code: u8, registers: u8, offset: i16, value: i32| {
        let mut bytes = vec![code, registers];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        bytes
    };
    [
        instruction(0x62, 0x0a, -4, 0),
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 0x02, 0, -4),
        instruction(0x18, 0x11, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0),
        instruction(0x85, 0, 0, 1),
        instruction(0x15, 0, 2, 0),
        instruction(0xb7, 0x01, 0, 1),
        instruction(0xdb, 0x10, 0, 0),
        instruction(0xb7, 0, 0, 0),
        instruction(0x95, 0, 0, 0),
    ]
    .concat()
}

/// What was found out.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub facts: Facts,
    /// The type of perf's events.
    pub event: Option<u32>,
    /// The device of files that are in memory alone.
    pub memory: Option<u64>,
    pub kept: CapabilitySet,
}

/// Tries everything, with as few capabilities as it may be kept up with. `no_multi`: why the probes have no programs for
/// `uprobe_multi`, if so.
pub(super) fn make(no_multi: Option<String>) -> Result<Trial, String> {
    let counter =
        Counter::load().map_err(|error| format!("a program cannot be loaded: {error}"))?;
    let had = capabilities::effective().map_err(|error| error.to_string())?;
    let limited = |more: CapabilitySet, tried: &dyn Fn() -> Result<(), String>| {
        let less = had.intersection(NEEDED.union(more));
        capabilities::set_effective(less).map_err(|error| error.to_string())?;
        let result = tried();
        capabilities::set_effective(had).map_err(|error| error.to_string())?;
        result
    };
    let file = function().map_err(|error| format!("a file in memory: {error}"))?;
    limited(CapabilitySet::empty(), &|| lease(&file))?;
    let event = event_type();
    let multi = || match &counter.multi {
        Ok(program) => runs(&counter, &file, |path| {
            let multi = Multi {
                path,
                offsets: &[0],
                cookies: &[0],
                pid: std::process::id(),
                returns: false,
            };
            Ok(vec![calls::link_multi(program.as_fd(), &multi)?])
        }),
        Err(error) => Err(error.clone()),
    };
    let perf = || {
        let kind = event.clone()?;
        runs(&counter, &file, |path| {
            let event = calls::open_event(&Event {
                kind,
                path,
                offset: 0,
                pid: Some(std::process::id()),
                returns: false,
            })?;
            let link = calls::link_event(counter.perf.as_fd(), event.as_fd(), 0)?;
            Ok(vec![link, event])
        })
    };
    let with = |tried: &dyn Fn() -> Result<(), String>| {
        if limited(CapabilitySet::empty(), tried).is_ok() {
            return Ok(NEEDED);
        }
        let more = CapabilitySet::SYS_ADMIN;
        limited(more, tried).map(|()| NEEDED.union(more))
    };
    let better = no_multi.map_or_else(|| with(&multi), Err);
    let (way, kept, no_multi) = match better {
        Ok(kept) => (Way::Multi, kept, None),
        Err(why) => {
            let kept = with(&perf).map_err(|error| format!("{why}; perf: {error}"))?;
            (Way::Perf, kept, Some(why))
        }
    };
    Ok(Trial {
        facts: Facts {
            way,
            no_multi,
            capabilities: names(had.intersection(kept)),
            weaker: Vec::new(),
        },
        event: event.ok(),
        memory: fstat(&file).ok().map(|stat| stat.st_dev),
        kept,
    })
}

fn names(set: CapabilitySet) -> Vec<String> {
    let held = CAPABILITIES.iter().filter(|(one, _)| set.contains(*one));
    held.map(|(_, name)| (*name).to_owned()).collect()
}

/// A file in memory with a function, open for reading alone.
fn function() -> io::Result<OwnedFd> {
    let file = memfd_create("tokentrail-trial", MemfdFlags::CLOEXEC)?;
    let mut text = vec![0; 4096];
    text[..Code::TEXT.len()].copy_from_slice(Code::TEXT);
    write(&file, &text)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(open(path(file.as_fd()), flags, Mode::empty())?)
}

fn path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn lease(file: &OwnedFd) -> Result<(), String> {
    calls::lease(file, calls::lease_signal())
        .map_err(|error| format!("leases are refused: {error}"))?;
    let held = calls::is_leased(file);
    calls::release(file);
    if held {
        Ok(())
    } else {
        Err("a lease that was granted is not there".to_owned())
    }
}

/// Attaches to the function and has another thread run it.
fn runs(
    counter: &Counter,
    file: &OwnedFd,
    attach: impl FnOnce(&std::ffi::CStr) -> io::Result<Vec<OwnedFd>>,
) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let code = Code::map(file.as_fd()).map_err(text)?;
    let before = counter.hits().map_err(text)?;
    let path = CString::new(path(file.as_fd())).map_err(|error| error.to_string())?;
    let links = attach(&path).map_err(text)?;
    // By a thread that is not the first.
    std::thread::scope(|scope| {
        scope.spawn(|| code.run());
    });
    let hits = counter.hits().map_err(text)? - before;
    drop(links);
    if hits == 1 {
        Ok(())
    } else {
        Err(format!("{hits} hits of one call by a second thread"))
    }
}

/// Of the `uprobe` PMU.
fn event_type() -> Result<u32, String> {
    let path = "/sys/bus/event_source/devices/uprobe/type";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.trim()
        .parse()
        .map_err(|error| format!("{path}: {error}"))
}
