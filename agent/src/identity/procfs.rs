//! What `/proc` says about a process. Every read is bounded; an answer is about the process that had the pid
//! at that moment, so callers compare [`Stat::start_ticks`] with the start time they mean.
//!
//! Source: proc(5); fs/proc/array.c (`do_task_stat`).

use crate::flow::Nanos;
use crate::kernel::record::Arguments;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const TEXT_LIMIT: u64 = 16 * 1024;
/// As much of the arguments as is read; the probe copies less.
const ARGUMENTS_LIMIT: usize = 4096;

/// A mounted procfs.
#[derive(Clone, Debug)]
pub struct ProcFs {
    root: PathBuf,
    nanos_per_tick: u64,
}

/// From `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub parent: u32,
    /// Field 22: the start time after boot, in clock ticks.
    pub start_ticks: u64,
}

/// From `/proc/PID/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
}

impl ProcFs {
    /// The one at `root`, usually `/proc`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            nanos_per_tick: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of a file about a process.
    #[must_use]
    pub fn path(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    /// Path of a file about no process.
    #[must_use]
    pub fn own(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Begin of the tick, in nanoseconds after boot.
    #[must_use]
    pub fn tick_start(&self, ticks: u64) -> Nanos {
        ticks.saturating_mul(self.nanos_per_tick)
    }

    /// Whether a start time given by the kernel falls into the tick given by `/proc`.
    #[must_use]
    pub fn same_start(&self, start: Nanos, ticks: u64) -> bool {
        start / self.nanos_per_tick == ticks
    }

    /// Whether a start time may be one that `/proc` rounded down.
    #[must_use]
    pub fn is_rounded(&self, start: Nanos) -> bool {
        start.is_multiple_of(self.nanos_per_tick)
    }

    /// Whether two start times fall into the same tick.
    #[must_use]
    pub fn same_tick(&self, one: Nanos, other: Nanos) -> bool {
        one / self.nanos_per_tick == other / self.nanos_per_tick
    }

    /// Every process that is there now.
    pub fn pids(&self) -> std::io::Result<impl Iterator<Item = u32> + use<>> {
        Ok(std::fs::read_dir(&self.root)?
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
    }

    /// Parent and start time.
    #[must_use]
    pub fn stat(&self, pid: u32) -> Option<Stat> {
        parse_stat(&read_text(&self.path(pid, "stat"))?)
    }

    /// Real user and group.
    #[must_use]
    pub fn credentials(&self, pid: u32) -> Option<Credentials> {
        parse_credentials(&read_text(&self.path(pid, "status"))?)
    }

    /// Path in the cgroup v2 hierarchy.
    #[must_use]
    pub fn cgroup(&self, pid: u32) -> Option<String> {
        let text = read_text(&self.path(pid, "cgroup"))?;
        text.lines()
            .find_map(|line| line.strip_prefix("0::"))
            .map(str::to_owned)
    }

    /// Inode number of a namespace: `net`, `user`, `mnt`, `pid`.
    #[must_use]
    pub fn namespace(&self, pid: u32, name: &str) -> Option<u32> {
        namespace_at(&self.path(pid, "ns").join(name))
    }

    /// Inode number of the agent's own namespace.
    #[must_use]
    pub fn own_namespace(&self, name: &str) -> Option<u32> {
        namespace_at(&self.root.join("self/ns").join(name))
    }

    /// The arguments, as the process has them now.
    #[must_use]
    pub fn arguments(&self, pid: u32) -> Option<Arguments> {
        let file = File::open(self.path(pid, "cmdline")).ok()?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(ARGUMENTS_LIMIT + 1));
        file.take(ARGUMENTS_LIMIT as u64 + 1)
            .read_to_end(&mut bytes)
            .ok()?;
        let truncated = bytes.len() > ARGUMENTS_LIMIT;
        bytes.truncate(ARGUMENTS_LIMIT);
        Some(Arguments { bytes, truncated })
    }
}

fn read_text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(TEXT_LIMIT)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn namespace_at(path: &Path) -> Option<u32> {
    parse_namespace(std::fs::read_link(path).ok()?.to_str()?)
}

/// `pid (comm) state ppid ... starttime ...`; comm may hold anything, so fields count from the last `)`.
pub(super) fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after) = text.rsplit_once(") ")?;
    let mut fields = after.split_ascii_whitespace();
    // Field 3 is the first one here: state. Parent is field 4, starttime field 22.
    let parent = fields.nth(1)?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        parent,
        start_ticks,
    })
}

/// `Uid:` and `Gid:` lines, real id first.
pub(super) fn parse_credentials(text: &str) -> Option<Credentials> {
    let real = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|ids| ids.split_ascii_whitespace().next()?.parse().ok())
    };
    Some(Credentials {
        uid: real("Uid:")?,
        gid: real("Gid:")?,
    })
}

/// `net:[4026531840]`.
pub(super) fn parse_namespace(link: &str) -> Option<u32> {
    link.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_hostile_names() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 1000 200";
        for comm in ["sh", "a b", ") S 9 9", "x) R 1", "((", ""] {
            let text = format!("12 ({comm}) {rest}");
            assert_eq!(
                parse_stat(&text),
                Some(Stat {
                    parent: 7,
                    start_ticks: 424_242
                }),
                "{comm}"
            );
        }
    }

    #[test]
    fn cut_texts_are_nothing() {
        let text = "12 (sh) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 424242 1000";
        let whole = text.find(" 424242").unwrap();
        for end in 0..=whole {
            assert_eq!(parse_stat(&text[..end]), None, "{:?}", &text[..end]);
        }
        let status = "Name:\tx\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\n";
        assert_eq!(
            parse_credentials(status),
            Some(Credentials { uid: 1000, gid: 5 })
        );
        for end in 0..status.find("\t5").unwrap() {
            assert_eq!(parse_credentials(&status[..end]), None);
        }
        assert_eq!(parse_namespace("net:[4026531840]"), Some(4_026_531_840));
        for bad in [
            "",
            "net",
            "net:[",
            "net:[]",
            "net:[1",
            "net:[x]",
            "net:[4294967296]",
        ] {
            assert_eq!(parse_namespace(bad), None, "{bad}");
        }
    }

    #[test]
    fn own_process_is_readable() {
        let proc = ProcFs::new(Path::new("/proc"));
        let pid = std::process::id();
        let stat = proc.stat(pid).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        let start = proc.tick_start(stat.start_ticks);
        assert!(start < super::super::clock::boot_now());
        assert!(proc.same_start(start, stat.start_ticks));
        assert!(!proc.same_start(start + proc.nanos_per_tick, stat.start_ticks));
        assert_eq!(
            proc.credentials(pid).unwrap().uid,
            rustix::process::getuid().as_raw()
        );
        assert!(proc.cgroup(pid).unwrap().starts_with('/'));
        assert_eq!(proc.namespace(pid, "net"), proc.own_namespace("net"));
        assert!(proc.pids().unwrap().any(|other| other == pid));
        let arguments = proc.arguments(pid).unwrap();
        let first = std::env::args_os().next().unwrap();
        assert!(arguments.bytes.starts_with(first.as_encoded_bytes()));
    }
}
