//! What was found in a program, for a person: `tokentrail-agent doctor --program PATH`.
//!
//! A dynamically linked program mostly has no TLS of its own, so the libraries that it needs are resolved as the loader
//! would (RPATH, RUNPATH with `$ORIGIN`, `/etc/ld.so.cache`, the usual folders) and those that carry TLS are reported
//! with it. Libraries opened later (`dlopen`) cannot be known from a file.
//!
//! Invariant: reads only; every answer, also "nothing", is said.

use super::discover::{library_folders, open_regular};
use super::elf::{Dynamic, Elf, FileSource};
use super::finder::{Finder, Found, How, LookError, Point, PointKind};
use super::ldcache;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Libraries resolved for one program.
const LIBRARIES: usize = 512;

/// One file's part of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileReport {
    pub path: PathBuf,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of looking at a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Found(Found),
    /// Why it could not be looked at.
    Failed(String),
}

/// What a program holds, and what the libraries hold that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub program: FileReport,
    /// Needed libraries that carry TLS, or could not be looked at.
    pub libraries: Vec<FileReport>,
    /// Number of needed libraries looked at.
    pub looked_at: usize,
    /// Needed, and found nowhere.
    pub missing: Vec<String>,
}

/// Looks at the file at `path` and at the libraries that it needs.
pub fn of_program(path: &Path, finder: &mut Finder) -> Report {
    let mut report = Report {
        program: look(path, finder),
        libraries: Vec::new(),
        looked_at: 0,
        missing: Vec::new(),
    };
    if matches!(report.program.outcome, Outcome::Failed(_)) {
        return report;
    }
    let mut resolver = Resolver::new();
    let mut queue = resolver.needed_by(path);
    let mut seen = BTreeSet::new();
    while let Some((name, found)) = queue.pop() {
        if seen.len() >= LIBRARIES || !seen.insert(name.clone()) {
            continue;
        }
        let Some(library) = found else {
            report.missing.push(name);
            continue;
        };
        report.looked_at += 1;
        let looked = look(&library, finder);
        queue.extend(resolver.needed_by(&library));
        match &looked.outcome {
            Outcome::Found(found) if found.is_empty() => {}
            _ => report.libraries.push(looked),
        }
    }
    report.libraries.sort_by(|a, b| a.path.cmp(&b.path));
    report.missing.sort();
    report
}

fn look(path: &Path, finder: &mut Finder) -> FileReport {
    let looked = open_regular(path).and_then(|file| match finder.look_at_file(&file) {
        Err(LookError::Elf(super::elf::ElfError::NotElf)) => Ok(Outcome::Failed(not_elf(&file))),
        looked => looked.map(Outcome::Found),
    });
    FileReport {
        path: path.to_owned(),
        outcome: looked.unwrap_or_else(|error| Outcome::Failed(error.to_string())),
    }
}

/// A script is the likeliest mistake: say whose file to give instead.
fn not_elf(file: &File) -> String {
    let mut start = [0; 128];
    let mut reader: &File = file;
    let read = reader.read(&mut start).unwrap_or(0);
    let first = start[..read]
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    match first.strip_prefix(b"#!") {
        Some(interpreter) => format!(
            "a script, not a program: look at its interpreter ({})",
            String::from_utf8_lossy(interpreter.trim_ascii()).escape_debug()
        ),
        None => "not an ELF file".to_owned(),
    }
}

/// Finds needed libraries as the loader would, but for its environment.
struct Resolver {
    cached: Vec<(String, PathBuf)>,
}

impl Resolver {
    fn new() -> Self {
        Self {
            cached: ldcache::load(),
        }
    }

    /// The libraries that `path` needs by itself, each with its path if there is one.
    fn needed_by(&mut self, path: &Path) -> Vec<(String, Option<PathBuf>)> {
        let Some(dynamic) = dynamic_of(path) else {
            return Vec::new();
        };
        let own = own_folders(path, &dynamic);
        dynamic
            .needed
            .iter()
            .map(|name| (name.clone(), self.resolve(name, &own)))
            .collect()
    }

    fn resolve(&self, name: &str, own: &[PathBuf]) -> Option<PathBuf> {
        if name.contains('/') {
            return Some(PathBuf::from(name));
        }
        let cached = self.cached.iter().filter(|(known, _)| known == name);
        own.iter()
            .map(|folder| folder.join(name))
            .chain(cached.map(|(_, path)| path.clone()))
            .chain(library_folders().map(|folder| folder.join(name)))
            // The same name may stand for a library of another machine.
            .find(|path| dynamic_of(path).is_some())
    }
}

fn dynamic_of(path: &Path) -> Option<Dynamic> {
    let file = open_regular(path).ok()?;
    let source = FileSource::new(&file).ok()?;
    let elf = Elf::open(&source, u64::MAX).ok()?;
    Some(elf.dynamic().clone())
}

/// RUNPATH, or else RPATH, with `$ORIGIN` put in (ld.so(8)).
fn own_folders(path: &Path, dynamic: &Dynamic) -> Vec<PathBuf> {
    let origin = fs::canonicalize(path).ok();
    let origin = origin
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::to_str);
    let folders = dynamic.runpath.as_ref().or(dynamic.rpath.as_ref());
    folders
        .map(|folders| folders.split(':'))
        .into_iter()
        .flatten()
        .filter_map(|folder| match origin {
            Some(origin) => Some(
                folder
                    .replace("${ORIGIN}", origin)
                    .replace("$ORIGIN", origin),
            ),
            None => (!folder.contains("ORIGIN")).then(|| folder.to_owned()),
        })
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .collect()
}

impl Report {
    /// For a terminal. Names from files are escaped.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = self.write(&mut text);
        text
    }

    pub fn json(&self) -> serde_json::Value {
        // Paths that are not UTF-8 are the one thing that has no JSON.
        serde_json::to_value(self)
            .unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }))
    }

    /// There is TLS code, and all of it can be read.
    pub fn is_read(&self) -> bool {
        let mut found = self.files().filter_map(|file| match &file.outcome {
            Outcome::Found(found) => Some(found),
            Outcome::Failed(_) => None,
        });
        let points = found
            .clone()
            .any(|found| found.key_log_points().next().is_some());
        points && found.all(|found| found.unread.is_empty())
    }

    fn files(&self) -> impl Iterator<Item = &FileReport> + Clone {
        std::iter::once(&self.program).chain(&self.libraries)
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        self.program.write(text)?;
        if self.looked_at > 0 || !self.missing.is_empty() {
            writeln!(text)?;
            writeln!(
                text,
                "needs {} libraries, {} of them with TLS code or not readable",
                self.looked_at + self.missing.len(),
                self.libraries.len()
            )?;
        }
        for library in &self.libraries {
            writeln!(text)?;
            library.write(text)?;
        }
        for name in &self.missing {
            writeln!(text, "  needed and not found: {}", name.escape_debug())?;
        }
        Ok(())
    }
}

impl FileReport {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}", self.path.display().to_string().escape_debug())?;
        let found = match &self.outcome {
            Outcome::Failed(why) => return writeln!(text, "  not looked at: {why}"),
            Outcome::Found(found) => found,
        };
        if let Some(build_id) = &found.build_id {
            writeln!(text, "  build id  {build_id}")?;
        }
        for point in &found.points {
            write_point(text, point)?;
        }
        for unread in &found.unread {
            let version = version(unread.version.as_deref());
            writeln!(
                text,
                "  not read  {}{version}: {}",
                unread.library,
                unread.reason.text()
            )?;
        }
        if found.is_ambiguous() {
            writeln!(
                text,
                "  note      more than one function fits: each must prove itself by opening a record"
            )?;
        }
        if found.is_empty() {
            writeln!(text, "  no TLS code of a known library")?;
        }
        Ok(())
    }
}

fn write_point(text: &mut String, point: &Point) -> std::fmt::Result {
    let kind = match point.kind {
        PointKind::KeyLog | PointKind::Placed(_) => "key log ",
        PointKind::KdfDerive => "fallback",
    };
    let version = version(point.version.as_deref());
    write!(
        text,
        "  {kind}  {}{version}: file offset {:#x}, address {:#x}, ",
        point.library, point.file_offset, point.virtual_address
    )?;
    match &point.how {
        How::Labels(sites) => {
            let mut labels: Vec<&str> = sites.iter().map(|site| site.label.as_str()).collect();
            labels.sort_unstable();
            labels.dedup();
            let count = sites.len();
            let votes = if count == 1 { "vote" } else { "votes" };
            write!(text, "{count} {votes} from {}", labels.join(", "))?;
        }
        How::Export(name) => write!(text, "exported as {name}")?,
        How::GoFunction(function) => write!(text, "{}", function.name)?,
        How::CallSite { reference, .. } => {
            write!(text, "call of KeyLog after {reference:#x}")?;
        }
        How::MethodTable { .. } => write!(text, "method of KeyLog")?,
    }
    writeln!(
        text,
        "{}",
        if point.chosen {
            ""
        } else {
            " (not the first choice)"
        }
    )
}

fn version(version: Option<&str>) -> String {
    version
        .map(|version| format!(" {}", version.escape_debug()))
        .unwrap_or_default()
}
