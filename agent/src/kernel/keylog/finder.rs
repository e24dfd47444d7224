//! The search of one file for the places where TLS secrets pass.
//!
//! A file is opened bounded ([`super::elf`]), asked for in the cache ([`super::cache`]), and given to each known form
//! ([`super::forms`]) in turn. The result names every point found, ranked, and every TLS library that is there and
//! cannot be read.
//!
//! Invariant: a file is never written, executed or mapped. Invariant: a point is the beginning of a function of the
//! form it names, by the evidence it carries; whether secrets pass there is proven only at run time.

use super::cache::Cache;
use super::elf::{BuildId, Elf, ElfError, FileSource, Source};
use super::forms::{self, Search, still_holds};
use super::headers::Headers;
use super::places::Places;
use super::scan::Scanner;
use super::state::FileState;
use crate::kernel::bridge::functions::{self, Place};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of one search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest file searched, in bytes.
    pub file_bytes: u64,
    /// Bytes of a segment held at a time: the search's memory.
    pub window_bytes: usize,
    /// Longest that one file's passes may take.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 1 << 30,
            window_bytes: 128 << 10,
            time: Duration::from_secs(20),
        }
    }
}

/// Why a file was not searched to the end.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Elf(#[from] ElfError),
    #[error("search stopped after {} s", .0.as_secs())]
    Time(Duration),
    #[error("a {0}, not a regular file")]
    NotAFile(&'static str),
    #[error("not tried again: {0}")]
    Earlier(String),
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl LookError {
    /// The kernel's reason, if it gave one.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Read(error) => Errno::from_io_error(error),
            _ => None,
        }
    }
}

/// What a point gives when it is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// Entry of `f(session, label, secret, length)`: rdi, rsi (NUL-terminated), rdx, rcx.
    KeyLog,
    /// Entry of `EVP_KDF_derive(ctx, out, outlen, const OSSL_PARAM params[])`: the fallback, dearer and more often
    /// hit. Attach it only where the libssl beside it has no key-log point.
    KdfDerive,
    /// An instruction of code in another form, or the entry of a method, and where that has what it passes.
    Placed(Places),
}

impl PointKind {
    /// Attached wherever it is found.
    pub fn is_first_choice(self) -> bool {
        self != Self::KdfDerive
    }
}

/// A TLS library by name, for reports and coverage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Library {
    Openssl,
    Boringssl,
    Gnutls,
    Go,
    Rustls,
    Nss,
    Jsse,
    Mbedtls,
    Wolfssl,
    S2n,
    /// It has the key log's labels, and nothing that names it.
    Unknown,
}

impl Library {
    pub fn name(self) -> &'static str {
        match self {
            Self::Openssl => "openssl",
            Self::Boringssl => "boringssl",
            Self::Gnutls => "gnutls",
            Self::Go => "go",
            Self::Rustls => "rustls",
            Self::Nss => "nss",
            Self::Jsse => "jsse",
            Self::Mbedtls => "mbedtls",
            Self::Wolfssl => "wolfssl",
            Self::S2n => "s2n",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One reference that led to a point: enough to check it again without a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// NSS key log label that the code takes the address of.
    pub label: String,
    /// Address of the instruction that takes it.
    pub reference: u64,
    /// Address of the label.
    pub target: u64,
    /// Reached by a tail `jmp` rather than a `call`.
    pub tail: bool,
}

/// Why a point is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// References to labels, each with the label as second argument of the call that follows.
    Labels(Vec<Site>),
    /// The name of an exported function.
    Export(String),
    /// A name in the table of functions that Go programs carry.
    GoFunction(GoFunction),
    /// Code that takes a label's address, or that of a table of labels, and then makes this indirect call.
    CallSite {
        reference: u64,
        target: u64,
        passes: Passes,
    },
    /// The table of methods of an implementation of rustls's `KeyLog`. `all`: it asks for every secret, so that `log` is
    /// called of every one.
    MethodTable { all: bool },
}

/// Which secrets a call passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passes {
    /// All of TLS 1.3.
    All,
    /// Of TLS 1.3's application data the client's.
    Client,
    /// The server's.
    Server,
    /// Others of TLS 1.3.
    Other,
    /// TLS 1.2's.
    Master,
}

/// Where the name of a Go function is bound to its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoFunction {
    pub name: String,
    /// Address of the table (`runtime.pcHeader`).
    pub table: u64,
    /// Number of the function's entry in it.
    pub index: u64,
    /// Address of the `runtime.moduledata` that says what the entries count from, if it is not the table itself.
    pub module: Option<u64>,
}

impl How {
    pub fn votes(&self) -> usize {
        match self {
            Self::Labels(sites) => sites.len(),
            Self::Export(_)
            | Self::GoFunction(_)
            | Self::CallSite { .. }
            | Self::MethodTable { .. } => 1,
        }
    }
}

/// A place to probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub kind: PointKind,
    /// What the kernel's uprobe wants: offset in the file.
    pub file_offset: u64,
    pub virtual_address: u64,
    /// From the point's address to a word of data that is read where this method is called, and nowhere else: a hit is told
    /// by that, and not by the code, which may be other methods' too. For breakpoints alone.
    pub word: Option<i64>,
    /// Another secret that passed before and is still there.
    pub also: Option<Places>,
    pub library: Library,
    pub version: Option<String>,
    pub how: How,
    /// To be attached by default: the most votes of its kind, ties included; every one of [`PointKind::Placed`], but such as
    /// another's [`also`](Self::also) makes needless.
    pub chosen: bool,
}

/// TLS code that is there and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unread {
    pub library: Library,
    pub version: Option<String>,
    pub reason: UnreadReason,
}

/// Closed list of reasons why TLS code is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnreadReason {
    /// The library's form has no reader yet.
    NoReader,
    /// The library has no place in a file where the secret passes.
    NoPlace,
    /// A library of a known form, in which no code led from a label to one function.
    NotFound,
    /// Code led from a label to a function, but of another form.
    OtherForm,
}

impl UnreadReason {
    pub fn text(self) -> &'static str {
        match self {
            Self::NoReader => "this library is not read yet",
            Self::NoPlace => "it has no place in a file where the secret passes",
            Self::NotFound => "its labels are there, but no code leads from them to one function",
            Self::OtherForm => "its labels lead to a function of another form",
        }
    }
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    pub build_id: Option<BuildId>,
    pub size: u64,
    pub soname: Option<String>,
    /// The lowest address of a segment of code, as the file has it: the kernel's `mm->start_code` of a process that runs the
    /// file is this, plus by how much the program was moved.
    pub code_start: Option<u64>,
    /// Best first within each kind, key-log points before fallbacks.
    pub points: Vec<Point>,
    pub unread: Vec<Unread>,
    /// Functions of a TLS library that send and receive, for connections that were open before.
    pub functions: Vec<Place>,
}

impl Found {
    /// The points to attach by default: none in most files, one in a C library, some in other programs.
    pub fn key_log_points(&self) -> impl Iterator<Item = &Point> {
        self.points
            .iter()
            .filter(|point| point.chosen && point.kind.is_first_choice())
    }

    /// The fallback, in a libcrypto.
    pub fn fallback(&self) -> Option<&Point> {
        self.points
            .iter()
            .find(|point| point.kind == PointKind::KdfDerive)
    }

    /// More than one key-log point has the most votes, or one that has fewer is there too.
    pub fn is_ambiguous(&self) -> bool {
        self.points
            .iter()
            .filter(|point| point.kind == PointKind::KeyLog)
            .count()
            > 1
    }

    /// An OpenSSL whose key-log point was not found: what [`Found::fallback`] of the libcrypto beside it is for.
    pub fn wants_fallback(&self) -> bool {
        self.unread.iter().any(|unread| {
            unread.library == Library::Openssl
                && matches!(
                    unread.reason,
                    UnreadReason::NotFound | UnreadReason::OtherForm
                )
        })
    }

    /// No TLS code at all.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.unread.is_empty()
    }
}

/// Searches files, each once.
pub struct Finder {
    limits: Limits,
    cache: Cache,
    counts: Counts,
}

/// What the finder has done, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub searched: u64,
    pub from_cache: u64,
    pub failed: u64,
}

impl Finder {
    pub fn new(cache: Cache) -> Self {
        Self::with_limits(cache, Limits::default())
    }

    pub fn with_limits(cache: Cache, limits: Limits) -> Self {
        Self {
            limits,
            cache,
            counts: Counts::default(),
        }
    }

    /// What an open file holds. Searches it unless the cache knows it. May block on the file's own file system
    /// (network, FUSE), so not for a thread that must not wait.
    pub fn look_at_file(&mut self, file: &File) -> Result<Found, LookError> {
        let looked = self.look(file);
        if looked.is_err() {
            self.counts.failed += 1;
        }
        looked
    }

    /// The answer for a file in this state that needs no look at the file: nothing to probe in it, as far as is known.
    pub(super) fn nothing_in(&mut self, state: &FileState) -> Option<Found> {
        let found = self
            .cache
            .by_state(state)
            .filter(|found| found.points.is_empty());
        self.counts.from_cache += u64::from(found.is_some());
        found.map(|found| Found::clone(&found))
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn cache_mut(&mut self) -> &mut Cache {
        &mut self.cache
    }

    fn look(&mut self, file: &File) -> Result<Found, LookError> {
        let state = FileState::of(file)?;
        if let Some(message) = self.cache.failure(&state) {
            return Err(LookError::Earlier(message));
        }
        if let Some(found) = self.nothing_in(&state) {
            return Ok(found);
        }
        let known = self.cache.by_state(&state);
        let source = FileSource::new(file)?;
        let elf = Elf::open(&source, self.limits.file_bytes)?;
        let build = Headers::read(&source)?.map(|headers| headers.build());
        let known = known.or_else(|| self.cache.by_build(&build?));
        if let Some(found) = known
            && holds(&elf, &found)?
        {
            self.counts.from_cache += 1;
            self.cache.keep(Some(state), build, &found);
            return Ok(Found::clone(&found));
        }
        self.counts.searched += 1;
        match search(&elf, self.limits) {
            Ok(found) => {
                let found = Arc::new(found);
                self.cache.keep(Some(state), build, &found);
                Ok(Found::clone(&found))
            }
            Err(error) => {
                if matches!(error, LookError::Time(_)) {
                    self.cache.keep_failure(state, error.to_string());
                }
                Err(error)
            }
        }
    }
}

/// Whether what was found in a file that seemed to be of the same build is true of this one.
fn holds(elf: &Elf<'_>, found: &Found) -> io::Result<bool> {
    Ok(found.build_id.as_ref() == elf.build_id()
        && found.size == elf.source().size()
        && still_holds(elf, found)?)
}

/// Searches a file, unless it proves to be the one in which `hint` was found.
pub(super) fn look_again(
    source: &dyn Source,
    hint: Option<&Found>,
    limits: Limits,
) -> Result<Found, LookError> {
    let elf = Elf::open(source, limits.file_bytes)?;
    match hint {
        // A build id is the reason to believe that nothing else is in it.
        Some(hint) if elf.build_id().is_some() && holds(&elf, hint)? => Ok(Found {
            functions: functions::find(&elf)?,
            ..hint.clone()
        }),
        _ => search(&elf, limits),
    }
}

/// Searches bytes, without a cache.
pub fn look_at(source: &dyn Source, limits: Limits) -> Result<Found, LookError> {
    search(&Elf::open(source, limits.file_bytes)?, limits)
}

fn search(elf: &Elf<'_>, limits: Limits) -> Result<Found, LookError> {
    let found = Found {
        build_id: elf.build_id().cloned(),
        size: elf.source().size(),
        soname: elf.dynamic().soname.clone(),
        code_start: Headers::read(elf.source())?.and_then(|headers| headers.code_start()),
        points: Vec::new(),
        unread: Vec::new(),
        functions: functions::find(elf)?,
    };
    let mut search = Search::new(elf, Scanner::new(elf, limits), found);
    forms::search(&mut search)?;
    Ok(search.found)
}
