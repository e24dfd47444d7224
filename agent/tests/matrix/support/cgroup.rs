//! A child of the cgroup v2 root, made for one test and removed with everything in it.

use super::{seconds, wait_for};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Only processes that the test started are ever in it: it is made empty, under a name of its own.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub fn make() -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = mount()?.join(format!("tokentrail-test-{}-{number}", std::process::id()));
        std::fs::create_dir(&path)
            .with_context(|| format!("make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// A child of this one, removed by its own guard: drop it before its parent.
    pub fn child(&self, name: &str) -> Result<Self> {
        let path = self.path.join(name);
        std::fs::create_dir(&path)
            .with_context(|| format!("make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writing a pid to it moves that process.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    pub fn move_here(&self, pid: u32) -> Result<()> {
        std::fs::write(self.procs(), pid.to_string())
            .with_context(|| format!("move {pid} to {}", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // cgroup.kill is there from Linux 5.14 on, and reaches only what the test put here.
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
        let gone = wait_for(seconds(10), || {
            let empty =
                std::fs::read_to_string(self.procs()).is_ok_and(|pids| pids.trim().is_empty());
            (!self.path.exists() || (empty && std::fs::remove_dir(&self.path).is_ok()))
                .then_some(())
        });
        if gone.is_none() {
            super::say(&format!(
                "cgroup {} could not be removed",
                self.path.display()
            ));
        }
    }
}

/// Where to move a process that shall be in no test cgroup.
pub fn root_procs() -> Result<PathBuf> {
    Ok(mount()?.join("cgroup.procs"))
}

pub fn is_mounted() -> bool {
    mount().is_ok()
}

/// The mount point of cgroup v2.
fn mount() -> Result<PathBuf> {
    let text =
        std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    match mount_point(&text) {
        Some(path) => Ok(path),
        None => bail!("no cgroup v2 mount in /proc/self/mountinfo"),
    }
}

/// proc_pid_mountinfo(5): field 5 is the mount point; the type follows a lone `-`.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let is_v2 = kind.split(' ').next() == Some("cgroup2");
        is_v2.then(|| place.split(' ').nth(4).map(PathBuf::from))?
    })
}
