//! Which folders hold what a process, and others that see the same, may execute or map next.
//!
//! Invariant: no environment is read: it holds secrets. Of the arguments, which may hold some, the first two are looked
//! at, and kept if they name a file that is there; what was read of the others is wiped.

use super::{
    folders::{Folder, What},
    view,
};
use crate::kernel::attach::look;
use rustix::fs::FileType;
use std::{
    ffi::{CStr, OsStr},
    fs::{self, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The usual PATH.
const PATH: &[&str] = &[
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/snap/bin",
];
/// Folders that are walked: what lies there was installed by hand, and wherever its maker wanted.
const TREES: &[&str] = &["/usr/local", "/opt"];
const TREE_DEPTH: usize = 5;
/// Of a virtual environment's `lib`: `python3.11/site-packages/PACKAGE/...`.
const PYTHON_DEPTH: usize = 6;
/// Of `node_modules`: `@OWNER/PACKAGE/build/Release`.
const NODE_DEPTH: usize = 4;
/// Folders above a script that may have its package's `node_modules`.
const ABOVE: usize = 8;
/// Bytes of a command line that are read.
const COMMAND_LINE: usize = 4_096;

/// What every view has.
pub fn of_every_view() -> impl Iterator<Item = Folder> {
    let trees = TREES.iter().map(|path| Folder {
        depth: TREE_DEPTH,
        ..Folder::programs(*path)
    });
    PATH.iter().map(|path| Folder::programs(*path)).chain(trees)
}

/// What tells where a process's folders are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Traces {
    program: Option<PathBuf>,
    /// What was executed, before links and interpreters were followed; else the first argument, if it names a file.
    called: Option<PathBuf>,
    /// The second argument, if it names a file: an interpreter's script.
    script: Option<PathBuf>,
    working: Option<PathBuf>,
}

impl Traces {
    /// `name`: what exec was asked for.
    pub fn of(pid: u32, name: Option<PathBuf>) -> Self {
        let working = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let name = name.filter(|name| name.as_os_str().as_bytes().contains(&b'/'));
        let called = match (&working, name) {
            (Some(working), Some(name)) => Some(working.join(name)),
            (_, name) => name.filter(|name| name.is_absolute()),
        };
        let words = CommandLine::of(pid).unwrap_or_default();
        let mut words = words
            .words()
            .map(|word| file_named(pid, word, working.as_deref()));
        let (first, script) = (words.next().flatten(), words.next().flatten());
        Self {
            program: look::program(pid),
            called: called.or(first),
            script,
            working,
        }
    }

    /// The folders, beside those of every view.
    pub fn folders(&self, root: &OwnedFd) -> Vec<Folder> {
        let is_there = |path: PathBuf| view::below(root, &path).is_ok().then_some(path);
        let mut found = Vec::new();
        for program in self.program.iter().chain(&self.called) {
            let Some(folder) = program.parent().filter(|folder| !is_usual(folder)) else {
                continue;
            };
            found.push(Folder::programs(folder));
            if let Some(home) = folder.parent()
                && is_there(home.join("pyvenv.cfg")).is_some()
            {
                found.push(Folder {
                    path: home.join("lib"),
                    depth: PYTHON_DEPTH,
                    what: What::PythonLibraries,
                });
            }
        }
        let script = self
            .script
            .iter()
            .flat_map(|script| script.ancestors().skip(1));
        let above = script.take(ABOVE).find_map(|folder| {
            if folder.ends_with("node_modules") {
                return Some(folder.to_owned());
            }
            is_there(folder.join("node_modules"))
        });
        let here = self.working.as_ref();
        let here = here.and_then(|folder| is_there(folder.join("node_modules")));
        for modules in [above, here].into_iter().flatten() {
            found.extend(of_node_modules(&modules));
        }
        found.dedup();
        found
    }
}

/// The beginning of a command line.
struct CommandLine {
    bytes: Zeroizing<[u8; COMMAND_LINE]>,
    len: usize,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self {
            bytes: Zeroizing::new([0; COMMAND_LINE]),
            len: 0,
        }
    }
}

impl CommandLine {
    fn of(pid: u32) -> io::Result<Self> {
        let mut file = File::open(format!("/proc/{pid}/cmdline"))?;
        let mut line = Self::default();
        while line.len < COMMAND_LINE {
            match file.read(&mut line.bytes[line.len..])? {
                0 => break,
                more => line.len += more,
            }
        }
        Ok(line)
    }

    /// Those that are there to their ends.
    fn words(&self) -> impl Iterator<Item = &CStr> {
        self.bytes[..self.len]
            .split_inclusive(|byte| *byte == 0)
            .map_while(|word| CStr::from_bytes_with_nul(word).ok())
    }
}

/// The path that this argument of a process is, if there is such a regular file. The argument is copied nowhere else.
fn file_named(pid: u32, word: &CStr, working: Option<&Path>) -> Option<PathBuf> {
    if !word.to_bytes().contains(&b'/') {
        return None;
    }
    let path = Path::new(OsStr::from_bytes(word.to_bytes()));
    let found = if path.is_absolute() {
        view::below(view::root_of(pid).ok()?, word)
    } else {
        view::within(view::working_of(pid).ok()?, word)
    };
    let attributes = view::attributes(found.ok()?).ok()?;
    if view::kind(&attributes) != FileType::RegularFile {
        return None;
    }
    if path.is_absolute() {
        Some(path.to_owned())
    } else {
        Some(working?.join(path))
    }
}

/// What a library's path says of others that may be mapped with it.
pub fn beside_library(path: &Path) -> Vec<Folder> {
    let above = path.ancestors().skip(1);
    for folder in above {
        match folder.file_name().map(OsStr::as_bytes) {
            Some(b"site-packages" | b"dist-packages") => {
                return vec![Folder {
                    path: folder.to_owned(),
                    depth: PYTHON_DEPTH - 2,
                    what: What::PythonLibraries,
                }];
            }
            Some(b"node_modules") => return of_node_modules(folder).into(),
            _ => {}
        }
    }
    Vec::new()
}

fn of_node_modules(modules: &Path) -> [Folder; 2] {
    [
        Folder::programs(modules.join(".bin")),
        Folder {
            path: modules.to_owned(),
            depth: NODE_DEPTH,
            what: What::NodeLibraries,
        },
    ]
}

/// Listed anyway.
fn is_usual(folder: &Path) -> bool {
    PATH.iter().any(|path| Path::new(path) == folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt as _;

    fn root_with(files: &[&str]) -> (tempfile::TempDir, OwnedFd) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let root = rustix::fs::open(folder.path(), flags, rustix::fs::Mode::empty()).unwrap();
        (folder, root)
    }

    fn paths(folders: &[Folder]) -> Vec<String> {
        let path = |folder: &Folder| format!("{} {:?}", folder.path.display(), folder.what);
        folders.iter().map(path).collect()
    }

    #[test]
    fn a_program_of_the_system_has_nothing_of_its_own() {
        let (_folder, root) = root_with(&["home/file"]);
        let traces = Traces {
            program: Some("/usr/bin/cat".into()),
            working: Some("/home".into()),
            ..Traces::default()
        };
        assert!(traces.folders(&root).is_empty());
    }

    #[test]
    fn a_virtual_environment_has_programs_and_libraries() {
        let (_folder, root) = root_with(&["home/u/venv/pyvenv.cfg"]);
        let traces = Traces {
            program: Some("/usr/bin/python3.11".into()),
            called: Some("/home/u/venv/bin/python".into()),
            script: Some("/home/u/venv/bin/tool".into()),
            working: None,
        };
        assert_eq!(
            paths(&traces.folders(&root)),
            [
                "/home/u/venv/bin Programs",
                "/home/u/venv/lib PythonLibraries"
            ]
        );
    }

    #[test]
    fn node_modules_of_the_script_and_of_the_working_folder() {
        let (_folder, root) = root_with(&["srv/app/node_modules/x/y.js", "home/node_modules/z"]);
        let traces = Traces {
            program: Some("/usr/bin/node".into()),
            called: None,
            script: Some("/srv/app/src/deep/main.js".into()),
            working: Some("/home".into()),
        };
        let wanted = [
            "/srv/app/node_modules/.bin Programs",
            "/srv/app/node_modules NodeLibraries",
            "/home/node_modules/.bin Programs",
            "/home/node_modules NodeLibraries",
        ];
        assert_eq!(paths(&traces.folders(&root)), wanted);
        let within = Traces {
            script: Some("/srv/app/node_modules/x/y.js".into()),
            ..Traces::default()
        };
        assert_eq!(paths(&within.folders(&root)), wanted[..2]);
    }

    #[test]
    fn a_library_tells_of_its_neighbours() {
        let path = "/v/lib/python3.11/site-packages/_cffi_backend.so";
        assert_eq!(
            paths(&beside_library(Path::new(path))),
            ["/v/lib/python3.11/site-packages PythonLibraries"]
        );
        let path = "/a/node_modules/b/build/Release/b.node";
        assert_eq!(beside_library(Path::new(path)).len(), 2);
        assert!(beside_library(Path::new("/usr/lib/libssl.so.3")).is_empty());
    }

    #[test]
    fn arguments_that_name_no_file_are_kept_nowhere() {
        let (folder, _root) = root_with(&["run/here.js"]);
        let here = folder.path().join("run/here.js");
        let traces = |first: &str, second: &str| {
            // It says of the second that there is no such file, and goes on with its input.
            let mut child = std::process::Command::new("/bin/cat")
                .arg0(first)
                .args([second, "-"])
                .current_dir(folder.path())
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            // A new program is told of before its arguments are there (`begin_new_exec`, fs/exec.c).
            while CommandLine::of(child.id()).unwrap().len == 0 {
                std::thread::yield_now();
            }
            let traces = Traces::of(child.id(), None);
            drop(child.stdin.take());
            child.wait().unwrap();
            (traces.called, traces.script)
        };
        let absolute = here.to_str().unwrap();
        assert_eq!(
            traces("run/here.js", absolute),
            (Some(here.clone()), Some(here.clone()))
        );
        assert_eq!(traces(absolute, "run/here.js").1, Some(here.clone()));
        for secret in [
            "Bearer ab/cd",
            "https://h/p?token=s/1",
            "/no/such/file",
            "run/",
        ] {
            assert_eq!(traces(secret, secret), (None, None), "{secret}");
        }
        assert_eq!(traces("cat", "cat"), (None, None));
    }

    /// This process is called by a path and has a folder; what it has in its environment is nowhere.
    #[test]
    fn traces_of_this_process() {
        let traces = Traces::of(std::process::id(), None);
        assert_eq!(traces.program, std::env::current_exe().ok());
        assert_eq!(traces.working, std::env::current_dir().ok());
        let named = Traces::of(std::process::id(), Some("/venv/bin/python".into()));
        assert_eq!(named.called, Some("/venv/bin/python".into()));
        let plain = Traces::of(std::process::id(), Some("python".into()));
        assert_eq!(plain.called, traces.called);
        assert_eq!(Traces::of(u32::MAX, None), Traces::default());
    }
}
