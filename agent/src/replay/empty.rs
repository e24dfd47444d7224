//! A procfs without processes, with one empty cgroup hierarchy.

use std::{
    fs::{DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// How many names are tried.
const NAMES: u32 = 100;

/// The folder; gone when this is.
pub struct EmptyProc {
    root: PathBuf,
    proc: PathBuf,
}

impl EmptyProc {
    pub fn make() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut last = io::ErrorKind::AlreadyExists.into();
        for _ in 0..NAMES {
            let name = format!(
                "tokentrail-replay-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            );
            let root = std::env::temp_dir().join(name);
            // Made, never taken over: whoever can guess the name must not choose where the rest is written.
            match DirBuilder::new().mode(0o700).create(&root) {
                Ok(()) => return Self::fill(root),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn fill(root: PathBuf) -> io::Result<Self> {
        let empty = Self {
            proc: root.join("proc"),
            root,
        };
        let groups = empty.root.join("cgroup");
        for folder in [&groups, &empty.proc, &empty.proc.join("self")] {
            DirBuilder::new().mode(0o700).create(folder)?;
        }
        let mut mounts = File::create_new(empty.proc.join("self/mountinfo"))?;
        writeln!(
            mounts,
            "1 0 0:1 / {} rw - cgroup2 none rw",
            groups.display()
        )?;
        Ok(empty)
    }

    pub fn path(&self) -> &Path {
        &self.proc
    }
}

impl Drop for EmptyProc {
    fn drop(&mut self) {
        // It stays behind at worst: an empty folder among temporary files.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}
