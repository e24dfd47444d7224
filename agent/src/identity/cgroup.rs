//! From a cgroup id to its path.
//!
//! The id that comes with a call is the inode number of the cgroup's folder (`cgroup_id`, kernel/cgroup). First
//! `/proc/PID/cgroup` is asked, if the folder that it names has that inode; else the hierarchy is walked. Ids
//! are not used twice in one boot and cgroup v2 cannot rename, so an answer holds for good. A group that was
//! removed before it was looked up stays without a path.
//!
//! Invariant: at most one walk per [`WALK_EVERY`], each over at most [`WALK_LIMIT`] folders.

use super::Error;
use super::placement::Placement;
use super::procfs::ProcFs;
use lru::LruCache;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const CACHE: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");
const WALK_EVERY: Duration = Duration::from_millis(100);
const WALK_LIMIT: usize = 65_536;

/// The cgroup v2 hierarchy, with the paths found so far.
pub struct Cgroups {
    mount: PathBuf,
    proc: ProcFs,
    known: LruCache<u64, Arc<Placement>>,
    walked: Option<Instant>,
}

impl Cgroups {
    /// The hierarchy that `mountinfo` of this process shows.
    ///
    /// # Errors
    /// [`Error::NoCgroup2`] where none is mounted, [`Error::Read`] if `mountinfo` cannot be read.
    pub fn find(proc: &ProcFs) -> Result<Self, Error> {
        let path = proc.own("self/mountinfo");
        let mounts = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        let mount =
            parse_mountinfo(&String::from_utf8_lossy(&mounts)).ok_or(Error::NoCgroup2(path))?;
        Ok(Self {
            mount,
            proc: proc.clone(),
            known: LruCache::new(CACHE),
            walked: None,
        })
    }

    /// Where the hierarchy is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Id of the cgroup at `path` below the hierarchy's root.
    ///
    /// # Errors
    /// Those of `stat`.
    pub fn id(&self, path: &str) -> std::io::Result<u64> {
        Ok(std::fs::metadata(self.folder(path))?.ino())
    }

    /// Path of cgroup `id`, and what it says. `pid` is a process that is probably in it.
    pub fn place(&mut self, id: u64, pid: Option<u32>) -> Option<Arc<Placement>> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        if let Some(path) = pid.and_then(|pid| self.proc.cgroup(pid))
            && self.id(&path).is_ok_and(|found| found == id)
        {
            return Some(self.learn(id, &path));
        }
        if self
            .walked
            .is_none_or(|walked| walked.elapsed() >= WALK_EVERY)
        {
            self.walk();
            self.walked = Some(Instant::now());
        }
        self.known.get(&id).cloned()
    }

    fn learn(&mut self, id: u64, path: &str) -> Arc<Placement> {
        let placement = Arc::new(Placement::parse(path));
        self.known.put(id, placement.clone());
        placement
    }

    fn folder(&self, path: &str) -> PathBuf {
        self.mount.join(path.trim_start_matches('/'))
    }

    fn walk(&mut self) {
        if let Ok(root) = self.id("/") {
            self.learn(root, "/");
        }
        let mut waiting = VecDeque::from([String::new()]);
        let mut seen = 0;
        while let Some(path) = waiting.pop_front() {
            let Ok(entries) = std::fs::read_dir(self.folder(&path)) else {
                continue;
            };
            let folders = entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            for entry in folders {
                if seen == WALK_LIMIT {
                    return;
                }
                seen += 1;
                let path = format!("{path}/{}", entry.file_name().to_string_lossy());
                if !self.known.contains(&entry.ino()) {
                    self.learn(entry.ino(), &path);
                }
                waiting.push_back(path);
            }
        }
    }
}

/// Mount point of the cgroup v2 hierarchy: the one whose root is the hierarchy's, else the first.
/// Form: `38 31 0:29 / /sys/fs/cgroup rw,... - cgroup2 cgroup2 rw` (proc_pid_mountinfo(5)).
pub(super) fn parse_mountinfo(text: &str) -> Option<PathBuf> {
    let mut mounts = text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        Some((fields.next()?, fields.next()?))
    });
    let first = mounts.next()?;
    let (_, point) = if first.0 == "/" {
        first
    } else {
        mounts.find(|(root, _)| *root == "/").unwrap_or(first)
    };
    Some(PathBuf::from(unescape(point)))
}

/// `\040` and its kin.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part
            .get(..3)
            .and_then(|octal| u8::from_str_radix(octal, 8).ok())
        {
            Some(byte) if byte.is_ascii() => {
                out.push(char::from(byte));
                out.push_str(&part[3..]);
            }
            _ => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_forms() {
        for (text, expected) in [
            ("", None),
            (
                "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                Some("/sys/fs/cgroup"),
            ),
            (
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n38 31 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw",
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                "1 1 0:1 /a /x rw - cgroup2 c rw\n2 1 0:1 / /y rw - cgroup2 c rw",
                Some("/y"),
            ),
            ("1 1 0:1 /a /x rw - cgroup2 c rw", Some("/x")),
            ("1 1 0:1 / /a\\040b rw - cgroup2 c rw", Some("/a b")),
            ("1 1 0:1 / /a\\9b rw - cgroup2 c rw", Some("/a\\9b")),
            ("1 1 0:1 / /x rw - cgroup cgroup rw", None),
            ("1 1 - cgroup2", None),
        ] {
            assert_eq!(parse_mountinfo(text), expected.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn own_group_is_found_with_and_without_a_process() {
        let proc = ProcFs::new(Path::new("/proc"));
        let Ok(mut cgroups) = Cgroups::find(&proc) else {
            println!("skipped: no cgroup v2 hierarchy here");
            return;
        };
        let path = proc.cgroup(std::process::id()).unwrap();
        let id = cgroups.id(&path).unwrap();
        assert_eq!(
            cgroups.place(id, Some(std::process::id())).unwrap().path,
            path
        );
        let mut cgroups = Cgroups::find(&proc).unwrap();
        assert_eq!(cgroups.place(id, None).unwrap().path, path);
        assert_eq!(cgroups.place(u64::MAX, Some(1)), None);
    }

    #[test]
    fn a_removed_group_keeps_its_path() {
        let proc = ProcFs::new(Path::new("/proc"));
        let Ok(mut cgroups) = Cgroups::find(&proc) else {
            println!("skipped: no cgroup v2 hierarchy here");
            return;
        };
        let name = format!("tokentrail-test-{}", std::process::id());
        let folder = cgroups.mount().join(&name);
        if std::fs::create_dir(&folder).is_err() {
            println!("skipped: may not make cgroups here");
            return;
        }
        let id = cgroups.id(&name).unwrap();
        let before = cgroups.place(id, None);
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(before.unwrap().path, format!("/{name}"));
        assert_eq!(cgroups.place(id, None).unwrap().path, format!("/{name}"));
    }
}
