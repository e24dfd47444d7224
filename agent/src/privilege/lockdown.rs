//! What each process does to itself before it begins.
//!
//! The order matters: what needs rights comes before the rights go, and the system calls that all of it needs before the
//! filter. Everything holds for the calling thread and those that it makes: it is to be called while there is no other.

use super::capabilities::{self, KEPT, When};
use super::{filter, folders};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, capabilities as read_capabilities, no_new_privs, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there are threads already, which would not be locked down")]
    Threads,
    #[error("cannot change to user {user}, group {group}: {errno}")]
    User { user: u32, group: u32, errno: Errno },
    #[error("cannot give up capabilities: {0}")]
    Capabilities(Errno),
    #[error("cannot forbid new privileges: {0}")]
    Privileges(Errno),
    #[error("cannot forbid dumps: {0}")]
    Dumps(Errno),
    #[error(transparent)]
    Filter(#[from] filter::Error),
    #[error(transparent)]
    Folders(#[from] folders::Error),
    #[error("cannot make the folder {path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot bound what the process takes: {0}")]
    Limits(Errno),
    #[error("capabilities are left that were given up")]
    Left,
}

/// What a worker is locked down to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    /// User and group id; `None` stays who it is.
    pub user: Option<(u32, u32)>,
    pub allowed: folders::Allowed,
    /// Made with mode 0700 by the worker's own user where they are missing, the last folder of each path alone:
    /// Landlock's rules are about what is there.
    pub make: Vec<PathBuf>,
    /// The C library may load its name services.
    pub libraries: bool,
}

/// Locks the worker down. Gives what this kernel or this start does not allow, in words.
///
/// # Errors
/// If anything fails that every supported kernel has: then nothing may be read.
pub fn worker(worker: &Worker) -> Result<Vec<String>, Error> {
    alone()?;
    // The library reads the auxiliary vector once, which a process that is not dumpable may not when its user changed.
    let _ = rustix::param::clock_ticks_per_second();
    no_dumps()?;
    let mut weaker = Vec::new();
    if has_any()? {
        weaker.extend(capabilities::close_sources(CapabilitySet::empty()));
    }
    if let Some((user, group)) = worker.user {
        become_user(user, group).map_err(|errno| Error::User { user, group, errno })?;
        // A change of user makes a process dumpable by its new user again, or not, as fs.suid_dumpable says.
        no_dumps()?;
    }
    capabilities::keep(CapabilitySet::empty()).map_err(Error::Capabilities)?;
    set_no_new_privs(true).map_err(Error::Privileges)?;
    for path in &worker.make {
        make(path)?;
    }
    weaker.extend(folders::weaker(folders::restrict(&worker.allowed)?));
    let left = read_capabilities(None).map_err(Error::Capabilities)?;
    if !(left.effective | left.permitted | left.inheritable).is_empty()
        || !no_new_privs().map_err(Error::Privileges)?
    {
        return Err(Error::Left);
    }
    filter::worker(worker.libraries)?;
    Ok(weaker)
}

/// Memory of its own that each of the finder's processes may have: what all searches at once can need, twice.
const FINDER_MEMORY: u64 = 1 << 30;
/// Addresses that it may use, most of them for what the allocator holds in reserve for each thread.
const FINDER_ADDRESSES: u64 = 32 << 30;
/// Descriptors: one for each search that may be under way, and some.
const FINDER_DESCRIPTORS: u64 = 128;

/// Locks the finder's supervisor down, and with it the processes that it will make: no rights, no files but those that it
/// is handed. `user` as for the worker. Gives what this kernel does not allow, in words.
///
/// # Errors
/// As [`worker`].
pub fn finder(user: Option<(u32, u32)>) -> Result<Vec<String>, Error> {
    alone()?;
    // As for the worker.
    let _ = rustix::param::clock_ticks_per_second();
    no_dumps()?;
    let mut weaker = Vec::new();
    if has_any()? {
        weaker.extend(capabilities::close_sources(CapabilitySet::empty()));
    }
    if let Some((user, group)) = user {
        become_user(user, group).map_err(|errno| Error::User { user, group, errno })?;
        no_dumps()?;
    }
    capabilities::keep(CapabilitySet::empty()).map_err(Error::Capabilities)?;
    set_no_new_privs(true).map_err(Error::Privileges)?;
    for (resource, most) in [
        (Resource::Core, 0),
        (Resource::Data, FINDER_MEMORY),
        (Resource::As, FINDER_ADDRESSES),
        (Resource::Nofile, FINDER_DESCRIPTORS),
    ] {
        limit(resource, most).map_err(Error::Limits)?;
    }
    let allowed = folders::Allowed::default();
    weaker.extend(folders::weaker(folders::restrict(&allowed)?));
    let left = read_capabilities(None).map_err(Error::Capabilities)?;
    if !(left.effective | left.permitted | left.inheritable).is_empty()
        || !no_new_privs().map_err(Error::Privileges)?
    {
        return Err(Error::Left);
    }
    filter::supervisor()?;
    Ok(weaker)
}

/// Not above what it is already.
fn limit(resource: Resource, most: u64) -> Result<(), Errno> {
    let most = getrlimit(resource).maximum.unwrap_or(most).min(most);
    setrlimit(
        resource,
        Rlimit {
            current: Some(most),
            maximum: Some(most),
        },
    )
}

/// Reduces the privileged process to [`KEPT`]; `other_user` if the worker has one of its own. `points_work` tries
/// whether key-log points can be attached. Gives what is left, and what this start does not allow.
///
/// # Errors
/// As [`worker`].
pub fn privileged(
    other_user: bool,
    mut points_work: impl FnMut() -> bool,
) -> Result<(CapabilitySet, Vec<String>), Error> {
    alone()?;
    no_dumps()?;
    let had = capabilities::effective().map_err(Error::Capabilities)?;
    // With all rights first: where that fails, nothing is won by keeping them.
    let works_at_all = points_work();
    let mut kept = CapabilitySet::empty();
    for candidate in KEPT {
        kept.set(
            candidate.capability,
            match candidate.when {
                When::Always => true,
                When::OtherUser => other_user,
                When::PointsAskForIt => {
                    !had.contains(CapabilitySet::CHECKPOINT_RESTORE)
                        || works_at_all
                            && !without(had, CapabilitySet::SYS_ADMIN, &mut points_work)?
                }
            },
        );
    }
    let weaker = capabilities::close_sources(kept);
    capabilities::keep(kept).map_err(Error::Capabilities)?;
    set_no_new_privs(true).map_err(Error::Privileges)?;
    filter::privileged()?;
    let left = capabilities::effective().map_err(Error::Capabilities)?;
    Ok((left, weaker))
}

/// Reduces the watch to what the keeper needs, which it starts: `kept` stays permitted and is not in effect. Gives what
/// this start does not allow.
///
/// # Errors
/// As [`worker`].
pub fn keeper(kept: CapabilitySet) -> Result<Vec<String>, Error> {
    // A thread that was waited for is listed for a moment.
    let until = Instant::now() + Duration::from_secs(1);
    while alone().is_err() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    alone()?;
    no_dumps()?;
    let weaker = capabilities::close_sources(kept);
    capabilities::keep(kept).map_err(Error::Capabilities)?;
    capabilities::set_effective(CapabilitySet::empty()).map_err(Error::Capabilities)?;
    set_no_new_privs(true).map_err(Error::Privileges)?;
    Ok(weaker)
}

fn without(
    had: CapabilitySet,
    less: CapabilitySet,
    tried: impl FnOnce() -> bool,
) -> Result<bool, Error> {
    capabilities::set_effective(had.difference(less)).map_err(Error::Capabilities)?;
    let works = tried();
    capabilities::set_effective(had).map_err(Error::Capabilities)?;
    Ok(works)
}

/// What this kernel has, for `doctor`.
#[derive(Debug, serde::Serialize)]
pub struct Available {
    pub seccomp: bool,
    /// `None`: no Landlock.
    pub landlock_abi: Option<u32>,
    pub weaker: Vec<String>,
}

/// Finds out what this kernel has.
#[must_use]
pub fn available() -> Available {
    let seccomp = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
        .is_ok_and(|actions| actions.split_whitespace().any(|one| one == "kill_process"));
    let landlock_abi = folders::available();
    let mut weaker = folders::weaker(landlock_abi);
    if !seccomp {
        weaker.insert(
            0,
            "no filters of system calls that end a process (CONFIG_SECCOMP_FILTER, Linux 4.14): the agent does not \
             start"
                .to_owned(),
        );
    }
    Available {
        seccomp,
        landlock_abi,
        weaker,
    }
}

fn alone() -> Result<(), Error> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads > 1 {
        return Err(Error::Threads);
    }
    Ok(())
}

fn has_any() -> Result<bool, Error> {
    let sets = read_capabilities(None).map_err(Error::Capabilities)?;
    Ok(!(sets.permitted | sets.inheritable).is_empty())
}

fn make(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::Folder {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

fn no_dumps() -> Result<(), Error> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::Dumps)
}

fn become_user(user: u32, group: u32) -> Result<(), Errno> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}
