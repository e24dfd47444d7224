//! Which files are looked at: the maps of a process, opening them safely, the loader's cache.

use super::compiled::LIBRARY;
use super::{Compiled, write};
use crate::kernel::keylog::discover::{
    DiscoverError, Mapping, files_of_process, look, open_regular, parse_maps, running_processes,
    usual_libraries,
};
use crate::kernel::keylog::{Cache, Finder, LookError};
use crate::kernel::keylog::{fuzz, ldcache};
use crate::kernel::record::FileId;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const MAPS: &str = "\
55d4c8a00000-55d4c8a02000 r--p 00000000 fe:01 101                        /usr/bin/program
55d4c8a02000-55d4c8a07000 r-xp 00002000 fe:01 101                        /usr/bin/program
7f0000000000-7f0000001000 r-xp 00000000 00:00 0 
7f0000001000-7f0000002000 r-xp 00000000 00:2a 7                          /memfd:jit (deleted)
7f1000000000-7f1000100000 r-xp 00028000 fe:01 102                        /usr/lib/libc.so.6
7f1000200000-7f1000300000 r-xp 00028000 fe:01 102                        /usr/lib/libc.so.6
7f2000000000-7f2000100000 r-xp 00028000 103:10 103                       /srv/a b\\012c/libssl.so.3 (deleted)
7ffc00000000-7ffc00021000 rwxp 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

#[test]
fn maps_are_parsed_and_ordered() {
    let found: Vec<_> = parse_maps(7, MAPS.as_bytes())
        .into_iter()
        .map(|mapping| (mapping.start, mapping.id, mapping.path, mapping.deleted))
        .collect();
    let id = |major, minor, inode| FileId {
        device: rustix::fs::makedev(major, minor),
        inode,
    };
    let expected = [
        (
            0x7f20_0000_0000,
            id(0x103, 0x10, 103),
            "/srv/a b\nc/libssl.so.3",
            true,
        ),
        (
            0x55d4_c8a0_2000,
            id(0xfe, 1, 101),
            "/usr/bin/program",
            false,
        ),
        (0x7f00_0000_1000, id(0, 0x2a, 7), "/memfd:jit", true),
        (
            0x7f10_0000_0000,
            id(0xfe, 1, 102),
            "/usr/lib/libc.so.6",
            false,
        ),
    ]
    .map(|(start, id, path, deleted)| (start, id, PathBuf::from(path), deleted));
    assert_eq!(found, expected);
}

/// Cut or changed anywhere, the lines before are still there and nothing breaks.
#[test]
fn maps_cut_anywhere() {
    for end in 0..MAPS.len() {
        fuzz::text(&MAPS.as_bytes()[..end]);
        let mut changed = MAPS.as_bytes().to_vec();
        changed[end] ^= 0x15;
        fuzz::text(&changed);
    }
    let until_libc = MAPS.find("7f2000000000").unwrap();
    assert_eq!(parse_maps(7, &MAPS.as_bytes()[..until_libc]).len(), 3);
}

/// A process started by a test; ended with it.
struct Program {
    child: Child,
}

impl Program {
    /// Runs `path`, which prints a byte when it is up and then waits for its input to close.
    fn start(path: &Path) -> Self {
        let mut child = Command::new(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        Self { child }
    }

    fn mapping(&self, path: &Path) -> Mapping {
        let files = files_of_process(self.child.id()).unwrap();
        files
            .into_iter()
            .find(|mapping| mapping.path == path)
            .unwrap_or_else(|| panic!("{path:?} is not mapped"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

const WAITING: &str = "#include <unistd.h>\nint main(void) { char c = 1; write(1, &c, 1); read(0, &c, 1); return 0; }";

/// `map_files` needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
fn may_open_map_files() -> bool {
    let own = files_of_process(std::process::id()).unwrap();
    let first = &own[0];
    fs::File::open(format!(
        "/proc/self/map_files/{:x}-{:x}",
        first.start, first.end
    ))
    .is_ok()
}

#[test]
fn a_process_and_its_files() {
    let compiled = Compiled::new(WAITING, "c", &[]);
    let path = fs::canonicalize(&compiled.stripped_path).unwrap();
    let program = Program::start(&path);
    let mapping = program.mapping(&path);
    let opened = mapping.open().unwrap();
    assert_eq!(opened.id.inode, fs::metadata(&path).unwrap().ino());
    assert_eq!(fs::read(opened.attach_path()).unwrap(), compiled.stripped);
    assert!(running_processes().unwrap().contains(&program.child.id()));

    // Deleted, and another file in its place: only the mapped one counts.
    let folder = path.parent().unwrap();
    fs::remove_file(&path).unwrap();
    let other = write(folder, "other", &compiled.whole);
    fs::rename(&other, &path).unwrap();
    let deleted = format!("{} (deleted)", path.display());
    let mapping = files_of_process(program.child.id())
        .unwrap()
        .into_iter()
        .find(|mapping| mapping.path == path)
        .unwrap_or_else(|| panic!("{deleted} is not mapped"));
    assert!(mapping.deleted);
    if may_open_map_files() {
        let opened = mapping.open().unwrap();
        assert_eq!(fs::read(opened.attach_path()).unwrap(), compiled.stripped);
    } else {
        eprintln!("skipped: /proc/PID/map_files needs CAP_CHECKPOINT_RESTORE");
    }
    // Without map_files the path is refused, because it is another file.
    let elsewhere = Mapping {
        start: 1,
        end: 2,
        ..mapping
    };
    let error = elsewhere.open().unwrap_err();
    assert!(matches!(error, DiscoverError::Changed { .. }), "{error}");
}

/// A program with its own TLS code: found in the running process, and what holds nothing is not opened again.
#[test]
fn a_process_is_looked_at() {
    let main = "int main(void) { struct state s = {0}; char c = 1; write(1, &c, 1); read(0, &c, 1); return master(&s); }";
    let source = format!("#include <unistd.h>\n{LIBRARY}\n{main}");
    let compiled = Compiled::new(&source, "c", &["-O2", "-fPIE", "-pie"]);
    let path = fs::canonicalize(&compiled.stripped_path).unwrap();
    let program = Program::start(&path);
    let mut finder = Finder::new(Cache::in_memory());
    for round in 0..2 {
        let mut with_points = Vec::new();
        for mapping in files_of_process(program.child.id()).unwrap() {
            let looked = look(&mapping, &mut finder).unwrap();
            assert_eq!(looked.file.is_some(), !looked.found.points.is_empty());
            if let Some(file) = looked.file {
                let offset = looked.found.points[0].file_offset;
                with_points.push((
                    file.mapping.path,
                    looked.found.points[0].virtual_address,
                    offset,
                ));
            }
        }
        let (address, offset) = compiled.place("log_secret");
        assert_eq!(with_points, [(path.clone(), address, offset)]);
        let searched = finder.counts().searched;
        assert!(searched >= 2, "the program and the C library");
        assert_eq!(
            finder.counts().from_cache,
            round * searched,
            "round {round}"
        );
    }
}

/// A mapping's path that leads elsewhere now, by whatever is there, is never opened.
#[test]
fn only_regular_files_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let mapping = |path: &Path| Mapping {
        pid: std::process::id(),
        start: 1,
        end: 2,
        offset: 0,
        id: FileId {
            device: 1,
            inode: 1,
        },
        path: path.to_owned(),
        deleted: false,
    };
    // Would block for ever if it were opened.
    for (path, what) in [
        (pipe.as_path(), "named pipe"),
        (Path::new("/dev/null"), "device"),
        (folder.path(), "folder"),
    ] {
        let error = mapping(path).open().unwrap_err();
        assert!(matches!(error, DiscoverError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(matches!(open_regular(path), Err(LookError::NotAFile(found)) if found == what));
    }
    let error = mapping(&folder.path().join("absent")).open().unwrap_err();
    assert!(matches!(error, DiscoverError::Unopenable { .. }), "{error}");
}

/// A link in the process's root is followed within it, not from the agent's.
#[test]
fn paths_stay_below_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let file = write(folder.path(), "file", b"x");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let metadata = fs::metadata(&file).unwrap();
    let mapping = Mapping {
        pid: std::process::id(),
        start: 1,
        end: 2,
        offset: 0,
        id: FileId {
            device: metadata.dev(),
            inode: metadata.ino(),
        },
        path: link,
        deleted: false,
    };
    assert_eq!(mapping.open().unwrap().id, mapping.id);
}

#[test]
fn a_process_that_is_gone() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let error = files_of_process(child.id()).unwrap_err();
    assert!(
        matches!(error, DiscoverError::ProcessGone { .. }),
        "{error}"
    );
}

#[test]
fn usual_libraries_are_shared_objects_once_each() {
    let found = usual_libraries();
    let mut unique = found.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), found.len());
    for path in &found {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.contains(".so"), "{path:?}");
        assert!(path.is_absolute());
    }
    let system = Path::new("/usr/lib/x86_64-linux-gnu/libssl.so.3");
    if system.exists() {
        assert!(
            found.contains(&fs::canonicalize(system).unwrap()),
            "{found:?}"
        );
    }
}

fn loader_cache(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut strings = Vec::new();
    let mut table = Vec::new();
    let strings_at = 48 + 24 * entries.len();
    for (name, path) in entries {
        let mut place = |text: &str| {
            let at = u32::try_from(strings_at + strings.len()).unwrap();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let (name, path) = (place(name), place(path));
        for word in [1, name, path, 0, 0, 0] {
            table.extend_from_slice(&word.to_le_bytes());
        }
    }
    let mut cache = b"glibc-ld.so.cache1.1".to_vec();
    cache.extend_from_slice(&u32::try_from(entries.len()).unwrap().to_le_bytes());
    cache.resize(48, 0);
    [cache, table, strings].concat()
}

#[test]
fn loader_cache_is_read_and_cut_anywhere() {
    let entries = [
        ("libssl.so.3", "/lib/libssl.so.3"),
        ("libm.so.6", "/lib/libm.so.6"),
    ];
    let cache = loader_cache(&entries);
    // An older table before it.
    let old = [b"ld.so-1.7.0\0\0\0\0\0".to_vec(), cache.clone()].concat();
    for bytes in [&cache, &old] {
        let parsed = ldcache::parse(bytes);
        let parsed: Vec<_> = parsed
            .iter()
            .map(|(name, path)| (name.as_str(), path.to_str().unwrap()))
            .collect();
        assert_eq!(parsed, entries);
    }
    for end in 0..cache.len() {
        assert!(ldcache::parse(&cache[..end]).len() <= 2);
        let mut changed = cache.clone();
        changed[end] = 0xff;
        fuzz::text(&changed);
    }
}
