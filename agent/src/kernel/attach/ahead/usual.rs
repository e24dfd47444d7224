//! Which folders hold what a process, and others that see the same, may execute or map next.
//!
//! Invariant: no environment is read: it holds secrets. Of the arguments the first two are looked at, for the folders
//! that they name.

use super::{
    folders::{Folder, What},
    view,
};
use crate::kernel::attach::look;
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

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
const COMMAND_LINE: u64 = 4_096;

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
    /// What was executed, before links and interpreters were followed; else the first argument, if it is a path.
    called: Option<PathBuf>,
    /// The second argument, if it is a path: an interpreter's script.
    script: Option<PathBuf>,
    working: Option<PathBuf>,
}

impl Traces {
    /// `name`: what exec was asked for.
    pub fn of(pid: u32, name: Option<PathBuf>) -> Self {
        let working = fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let mut line = Vec::new();
        let read = File::open(format!("/proc/{pid}/cmdline"))
            .and_then(|file| file.take(COMMAND_LINE).read_to_end(&mut line));
        if read.is_err() {
            line.clear();
        }
        let path = |word: Option<&[u8]>| {
            let word = word.filter(|word| word.contains(&b'/') && !word.starts_with(b"-"))?;
            let word = Path::new(OsStr::from_bytes(word));
            if word.is_absolute() {
                Some(word.to_owned())
            } else {
                Some(working.as_ref()?.join(word))
            }
        };
        // Each ends with a NUL; one that is cut is of no use.
        let mut words = line.split_inclusive(|byte| *byte == 0);
        let mut word = || words.next()?.strip_suffix(&[0]);
        let (first, script) = (path(word()), path(word()));
        let called = path(name.as_ref().map(|name| name.as_os_str().as_bytes())).or(first);
        Self {
            program: look::program(pid),
            called,
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
