//! Files in folders that may be executed, or mapped as code, later: listed below a root, and never outside of it.
//!
//! Links are followed within the root, to files alone: a link to a folder is not walked into, so that there are no loops.
//!
//! Invariant: bounded by number of entries, folders, files and time, whatever is there.

use super::view::{self, Handle};
use crate::kernel::device::Mounts;
use agent_common::abi;
use rustix::fs::{FileType, Statx};
use std::{
    collections::{HashSet, VecDeque},
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    time::Instant,
};

/// Entries that are looked at in one visit, folders among them, and files that it may give.
const ENTRIES: usize = 50_000;
const FOLDERS: usize = 2_048;
const FILES: usize = 4_096;
/// Folders whose times are remembered, so that a visit can be left out where nothing has changed.
const STAMPS: usize = 64;
/// Smallest file that can hold anything: an ELF head.
pub const LEAST: u64 = 64;
/// Files up to this size are searched within a millisecond when they are executed: others go before them.
const SMALL: u64 = 1024 * 1024;
/// What is in the path of a Python library that speaks TLS, in small letters.
const TLS_NAMES: &[&str] = &[
    "ssl", "tls", "crypto", "grpc", "psycopg", "curl", "quic", "http", "primp", "impit",
];

/// Which files are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// Those that may be executed.
    Programs,
    /// Python's native libraries, by names that suggest TLS.
    PythonLibraries,
    /// Node's native libraries.
    NodeLibraries,
}

/// A folder to visit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Folder {
    /// From the root.
    pub path: PathBuf,
    /// How many folders further down.
    pub depth: usize,
    pub what: What,
}

/// A file to be searched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// From the root.
    pub path: PathBuf,
    pub state: abi::File,
    /// Device and inode number as `stat` gives them.
    pub id: (u64, u64),
}

/// When a folder's entries changed last, by its path.
pub type Stamp = (PathBuf, Option<(i64, u32)>);

/// What a visit gave.
#[derive(Debug, Default)]
pub struct Visit {
    /// In the order in which they are to be searched.
    pub candidates: Vec<Candidate>,
    /// The folders that were listed; empty if there were too many to remember.
    pub stamps: Vec<Stamp>,
    /// A bound was met.
    pub cut: bool,
}

impl Folder {
    pub fn programs(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            depth: 0,
            what: What::Programs,
        }
    }
}

impl What {
    /// By its path below the visited folder.
    fn may_be(self, path: &Path) -> bool {
        match self {
            Self::Programs => true,
            Self::NodeLibraries => path.extension() == Some(OsStr::new("node")),
            Self::PythonLibraries => {
                let name = path.file_name().unwrap_or_default().as_bytes();
                let library =
                    name.ends_with(b".so") || memchr::memmem::find(name, b".so.").is_some();
                let whole = path.as_os_str().as_bytes().to_ascii_lowercase();
                let suggests =
                    |word: &&str| memchr::memmem::find(&whole, word.as_bytes()).is_some();
                library && TLS_NAMES.iter().any(suggests)
            }
        }
    }

    fn is(self, handle: &Handle) -> bool {
        handle.stat.stx_size >= LEAST && (self != Self::Programs || handle.is_executable())
    }
}

/// Folders that were listed, by what was looked for and by device and inode number: many have several names.
pub type Listed = HashSet<(What, (u64, u64))>;

/// Visits a folder until `until`, but no folder that is `listed` already. Files whose state is not `wanted` are left out.
pub fn visit(
    root: &OwnedFd,
    folder: &Folder,
    listed: &mut Listed,
    mounts: &Mounts,
    wanted: impl Fn(&abi::File) -> bool,
    until: Instant,
) -> Visit {
    let mut visit = Visit::default();
    let mut files = HashSet::new();
    let (mut entries, mut folders) = (0, 1);
    let mut next = VecDeque::from([(folder.path.clone(), 0)]);
    while let Some((path, depth)) = next.pop_front() {
        let Some((list, stamp)) = open(root, &path, folder.what, listed) else {
            continue;
        };
        visit.stamps.push((path.clone(), Some(stamp)));
        for entry in list.map_while(Result::ok) {
            entries += 1;
            let full = entries > ENTRIES || visit.candidates.len() >= FILES;
            if full || Instant::now() >= until {
                visit.cut = true;
                return visit.in_order();
            }
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name));
            let kind = entry.file_type();
            if matches!(kind, FileType::Directory | FileType::Unknown) && depth < folder.depth {
                if folders < FOLDERS {
                    folders += 1;
                    next.push_back((path.clone(), depth + 1));
                } else {
                    visit.cut = true;
                }
            }
            let may_be_file = matches!(
                kind,
                FileType::RegularFile | FileType::Symlink | FileType::Unknown
            );
            let below = path.strip_prefix(&folder.path).unwrap_or(&path);
            if !may_be_file || !folder.what.may_be(below) {
                continue;
            }
            let Ok(handle) = view::below(root, &path).and_then(Handle::new) else {
                continue;
            };
            let id = view::id(&handle.stat);
            if !folder.what.is(&handle) || !files.insert(id) {
                continue;
            }
            let state = handle.state(mounts);
            if wanted(&state) {
                visit.candidates.push(Candidate { path, state, id });
            }
        }
    }
    visit.in_order()
}

/// A folder that was not listed before, and when its entries changed.
fn open(
    root: &OwnedFd,
    path: &Path,
    what: What,
    listed: &mut Listed,
) -> Option<(rustix::fs::Dir, (i64, u32))> {
    let handle = view::below(root, path).ok()?;
    let stat = view::attributes(&handle).ok()?;
    if view::kind(&stat) != FileType::Directory || !listed.insert((what, view::id(&stat))) {
        return None;
    }
    Some((view::list(&handle).ok()?, changed(&stat)))
}

fn changed(stat: &Statx) -> (i64, u32) {
    (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// Large ones first, and among these the smaller ones: what is small is searched soon enough when it is executed.
pub fn put_in_order(candidates: &mut [Candidate]) {
    candidates.sort_by_key(|candidate| (candidate.state.size < SMALL, candidate.state.size));
}

impl Visit {
    /// See [`put_in_order`].
    fn in_order(mut self) -> Self {
        put_in_order(&mut self.candidates);
        if self.stamps.len() > STAMPS || self.cut {
            self.stamps.clear();
        }
        self
    }
}

/// Whether one of these folders has other entries than it had. True if none is known.
pub fn have_changed(root: &OwnedFd, stamps: &[Stamp]) -> bool {
    let now = |path: &Path| {
        let handle = view::below(root, path).ok()?;
        Some(changed(&view::attributes(&handle).ok()?))
    };
    stamps.is_empty() || stamps.iter().any(|(path, stamp)| now(path) != *stamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, Permissions},
        os::unix::fs::{PermissionsExt as _, symlink},
        time::Duration,
    };

    /// A folder that is a root.
    struct Root(tempfile::TempDir);

    impl Root {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self, name: &str, mode: u32, size: usize) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, vec![0; size]).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }

        fn handle(&self) -> OwnedFd {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            rustix::fs::open(self.0.path(), flags, rustix::fs::Mode::empty()).unwrap()
        }

        fn visit(&self, folder: &Folder) -> Visit {
            let until = Instant::now() + Duration::from_secs(600);
            self.visit_until(folder, until, |_| true)
        }

        fn visit_until(
            &self,
            folder: &Folder,
            until: Instant,
            wanted: impl Fn(&abi::File) -> bool,
        ) -> Visit {
            let (root, mut listed) = (self.handle(), Listed::default());
            visit(
                &root,
                folder,
                &mut listed,
                &Mounts::default(),
                wanted,
                until,
            )
        }

        fn names(&self, folder: &Folder) -> Vec<String> {
            let paths = self.visit(folder).candidates;
            let mut names: Vec<String> = paths
                .iter()
                .map(|candidate| candidate.path.display().to_string())
                .collect();
            names.sort();
            names
        }
    }

    fn walk(path: &str, depth: usize) -> Folder {
        Folder {
            depth,
            ..Folder::programs(path)
        }
    }

    #[test]
    fn programs_of_a_folder_each_once_and_nothing_else() {
        let root = Root::new();
        root.file("usr/bin/program", 0o755, 100);
        root.file("usr/bin/data", 0o644, 100);
        root.file("usr/bin/tiny", 0o755, 10);
        root.file("usr/bin/further/below", 0o755, 100);
        root.file("opt/elsewhere", 0o755, 100);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.path("usr/bin/fifo"),
            FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        for (name, to) in [
            ("again", "program"),
            ("absolute", "/opt/elsewhere"),
            ("dangling", "/nowhere"),
            ("loop", "loop"),
            ("around", "."),
        ] {
            symlink(to, root.path("usr/bin").join(name)).unwrap();
        }
        symlink("usr/bin", root.path("bin")).unwrap();
        let names = root.names(&Folder::programs("/bin"));
        // By whichever of its names comes first.
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.contains(&"/bin/absolute".to_owned()));
        assert!(
            names
                .iter()
                .any(|name| name == "/bin/program" || name == "/bin/again")
        );
    }

    #[test]
    fn links_out_of_the_root_stay_within() {
        let outside = Root::new();
        outside.file("secret", 0o755, 100);
        let root = Root::new();
        root.file("bin/mine", 0o755, 100);
        symlink(outside.path("secret"), root.path("bin/absolute")).unwrap();
        let up = format!("{}{}", "../".repeat(32), outside.path("secret").display());
        symlink(up, root.path("bin/relative")).unwrap();
        symlink(outside.0.path(), root.path("out")).unwrap();
        symlink("/proc/self/exe", root.path("bin/magic")).unwrap();
        assert_eq!(root.names(&walk("/bin", 5)), ["/bin/mine"]);
        assert!(root.names(&walk("/out", 5)).is_empty());
        assert!(root.names(&walk("/../../..", 0)).is_empty());
    }

    #[test]
    fn a_walk_goes_so_deep_and_not_round() {
        let root = Root::new();
        for name in ["opt/a", "opt/1/b", "opt/1/2/c", "opt/1/2/3/d"] {
            root.file(name, 0o755, 100);
        }
        symlink("..", root.path("opt/1/up")).unwrap();
        symlink("/opt", root.path("opt/1/2/top")).unwrap();
        assert_eq!(
            root.names(&walk("/opt", 2)),
            ["/opt/1/2/c", "/opt/1/b", "/opt/a"]
        );
        assert!(root.names(&walk("/nothing", 2)).is_empty());
        assert!(root.names(&walk("/opt/a", 2)).is_empty());
    }

    #[test]
    fn huge_folders_are_cut() {
        let root = Root::new();
        root.file("bin/0", 0o755, 100);
        for number in 1..FILES + 10 {
            let name = root.path(&format!("bin/{number}"));
            // Many, soon made: hard links would be one file.
            let file = fs::File::create(name).unwrap();
            file.set_len(100).unwrap();
            file.set_permissions(Permissions::from_mode(0o755)).unwrap();
        }
        let found = root.visit(&walk("/", 3));
        assert!(found.cut && found.candidates.len() == FILES);
        assert!(found.stamps.is_empty());
        let over = Instant::now();
        let found = root.visit_until(&walk("/", 3), over, |_| true);
        assert!(found.cut && found.candidates.is_empty());
    }

    #[test]
    fn many_folders_are_cut() {
        let root = Root::new();
        for number in 0..FOLDERS + 10 {
            fs::create_dir(root.path(&number.to_string())).unwrap();
        }
        let found = root.visit(&walk("/", 3));
        assert!(found.cut && found.candidates.is_empty());
    }

    #[test]
    fn libraries_are_told_by_their_names() {
        let root = Root::new();
        let place = "venv/lib/python3.11/site-packages";
        for name in [
            "cryptography/hazmat/bindings/_rust.abi3.so",
            "grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so",
            "psycopg2_binary.libs/libssl-81ffa89e.so.3",
            "numpy/core/_multiarray.so",
            "cryptography/py.typed",
        ] {
            root.file(&format!("{place}/{name}"), 0o644, 100);
        }
        let of = |path: &str, what| {
            let path = path.into();
            root.names(&Folder {
                path,
                depth: 6,
                what,
            })
        };
        let libraries = of("/venv/lib/python3.11/site-packages", What::PythonLibraries);
        assert_eq!(libraries.len(), 3, "{libraries:?}");
        assert!(libraries.iter().all(|name| !name.contains("numpy")));
        root.file("node_modules/a/build/Release/addon.node", 0o644, 100);
        root.file("node_modules/a/index.js", 0o644, 100);
        assert_eq!(
            of("/node_modules", What::NodeLibraries),
            ["/node_modules/a/build/Release/addon.node"]
        );
    }

    #[test]
    fn a_folder_with_two_names_is_listed_once() {
        let root = Root::new();
        root.file("usr/bin/program", 0o755, 100);
        symlink("usr/bin", root.path("bin")).unwrap();
        let until = Instant::now() + Duration::from_secs(600);
        let (handle, mut listed) = (root.handle(), Listed::default());
        let mut count = |folder| {
            let mounts = Mounts::default();
            let visit = visit(&handle, &folder, &mut listed, &mounts, |_| true, until);
            visit.candidates.len()
        };
        assert_eq!(count(Folder::programs("/usr/bin")), 1);
        assert_eq!(count(Folder::programs("/bin")), 0);
        let libraries = Folder {
            what: What::NodeLibraries,
            ..Folder::programs("/bin")
        };
        assert_eq!(count(libraries), 0);
        assert_eq!(listed.len(), 2);
    }

    #[test]
    fn large_files_go_first_and_known_ones_not_at_all() {
        let root = Root::new();
        root.file("bin/small", 0o755, 100);
        root.file("bin/larger", 0o755, SMALL as usize + 2);
        root.file("bin/large", 0o755, SMALL as usize + 1);
        let found = root.visit(&Folder::programs("/bin"));
        let names: Vec<_> = found
            .candidates
            .iter()
            .map(|candidate| candidate.path.file_name().unwrap())
            .collect();
        assert_eq!(names, ["large", "larger", "small"]);
        let known = found.candidates[0].state;
        let until = Instant::now() + Duration::from_secs(600);
        let again = root.visit_until(&Folder::programs("/bin"), until, |state| *state != known);
        assert_eq!(again.candidates.len(), 2);
    }

    #[test]
    fn a_folder_has_changed_when_it_has_other_entries() {
        let root = Root::new();
        root.file("opt/1/a", 0o755, 100);
        let stamps = root.visit(&walk("/opt", 2)).stamps;
        assert_eq!(stamps.len(), 2);
        assert!(!have_changed(&root.handle(), &stamps));
        // Clocks of file systems are coarse.
        let long_ago = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        fs::File::open(root.path("opt/1"))
            .unwrap()
            .set_times(long_ago)
            .unwrap();
        assert!(have_changed(&root.handle(), &stamps));
        assert!(have_changed(&root.handle(), &[]));
    }
}
