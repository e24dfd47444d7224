//! A child of the cgroup v2 root, made for one test and removed with everything in it.

use super::process::Place;
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
        Self::make_with_suffix("")
    }

    /// Its name ends so: `.service` makes it look like a unit to whoever looks at cgroups alone.
    pub fn make_with_suffix(suffix: &str) -> Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tokentrail-test-{}-{number}{suffix}", std::process::id());
        Self::make_at(mount()?.join(name))
    }

    fn make_at(path: PathBuf) -> Result<Self> {
        std::fs::create_dir(&path)
            .with_context(|| format!("make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// A child of this one, removed by its own guard: drop it before its parent.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make_at(self.path.join(name))
    }

    /// The folder's own name.
    pub fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// As processes see it in `/proc/PID/cgroup`.
    pub fn path_in_hierarchy(&self) -> Result<PathBuf> {
        Ok(Path::new("/").join(self.path.strip_prefix(mount()?)?))
    }

    /// Ends what is in it, removes it, and makes it again: what a unit's restart does.
    pub fn renew(&self) -> Result<()> {
        self.remove()?;
        std::fs::create_dir(&self.path)
            .with_context(|| format!("make {} again", self.path.display()))
    }

    fn remove(&self) -> Result<()> {
        // cgroup.kill is there from Linux 5.14 on, and reaches only what the test put here.
        let _ = std::fs::write(self.path.join("cgroup.kill"), "1");
        let gone = wait_for(seconds(10), || {
            let empty =
                std::fs::read_to_string(self.procs()).is_ok_and(|pids| pids.trim().is_empty());
            (!self.path.exists() || (empty && std::fs::remove_dir(&self.path).is_ok()))
                .then_some(())
        });
        gone.with_context(|| format!("remove the cgroup {}", self.path.display()))
    }

    pub fn place(&self) -> Place {
        Place {
            procs: Some(self.procs()),
            user: None,
        }
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
        if let Err(error) = self.remove() {
            super::say(&format!("{error:#}"));
        }
    }
}

/// A cgroup v2 file system is mounted somewhere.
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
