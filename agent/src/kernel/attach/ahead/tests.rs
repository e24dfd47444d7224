//! What comes of files that were made: the probes' word is made up, everything else is as it is.

use super::*;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    fs::{self, Permissions},
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::Path,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);

fn ahead() -> Ahead {
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    Ahead::new(Bell(Arc::new(bell)))
}

fn own() -> ProcessKey {
    let pid = std::process::id();
    ProcessKey {
        pid,
        start: start_ticks(pid).unwrap() * TICK,
    }
}

fn made(path: Option<&Path>, descriptor: Option<&File>) -> Made {
    Made {
        process: own(),
        descriptor: descriptor.map(|file| file.as_raw_fd() as u32),
        folder: None,
        path: path.map(Path::to_owned),
    }
}

/// A file that looks like a program.
fn program(folder: &tempfile::TempDir, name: &str, mode: u32) -> std::path::PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content(b'x')).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn content(fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; 4_096];
    bytes[..4].copy_from_slice(b"\x7fELF");
    bytes
}

fn next(ahead: &Ahead) -> Wanted {
    ahead.wanted.recv_timeout(LIMIT).expect("a file")
}

/// What is opened, and how the probes would name it.
fn open(wanted: Wanted) -> (File, abi::File) {
    let Wanted { open, ticket, .. } = wanted;
    let file = open().unwrap();
    let state = ticket.state(FileState::of(&file).unwrap());
    (file, state)
}

#[test]
fn a_file_that_was_made_executable_is_wanted_in_the_state_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(&folder, "program", 0o755);
    let mut ahead = ahead();
    ahead.made(made(Some(&path), None));
    let wanted = next(&ahead);
    let before = wanted.state;
    let (mut file, state) = open(wanted);
    assert_eq!(before, state);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((state.inode, state.size), (metadata.ino(), 4_096));
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, content(b'x'));
}

#[test]
fn the_same_state_is_wanted_once_and_another_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(&folder, "program", 0o755);
    let other = program(&folder, "other", 0o755);
    let mut ahead = ahead();
    for path in [&path, &path, &other] {
        ahead.made(made(Some(path), None));
    }
    let (first, second) = (next(&ahead).state, next(&ahead).state);
    assert_eq!(first.inode, fs::metadata(&path).unwrap().ino());
    assert_eq!(second.inode, fs::metadata(&other).unwrap().ino());
    fs::write(&path, [content(b'y'), vec![0]].concat()).unwrap();
    ahead.made(made(Some(&path), None));
    let third = next(&ahead).state;
    assert_eq!((third.inode, third.size), (first.inode, 4_097));
}

/// A link of which the call named the path leads to its file, one that was swapped meanwhile to another; what is found
/// belongs to what was opened.
#[test]
fn what_is_opened_is_what_the_finding_is_about() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (
        program(&folder, "one", 0o755),
        program(&folder, "other", 0o755),
    );
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let mut ahead = ahead();
    ahead.made(made(Some(&link), None));
    let wanted = next(&ahead);
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let (_, state) = open(wanted);
    assert_eq!(state.inode, fs::metadata(&one).unwrap().ino());
}

#[test]
fn what_a_process_writes_is_wanted_when_it_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(&folder, "program", 0o755);
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mut ahead = ahead();
    ahead.made(made(None, Some(&file)));
    // It is not written for a while.
    assert_eq!(next(&ahead).state.size, 4_096);
    file.write_all(&[0; 1_000]).unwrap();
    drop(file);
    let (_, state) = open(next(&ahead));
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((state.size, state.inode), (5_096, metadata.ino()));
}

#[test]
fn a_file_that_stays_open_is_wanted_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(&folder, "program", 0o755);
    let file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    let mut ahead = ahead();
    ahead.made(made(None, Some(&file)));
    let (_, state) = open(next(&ahead));
    assert_eq!(
        (state.size, state.inode),
        (4_096, file.metadata().unwrap().ino())
    );
}

#[test]
fn what_is_no_program_is_not_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let mut ahead = ahead();
    let fifo = folder.path().join("fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, rustix::fs::Mode::RWXU, 0).unwrap();
    let tiny = folder.path().join("tiny");
    fs::write(&tiny, b"\x7fELF").unwrap();
    fs::set_permissions(&tiny, Permissions::from_mode(0o755)).unwrap();
    let not_executable = program(&folder, "data", 0o644);
    for path in [
        fifo.as_path(),
        &tiny,
        &not_executable,
        folder.path(),
        Path::new("/dev/null"),
        Path::new("/nowhere"),
    ] {
        ahead.made(made(Some(path), None));
    }
    let last = program(&folder, "last", 0o755);
    ahead.made(made(Some(&last), None));
    // In their order: nothing came before it.
    assert_eq!(next(&ahead).state.inode, fs::metadata(&last).unwrap().ino());
    let script = program(&folder, "script", 0o755);
    fs::write(&script, "#!/bin/sh\n".repeat(20)).unwrap();
    ahead.made(made(Some(&script), None));
    let error = (next(&ahead).open)().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

/// The process that called has ended, and its parent; whoever has started that is where they were.
#[test]
fn a_path_means_to_a_parent_what_it_meant_to_the_child() {
    let here = std::env::current_dir().unwrap();
    let folder = tempfile::tempdir_in(&here).unwrap();
    let path = program(&folder, "program", 0o755);
    let mut ahead = ahead();
    let relative = path.strip_prefix(&here).unwrap();
    let up = Path::new("..")
        .join(here.file_name().unwrap())
        .join(relative);
    let child = |pid| ProcessKey { pid, start: 1 };
    ahead.forked(own(), child(u32::MAX - 1));
    ahead.forked(child(u32::MAX - 1), child(u32::MAX));
    for path in [relative, &up] {
        ahead.made(Made {
            process: child(u32::MAX),
            ..made(Some(path), None)
        });
        let state = next(&ahead).state;
        assert_eq!(state.inode, fs::metadata(path).unwrap().ino());
        ahead.come_back();
    }
}

#[test]
fn a_descriptor_is_let_go_of_in_time() {
    let now = Instant::now();
    let held = Held::new(File::open("/dev/null").unwrap().into(), now + LIMIT);
    let search = held.clone();
    assert!(held.expire(now));
    assert!(!held.expire(now + LIMIT));
    assert!(search.take().is_err());
    let held = Held::new(File::open("/dev/null").unwrap().into(), now + LIMIT);
    assert!(held.clone().take().is_ok());
    assert!(!held.expire(now), "a taken one is not kept");
}

/// Who has the number of a parent now is nobody's parent.
#[test]
fn a_line_ends_where_a_process_is_another() {
    let mut ahead = ahead();
    let process = |pid, start| ProcessKey { pid, start };
    ahead.forked(process(5, 10), process(6, 20));
    ahead.forked(process(6, 20), process(7, 30));
    assert_eq!(ahead.line(process(7, 30)).0.len(), 3);
    assert_eq!(ahead.line(process(7, 31)).0.len(), 1);
    ahead.forked(process(8, 1), process(6, 40));
    assert_eq!(ahead.line(process(7, 30)).0.len(), 2);
    // Whoever was forked from itself, in a record that is wrong.
    ahead.forked(process(9, 1), process(9, 1));
    assert_eq!(ahead.line(process(9, 1)).0.len(), LINE);
    assert_eq!(ahead.line(process(9, 1)).running().count(), 0);
}

/// At rest nothing is looked for; after it everything anew.
#[test]
fn at_rest_nothing_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = program(&folder, "program", 0o755);
    let mut ahead = ahead();
    ahead.rest();
    ahead.made(made(Some(&path), None));
    while ahead.waiting() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    ahead.come_back();
    ahead.made(made(Some(&path), None));
    assert_eq!(next(&ahead).state.inode, fs::metadata(&path).unwrap().ino());
    assert!(ahead.next().is_none());
}
