//! Other content in the same file: nobody who runs it meets a breakpoint of before, however it is written.

use crate::support::{
    Kept, Library, Restarted, Target, milliseconds, program, request, turn, until,
};
use anyhow::{Context, Result, ensure};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokentrail_agent::kernel::keeper::{Refused, Scope, Way};

/// Writes the new content there.
pub type Writer = fn(&Path) -> Result<()>;

pub const WRITERS: [(&str, Writer); 8] = [
    ("cp", |path| {
        run(Command::new("cp").arg(program("sum")).arg(path))
    }),
    ("dd", |path| {
        let (from, to) = (operand("if", &program("sum")), operand("of", path));
        let words = ["conv=notrunc", "bs=1M", "status=none"];
        run(Command::new("dd").args([from, to]).args(words))
    }),
    // By its name, without opening it.
    ("truncate", |path| written("t", path)),
    ("O_TRUNC", |path| Ok(fs::write(path, new()?)?)),
    ("ftruncate", |path| {
        let mut file = File::options().write(true).open(path)?;
        file.set_len(0)?;
        Ok(file.write_all(&new()?)?)
    }),
    ("pwrite", |path| {
        let file = File::options().read(true).write(true).open(path)?;
        file.write_all_at(&new()?, 0)?;
        Ok(file.set_len(new()?.len() as u64)?)
    }),
    ("shared mapping", |path| written("m", path)),
    ("rsync --inplace", |path| {
        let words = ["--inplace", "--ignore-times"];
        run(Command::new("rsync")
            .args(words)
            .arg(program("sum"))
            .arg(path))
    }),
];

fn operand(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn new() -> Result<Vec<u8>> {
    Ok(fs::read(program("sum"))?)
}

fn written(how: &str, path: &Path) -> Result<()> {
    run(Command::new(program("write"))
        .arg(how)
        .arg(program("sum"))
        .arg(path))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().context("cannot be started")?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn rounds() -> usize {
    let asked = std::env::var("TOKENTRAIL_OVERWRITES").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// One attachment and one writer; how long each took.
fn written_once(
    kept: &Kept,
    host: bool,
    write: fn(&Path) -> Result<()>,
) -> Result<(Duration, Duration), Restarted> {
    let library = Library::new();
    let target = Target::start(&library.path);
    let scope = if host {
        Scope::Host
    } else {
        Scope::Process(target.pid())
    };
    let begin = Instant::now();
    let attachment = kept.attach_or_again(&library.path, &target, scope)?;
    let attaching = begin.elapsed();
    if host {
        // Its text changes under it: what is asked here is about others.
        drop(target);
    }
    let begin = Instant::now();
    write(&library.path).unwrap();
    let waiting = begin.elapsed();
    library.is_right().unwrap();
    kept.lost_to_writer(attachment)?;
    library.is_right().unwrap();
    Ok((attaching, waiting))
}

/// Every writer, while a process is attached to that goes on, and while everybody is.
fn overwrite(way: Way) {
    let Some(kept) = Kept::start(way) else { return };
    for host in [false, true] {
        for (name, write) in WRITERS {
            if name.starts_with("rsync") && Command::new("rsync").arg("--version").output().is_err()
            {
                eprintln!("skipped {name}: there is no rsync");
                continue;
            }
            let (mut attached, mut waited) = (Vec::new(), Vec::new());
            for _ in 0..rounds() {
                let (attaching, waiting) = kept.round(|| written_once(&kept, host, write));
                attached.push(attaching);
                waited.push(waiting);
            }
            eprintln!(
                "{way}, {}, {name}: attached in {}; written in {}",
                if host { "every process" } else { "one process" },
                milliseconds(&mut attached),
                milliseconds(&mut waited)
            );
        }
    }
    assert!(kept.keeper.is_empty());
}

#[test]
fn new_content_meets_no_old_breakpoint_of_uprobe_multi() {
    if let Some(_turn) = turn("new_content_meets_no_old_breakpoint_of_uprobe_multi") {
        overwrite(Way::Multi);
    }
}

#[test]
fn new_content_meets_no_old_breakpoint_of_perf() {
    if let Some(_turn) = turn("new_content_meets_no_old_breakpoint_of_perf") {
        overwrite(Way::Perf);
    }
}

#[test]
fn a_writer_that_does_not_wait_is_told_to_come_again_and_can() {
    let Some(_turn) = turn("a_writer_that_does_not_wait_is_told_to_come_again_and_can") else {
        return;
    };
    for kept in [Way::Multi, Way::Perf].into_iter().filter_map(Kept::start) {
        kept.round(|| {
            let library = Library::new();
            let target = Target::start(&library.path);
            let scope = Scope::Process(target.pid());
            let attachment = kept.attach_or_again(&library.path, &target, scope)?;
            let open = || {
                OpenOptions::new()
                    .write(true)
                    .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
                    .open(&library.path)
            };
            let refused = open().map_err(|error| error.kind());
            // One that is written to without a lease has lost its keeper, which is told below.
            let is_refused = matches!(refused, Err(std::io::ErrorKind::WouldBlock));
            kept.lost_to_writer(attachment)?;
            assert!(is_refused, "{refused:?}");
            open().unwrap().write_all(&new().unwrap()).unwrap();
            library.is_right().unwrap();
            Ok(())
        });
    }
}

#[test]
fn a_mapping_that_can_be_written_is_a_writer() {
    let Some(_turn) = turn("a_mapping_that_can_be_written_is_a_writer") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Multi) else {
        return;
    };
    let library = Library::new();
    let target = Target::start(&library.path);
    let mut mapper = Command::new(program("write"))
        .arg("h")
        .arg(program("sum"))
        .arg(&library.path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut said = std::io::BufReader::new(mapper.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert_eq!(line, "mapped\n");
    let file = File::open(&library.path).unwrap();
    let request = request(&file, &target, Scope::Process(target.pid()));
    assert_eq!(kept.keeper.attach(&request), Err(Refused::Writer));
    drop(mapper.stdin.take());
    mapper.wait().unwrap();
    until("the mapping has gone", || {
        kept.keeper.attach(&request).is_ok()
    });
}

#[test]
fn readers_and_those_who_rename_wait_for_nobody() {
    let Some(_turn) = turn("readers_and_those_who_rename_wait_for_nobody") else {
        return;
    };
    let Some(kept) = Kept::start(Way::Multi) else {
        return;
    };
    let library = Library::new();
    let mut target = Target::start(&library.path);
    let scope = Scope::Process(target.pid());
    let attachment = kept.attach(&library.path, &target, scope).unwrap();
    fs::read(&library.path).unwrap();
    library.renew();
    // The lease is on the file that was there before, which goes on.
    target.tell("c 2");
    assert_eq!(kept.hits(), 2);
    assert!(kept.keeper.holds(attachment.id));
    std::thread::sleep(Duration::from_millis(50));
    fs::write(&library.path, new().unwrap()).unwrap();
    library.is_right().unwrap();
    assert!(kept.keeper.holds(attachment.id));
}
