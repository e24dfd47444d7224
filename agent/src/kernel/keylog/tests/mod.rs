//! Tests on files that are compiled here, where the true addresses are known from a copy that is not stripped, read
//! by another ELF reader.

pub(super) mod compiled;
mod flow;
mod hostile;
mod key_log_tables;
mod remembered;
mod reported;
mod whereabouts;

pub(super) use compiled::LIBRARY;

use super::finder::{Found, Limits, LookError, look_at};
use object::{Object, ObjectSegment, ObjectSymbol};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A file made by the C compiler, with and without symbols.
pub(super) struct Compiled {
    pub whole: Vec<u8>,
    pub stripped: Vec<u8>,
    pub stripped_path: PathBuf,
    _folder: TempDir,
}

impl Compiled {
    /// Compiles `source` (`extension` tells C from assembly) with the system's compiler, which linking Rust needs too.
    pub fn new(source: &str, extension: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join(format!("input.{extension}"));
        let whole = folder.path().join("whole");
        let stripped = folder.path().join("stripped");
        fs::write(&input, source).unwrap();
        run(Command::new("cc")
            .args(arguments)
            .arg("-o")
            .arg(&whole)
            .arg(&input));
        run(Command::new("strip").arg("-o").arg(&stripped).arg(&whole));
        Self {
            whole: fs::read(&whole).unwrap(),
            stripped: fs::read(&stripped).unwrap(),
            stripped_path: stripped,
            _folder: folder,
        }
    }

    /// Address and file offset of a function, by the `object` crate.
    pub fn place(&self, name: &str) -> (u64, u64) {
        place(&self.whole, name)
    }
}

pub(super) fn place(file: &[u8], name: &str) -> (u64, u64) {
    let file = object::File::parse(file).unwrap();
    let address = file
        .symbols()
        .find(|symbol| symbol.name() == Ok(name) && symbol.section_index().is_some())
        .unwrap_or_else(|| panic!("no symbol {name}"))
        .address();
    let segment = file
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))
        .unwrap();
    (
        address,
        segment.file_range().0 + address - segment.address(),
    )
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(super) fn look(file: &[u8]) -> Result<Found, LookError> {
    look_at(&file.to_vec(), Limits::default())
}

pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}
