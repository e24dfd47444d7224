//! A cgroup of our own below the cgroup v2 mount: the demo's scope, and the way to end all that is in it.
//!
//! A machine may have cgroup v2 beside version 1 (`/sys/fs/cgroup/unified`), at its usual place, or not mounted; in
//! the last case it is mounted for as long as the demo runs.
//!
//! Invariant: when the value is gone, so are the processes in the cgroup, the cgroup, and a mount that was made.

use crate::process;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const PREFIX: &str = "tokentrail-demo-";
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Cgroup {
    folder: PathBuf,
    /// Dropped after the folder has been removed.
    _mount: Option<Mount>,
}

impl Cgroup {
    /// `spare` is where cgroup v2 is mounted if it is mounted nowhere.
    pub fn make(spare: &Path) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let (root, mount) = match mount_point(&mounts) {
            Some(root) => (root, None),
            None => (spare.to_path_buf(), Some(Mount::make(spare)?)),
        };
        remove_left_over(&root);
        let folder = root.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder,
            _mount: mount,
        })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command that enters the cgroup before it becomes `program`: same process id, whole life in scope.
    pub fn command(&self, program: &Path) -> Command {
        enter(&self.folder, program)
    }
}

/// As [`Cgroup::command`], into a cgroup below.
pub fn enter(folder: &Path, program: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "echo $$ >\"$0\" && exec \"$@\""])
        .arg(folder.join("cgroup.procs"))
        .arg(program);
    command
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// A cgroup below another one; ended and removed before that one.
pub struct Below(PathBuf);

impl Below {
    pub fn make(parent: &Path, name: &str) -> Result<Self> {
        let folder = parent.join(name);
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Ends everything in the cgroup and removes it.
fn remove(folder: &Path) {
    let start = Instant::now();
    loop {
        let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        // cgroup.kill came with Linux 5.14; it also gets what forks meanwhile.
        if !members.is_empty() && fs::write(folder.join("cgroup.kill"), "1").is_err() {
            for pid in members.lines().filter_map(|line| line.parse().ok()) {
                // It ended by itself meanwhile.
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        // Busy until the last process has been reaped.
        if fs::remove_dir(folder).is_ok() || !folder.exists() || start.elapsed() > PATIENCE {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What a demo left that was ended by SIGKILL: its name says which process made it.
fn remove_left_over(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if maker.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
}

/// Where cgroup v2 is mounted (proc_pid_mountinfo(5)).
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (kind.split(' ').next() == Some("cgroup2"))
            .then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

struct Mount {
    point: PathBuf,
}

impl Mount {
    fn make(point: &Path) -> Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("cannot make {}", point.display()))?;
        process::output(
            Command::new("mount")
                .args(["-t", "cgroup2", "none"])
                .arg(point),
        )
        .context("this system has no cgroup v2 mounted, and mounting it failed")?;
        Ok(Self {
            point: point.to_path_buf(),
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = process::output(Command::new("umount").arg(&self.point));
        let _ = fs::remove_dir(&self.point);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_wherever_it_is() {
        for (text, expected) in [
            (
                "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
                Some("/sys/fs/cgroup/unified"),
            ),
            (
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
                None,
            ),
            (
                "30 23 0:26 / /a\\040b rw shared:4 - cgroup2 cgroup2 rw\n",
                Some("/a b"),
            ),
            ("", None),
        ] {
            assert_eq!(mount_point(text), expected.map(PathBuf::from));
        }
    }
}
