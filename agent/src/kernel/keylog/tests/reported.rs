//! The report of `doctor --program`.

use super::compiled::LIBRARY;
use super::{Compiled, write};
use crate::kernel::keylog::report::{Outcome, of_program};
use crate::kernel::keylog::{Cache, Finder};
use std::fs;
use std::path::Path;
use std::process::Command;

fn finder() -> Finder {
    Finder::new(Cache::in_memory())
}

/// A program whose TLS is in a library beside it, found by `$ORIGIN`.
#[test]
fn needed_libraries_are_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lib")).unwrap();
    let arguments = [
        "-shared",
        "-fPIC",
        "-O2",
        "-Wl,-Bsymbolic",
        "-Wl,-soname,libown.so.1",
    ];
    let library = Compiled::new(LIBRARY, "c", &arguments);
    let library_path = write(&folder.path().join("lib"), "libown.so.1", &library.stripped);
    let source = write(
        folder.path(),
        "main.c",
        b"int master(void *s); int main(void) { return master(0); }",
    );
    let program = folder.path().join("program");
    let status = Command::new("cc")
        .arg("-o")
        .arg(&program)
        .args([&source, &library_path])
        .arg("-Wl,-rpath,$ORIGIN/lib")
        .status()
        .unwrap();
    assert!(status.success());

    let report = of_program(&program, &mut finder());
    let text = report.text();
    assert!(report.missing.is_empty(), "{text}");
    assert!(report.is_read());
    assert_eq!(report.libraries.len(), 1, "{text}");
    assert_eq!(
        fs::canonicalize(&report.libraries[0].path).unwrap(),
        fs::canonicalize(&library_path).unwrap()
    );
    let (address, offset) = library.place("log_secret");
    let expected = format!("key log   unknown: file offset {offset:#x}, address {address:#x}, ");
    assert!(text.contains(&expected), "{text}");
    assert!(
        text.contains(" votes from CLIENT_RANDOM, EXPORTER_SECRET\n"),
        "{text}"
    );
    assert!(text.contains("no TLS code of a known library"), "{text}");
    let json = report.json();
    assert_eq!(
        json["libraries"][0]["found"]["points"][0]["file_offset"],
        offset
    );
    assert_eq!(
        json["libraries"][0]["found"]["points"][0]["kind"],
        "key_log"
    );
    assert_eq!(json["program"]["found"]["points"], serde_json::json!([]));

    fs::remove_file(&library_path).unwrap();
    let report = of_program(&program, &mut finder());
    assert_eq!(report.missing, ["libown.so.1"]);
    assert!(
        report.text().contains("needed and not found: libown.so.1"),
        "{}",
        report.text()
    );
    assert!(!report.is_read());
}

#[test]
fn what_is_no_program_gets_a_clear_message() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (
            write(folder.path(), "script", b"#!/usr/bin/env node\nx"),
            "a script, not a program: look at its interpreter (/usr/bin/env node)",
        ),
        (write(folder.path(), "text", b"hello"), "not an ELF file"),
        (write(folder.path(), "nothing", b""), "not an ELF file"),
        (folder.path().to_owned(), "a folder, not a regular file"),
        (
            folder.path().join("absent"),
            "cannot be read: No such file or directory (os error 2)",
        ),
        (
            Path::new("/dev/null").to_owned(),
            "a device, not a regular file",
        ),
    ];
    for (path, expected) in cases {
        let report = of_program(&path, &mut finder());
        assert_eq!(report.program.outcome, Outcome::Failed(expected.to_owned()));
        let text = report.text();
        assert!(
            text.ends_with(&format!("  not looked at: {expected}\n")),
            "{text}"
        );
        assert_eq!(report.json()["program"]["failed"], expected);
        assert!(!report.is_read());
    }
}

#[test]
fn names_cannot_write_to_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a\u{1b}[31mred", b"#!/bin/\x1b[2Jx\n");
    let text = of_program(&path, &mut finder()).text();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
