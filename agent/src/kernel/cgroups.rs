//! The privileged process's own watch over cgroups of the scope that come back.
//!
//! The probes tell the worker of every new cgroup, and the worker tells this process; that is one process too many where
//! a unit restarts and its first request follows at once. So the folders in which the scope's cgroups lie are watched
//! (inotify(7), which kernfs tells of folders that a program makes). What comes back elsewhere comes through the worker.
//!
//! Invariant: at most [`FOLDERS`] watches, and what they say is only a reason to look.

use super::scope::{Hierarchy, Scope};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Folders that are watched.
const FOLDERS: usize = 1_024;

/// The watched folders.
pub struct Watch {
    inotify: OwnedFd,
    /// By the number of the watch: path below the hierarchy's mount.
    folders: HashMap<i32, PathBuf>,
}

impl Watch {
    /// Over the folders in which the cgroups lie that the scopes name now. `None` if there is nothing to watch.
    ///
    /// # Errors
    /// If the user has too many watches already.
    pub fn over(scopes: &[Scope], hierarchy: &Hierarchy) -> Result<Option<Self>, Errno> {
        let inotify = init(CreateFlags::CLOEXEC)?;
        let mut folders = HashMap::new();
        let members = scopes.iter().flat_map(|scope| scope.members(hierarchy));
        for folder in members.filter_map(|member| member.parent().map(Path::to_owned)) {
            let Ok(below) = folder.strip_prefix(&hierarchy.mount) else {
                continue;
            };
            if folders.len() < FOLDERS {
                let flags = WatchFlags::CREATE | WatchFlags::ONLYDIR;
                folders.insert(add_watch(&inotify, &folder, flags)?, below.to_owned());
            }
        }
        Ok((!folders.is_empty()).then_some(Self { inotify, folders }))
    }

    /// Waits, and calls `made` with the path of each new folder as the hierarchy has it, until `made` says that it is
    /// enough.
    ///
    /// # Errors
    /// Those of reading.
    pub fn each(&self, mut made: impl FnMut(String) -> bool) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut space);
        loop {
            let event = match reader.next() {
                Err(Errno::INTR) => continue,
                event => event?,
            };
            let path = event
                .file_name()
                .zip(self.folders.get(&event.wd()))
                .and_then(|(name, folder)| {
                    let path = Path::new("/").join(folder).join(name.to_str().ok()?);
                    path.to_str().map(str::to_owned)
                })
                .filter(|_| event.events().contains(ReadFlags::ISDIR));
            if let Some(path) = path
                && !made(path)
            {
                return Ok(());
            }
        }
    }
}
