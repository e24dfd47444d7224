//! What the agent may observe: parsed, resolved to cgroup ids or processes, and kept current.
//!
//! The kernel asks the maps before it reads a byte (`agent-ebpf/src/scope.rs`); this file says what is in them. Units,
//! containers and cgroup paths may come back with a new cgroup: a `cgroup_mkdir` record that fits is added at once.
//!
//! Invariant: with no scope there is no start, and nothing is in the maps that the scope does not name.

use super::record::ProcessKey;
use agent_common::abi::{ProcessId, TICK};
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A cgroup v2 folder and all below it: a path below the cgroup v2 mount, with or without the mount's own path.
    Cgroup(PathBuf),
    /// A systemd unit by its whole name, wherever it lies (system and user managers).
    Unit(String),
    /// These processes, and what they fork from now on.
    Processes(Vec<u32>),
    /// A container by its id or at least 12 characters of it.
    Container(String),
    /// Everything but the agent.
    Host,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "unknown scope {0:?}: expected cgroup:PATH, unit:NAME, pid:N[,N...], container:ID or host"
    )]
    Unknown(String),
    #[error("{0:?} is not a process id")]
    NotAPid(String),
    #[error("container id {0:?} is too short: at least 12 hexadecimal digits")]
    ShortContainer(String),
    #[error(
        "no cgroup v2 file system is mounted (looked in /proc/self/mountinfo): scopes by cgroup, unit or container need it; `mount -t cgroup2 none /sys/fs/cgroup` mounts it"
    )]
    NoCgroup2,
    #[error("{path} is not a cgroup: {source}")]
    NoSuchCgroup {
        path: String,
        source: std::io::Error,
    },
    #[error("nothing in {mount} is {what}; it is not running")]
    NotRunning { what: String, mount: String },
    #[error("process {0} does not exist")]
    NoSuchProcess(u32),
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            None if text == "host" => Ok(Self::Host),
            // With `..` the level of the folder could not be told from its path.
            Some(("cgroup", path))
                if !path.is_empty() && !path.split('/').any(|part| part == "..") =>
            {
                Ok(Self::Cgroup(path.into()))
            }
            Some(("unit", name)) if !name.is_empty() && !name.contains('/') => {
                Ok(Self::Unit(name.into()))
            }
            Some(("pid", list)) => list
                .split(',')
                .map(|pid| {
                    pid.trim()
                        .parse()
                        .ok()
                        .filter(|pid| *pid > 0)
                        .ok_or_else(|| Error::NotAPid(pid.into()))
                })
                .collect::<Result<_, _>>()
                .map(Self::Processes),
            Some(("container", id)) => {
                if id.len() < 12 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(Error::ShortContainer(id.into()));
                }
                Ok(Self::Container(id.to_ascii_lowercase()))
            }
            _ => Err(Error::Unknown(text.into())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
            Self::Unit(name) => write!(f, "unit:{name}"),
            Self::Processes(pids) => {
                write!(
                    f,
                    "pid:{}",
                    pids.iter()
                        .map(u32::to_string)
                        .collect::<Vec<_>>()
                        .join(",")
                )
            }
            Self::Container(id) => write!(f, "container:{id}"),
            Self::Host => write!(f, "host"),
        }
    }
}

/// Where cgroup v2 is mounted, and how deep the mount's root lies in the hierarchy.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    pub mount: PathBuf,
    depth: u32,
}

/// A cgroup in scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The folder's inode number.
    pub id: u64,
    /// Distance from the hierarchy's root, which is level 0.
    pub level: u32,
}

impl Hierarchy {
    pub fn find() -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::parse(&mounts).ok_or(Error::NoCgroup2)
    }

    /// Format: proc_pid_mountinfo(5).
    fn parse(mounts: &str) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            if right.split(' ').next() != Some("cgroup2") {
                return None;
            }
            let mut fields = left.split(' ').skip(3);
            let root = fields.next()?;
            let mount = fields.next()?;
            Some(Self {
                mount: mount.replace("\\040", " ").into(),
                depth: components(Path::new(root)),
            })
        })
    }

    fn member(&self, folder: &Path) -> std::io::Result<Member> {
        let id = fs::metadata(folder)?.ino();
        fs::metadata(folder.join("cgroup.procs"))?;
        let below = folder.strip_prefix(&self.mount).unwrap_or(folder);
        Ok(Member {
            id,
            level: self.depth + components(below),
        })
    }

    /// `PATH` as given: absolute within the mount, or below it.
    fn folder(&self, path: &Path) -> PathBuf {
        if path.starts_with(&self.mount) {
            path.to_owned()
        } else {
            self.mount.join(path.strip_prefix("/").unwrap_or(path))
        }
    }

    /// Every cgroup folder whose name satisfies `fits`, topmost only.
    fn named(&self, fits: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.mount.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if entry.file_name().to_str().is_some_and(fits) {
                    found.push(path);
                } else {
                    folders.push(path);
                }
            }
        }
        found
    }
}

/// Pids in a cgroup and all below it.
fn members_below(folder: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        pids.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()));
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(
            below
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    pids
}

/// Entries of a folder whose names are numbers.
fn numbers_in(folder: &Path) -> Vec<u32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn components(path: &Path) -> u32 {
    path.components()
        .filter(|part| matches!(part, std::path::Component::Normal(_)))
        .count() as u32
}

/// What the scope names at this moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub members: Vec<Member>,
    pub processes: Vec<(u32, u64)>,
}

impl Scope {
    pub fn needs_cgroups(&self) -> bool {
        matches!(self, Self::Cgroup(_) | Self::Unit(_) | Self::Container(_))
    }

    pub fn resolve(&self, hierarchy: Option<&Hierarchy>) -> Result<Resolved, Error> {
        let mut resolved = Resolved::default();
        if self.needs_cgroups() {
            let hierarchy = hierarchy.ok_or(Error::NoCgroup2)?;
            resolved.members = match self {
                Self::Cgroup(path) => {
                    let folder = hierarchy.folder(path);
                    let member =
                        hierarchy
                            .member(&folder)
                            .map_err(|source| Error::NoSuchCgroup {
                                path: folder.display().to_string(),
                                source,
                            })?;
                    vec![member]
                }
                _ => self
                    .folders(hierarchy)
                    .iter()
                    .filter_map(|folder| hierarchy.member(folder).ok())
                    .collect(),
            };
            // A unit or container that is stopped may start later, but a typing error must not pass for one.
            if resolved.members.is_empty() {
                return Err(Error::NotRunning {
                    what: self.to_string(),
                    mount: hierarchy.mount.display().to_string(),
                });
            }
        }
        if let Self::Processes(pids) = self {
            for pid in pids {
                resolved
                    .processes
                    .push((*pid, start_ticks(*pid).ok_or(Error::NoSuchProcess(*pid))?));
            }
        }
        Ok(resolved)
    }

    /// Processes in the scope now: those whose files are looked at before the start.
    pub fn processes(&self, hierarchy: Option<&Hierarchy>) -> Vec<ProcessKey> {
        let pids = match self {
            Self::Processes(pids) => pids.clone(),
            Self::Host => numbers_in(Path::new("/proc")),
            _ => {
                let folders = hierarchy
                    .map(|hierarchy| self.folders(hierarchy))
                    .unwrap_or_default();
                folders
                    .iter()
                    .flat_map(|folder| members_below(folder))
                    .collect()
            }
        };
        let key = |pid| {
            Some(ProcessKey {
                pid,
                start: nanoseconds(start_ticks(pid)?),
            })
        };
        pids.into_iter().filter_map(key).collect()
    }

    /// Folders of the cgroups that the scope names now; none for scopes of another kind.
    pub(super) fn members(&self, hierarchy: &Hierarchy) -> Vec<PathBuf> {
        if self.needs_cgroups() {
            self.folders(hierarchy)
        } else {
            Vec::new()
        }
    }

    fn folders(&self, hierarchy: &Hierarchy) -> Vec<PathBuf> {
        match self {
            Self::Cgroup(path) => vec![hierarchy.folder(path)],
            _ => hierarchy.named(&|name| self.fits_name(name)),
        }
    }

    fn fits_name(&self, name: &str) -> bool {
        match self {
            Self::Unit(unit) => name == unit,
            Self::Container(id) => {
                let bare = name.strip_suffix(".scope").unwrap_or(name);
                let bare = bare.rsplit(['-', ':']).next().unwrap_or(bare);
                bare.len() == 64 && bare.starts_with(id.as_str())
            }
            _ => false,
        }
    }

    /// Whether a cgroup that was just made, with this path below the hierarchy's root, belongs to the scope.
    pub fn fits_new(&self, hierarchy: &Hierarchy, path: &str) -> Option<Member> {
        let below = Path::new(path.strip_prefix('/').unwrap_or(path));
        // The path is what the less privileged process says.
        let is_plain = |part| matches!(part, Component::Normal(_));
        if !below.components().all(is_plain) {
            return None;
        }
        let folder = hierarchy.mount.join(below);
        let fits = match self {
            Self::Cgroup(wanted) => hierarchy.folder(wanted) == folder,
            Self::Unit(_) | Self::Container(_) => below
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| self.fits_name(name)),
            Self::Processes(_) | Self::Host => false,
        };
        // The record may be of another hierarchy (cgroup v1): only what is there counts.
        fits.then(|| hierarchy.member(&folder).ok()).flatten()
    }
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)): start time in ticks since boot.
pub fn start_ticks(pid: u32) -> Option<u64> {
    Some(parent_and_start(pid)?.1)
}

/// Fields 4 and 22.
fn parent_and_start(pid: u32) -> Option<(u32, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field may hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

/// Those of `known` that still run, and what they have forked since `since` (ticks since boot), children's children
/// included. Of a process whose parent has ended meanwhile nothing tells whose it was: it is left out.
pub fn family(known: &[ProcessId], since: u64) -> Vec<ProcessId> {
    if known.is_empty() {
        return Vec::new();
    }
    let mut others = Vec::new();
    let mut family = Vec::new();
    for pid in numbers_in(Path::new("/proc")) {
        let Some((parent, start)) = parent_and_start(pid) else {
            continue;
        };
        let process = process_id(pid, start);
        if known.contains(&process) {
            family.push(process);
        } else if start >= since {
            others.push((parent, process));
        }
    }
    // From the oldest on, so that a parent is there before its children.
    others.sort_by_key(|(_, process)| process.start);
    loop {
        let before = family.len();
        others.retain(|(parent, process)| {
            let of_family = family.iter().any(|known| known.process == *parent);
            if of_family {
                family.push(*process);
            }
            !of_family
        });
        if family.len() == before {
            return family;
        }
    }
}

/// The map key of a process.
pub fn process_id(pid: u32, ticks: u64) -> ProcessId {
    ProcessId {
        start: ticks,
        process: pid,
        _pad: 0,
    }
}

/// Nanoseconds of a start time in ticks: the lower bound of the true one.
pub fn nanoseconds(ticks: u64) -> u64 {
    ticks * TICK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_shown() {
        for text in [
            "host",
            "cgroup:/a/b",
            "unit:nginx.service",
            "pid:1,22",
            "container:0123456789ab",
        ] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "hosts",
            "cgroup:",
            "cgroup:/a/../b",
            "cgroup:..",
            "unit:a/b",
            "pid:",
            "pid:0",
            "pid:1,x",
            "container:12",
            "container:zzzzzzzzzzzz",
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_family_is_who_still_runs_and_what_they_have_forked_since() {
        let own = std::process::id();
        let of = |pid| process_id(pid, start_ticks(pid).unwrap());
        let start = || {
            let mut sleep = std::process::Command::new("sleep");
            sleep.arg("600").spawn().unwrap()
        };
        let mut child = start();
        let ended = process_id(child.id(), 1);
        let since = of(child.id()).start;
        let found = family(&[of(own), ended], since);
        let later = family(&[of(own)], since + 1_000_000);
        let stranger = family(&[of(child.id())], since);
        let nobody = family(&[], 0);
        let own_and_child = [of(own), of(child.id())];
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(own_and_child.iter().all(|one| found.contains(one)));
        assert!(!found.contains(&ended));
        assert_eq!(later.len(), 1);
        assert!(stranger.len() == 1 && stranger.contains(&own_and_child[1]));
        assert!(nobody.is_empty());
    }

    #[test]
    fn hybrid_and_unified_mounts() {
        let hybrid = "25 24 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      30 24 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let found = Hierarchy::parse(hybrid).unwrap();
        assert_eq!(
            (found.mount.to_str().unwrap(), found.depth),
            ("/sys/fs/cgroup/unified", 0)
        );
        let inside = "30 24 0:26 /kubepods/pod1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchy::parse(inside).unwrap().depth, 2);
        assert!(Hierarchy::parse("25 24 0:22 / /x rw - cgroup cgroup rw\n").is_none());
    }

    #[test]
    fn container_folder_names() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let scope: Scope = "container:0123456789ab".parse().unwrap();
        for name in [
            id.to_owned(),
            format!("docker-{id}.scope"),
            format!("libpod-{id}.scope"),
            format!("crio-{id}.scope"),
            format!("cri-containerd-{id}.scope"),
        ] {
            assert!(scope.fits_name(&name), "{name}");
        }
        assert!(!scope.fits_name(
            "docker-ffff456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"
        ));
        assert!(!scope.fits_name("0123456789ab"));
    }

    #[test]
    fn this_process_has_a_start_time() {
        let pid = std::process::id();
        let resolved = Scope::Processes(vec![pid]).resolve(None).unwrap();
        assert_eq!(resolved.processes, [(pid, start_ticks(pid).unwrap())]);
        assert!(nanoseconds(resolved.processes[0].1) <= crate::kernel::decode::now());
    }

    /// A folder that looks like a hierarchy.
    fn hierarchy(folders: &[&str]) -> (tempfile::TempDir, Hierarchy) {
        let root = tempfile::tempdir().unwrap();
        for folder in ["", "not"].iter().chain(folders) {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for folder in [""].iter().chain(folders) {
            fs::write(root.path().join(folder).join("cgroup.procs"), "").unwrap();
        }
        let mount = root.path().to_owned();
        (root, Hierarchy { mount, depth: 1 })
    }

    fn level(scope: &str, hierarchy: &Hierarchy) -> Result<Vec<u32>, String> {
        let scope: Scope = scope.parse().unwrap();
        let resolved = scope.resolve(Some(hierarchy));
        resolved
            .map(|resolved| resolved.members.iter().map(|member| member.level).collect())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn scopes_resolve_to_folders_and_their_levels() {
        let id = "0123456789abcdef".repeat(4);
        let container = format!("machine.slice/docker-{id}.scope");
        let user = "user.slice/user-7.slice/a.service";
        let (root, hierarchy) = hierarchy(&[
            "system.slice/a.service/inner",
            "system.slice/a.service",
            user,
            &container,
        ]);
        let full = format!("cgroup:{}/system.slice/a.service", root.path().display());
        assert_eq!(
            level("cgroup:/system.slice/a.service", &hierarchy),
            Ok(vec![3])
        );
        assert_eq!(level(&full, &hierarchy), Ok(vec![3]));
        assert_eq!(level("cgroup:/", &hierarchy), Ok(vec![1]));
        assert_eq!(level("container:0123456789ab", &hierarchy), Ok(vec![3]));
        let mut units = level("unit:a.service", &hierarchy).unwrap();
        units.sort_unstable();
        assert_eq!(units, [3, 4], "in the system's manager and in a user's");
        // A folder that is no cgroup, one that is not there, a unit that does not run, a part of a name.
        for scope in [
            "cgroup:/not",
            "cgroup:/gone",
            "unit:b.service",
            "unit:a",
            "container:ffffffffffff",
        ] {
            let error = level(scope, &hierarchy).unwrap_err();
            let name = scope.split_once(':').unwrap().1;
            assert!(error.contains(name), "{error}");
        }
        assert!(Scope::Host.resolve(None).unwrap() == Resolved::default());
        assert!("unit:a".parse::<Scope>().unwrap().resolve(None).is_err());
    }

    #[test]
    fn a_cgroup_that_comes_back_is_known_by_its_name() {
        let (_root, hierarchy) =
            hierarchy(&["system.slice/a.service", "system.slice/b.service", "a"]);
        let fits = |scope: &str, path: &str| {
            let member = scope.parse::<Scope>().unwrap().fits_new(&hierarchy, path);
            member.map(|member| member.level)
        };
        let path = "/system.slice/a.service";
        assert_eq!(fits("unit:a.service", path), Some(3));
        assert_eq!(fits("cgroup:/system.slice/a.service", path), Some(3));
        assert_eq!(fits("cgroup:system.slice/a.service", path), Some(3));
        assert_eq!(fits("unit:b.service", path), None);
        assert_eq!(
            fits("cgroup:/system.slice", path),
            None,
            "below it is in scope already"
        );
        assert_eq!(
            fits("unit:a.service", "/elsewhere/a.service"),
            None,
            "of another hierarchy"
        );
        assert_eq!(fits("host", path), None);
        assert_eq!(fits("pid:1", path), None);
    }
}
