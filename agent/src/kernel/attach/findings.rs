//! What a search found in one file, as the attacher uses it.

use crate::kernel::{
    keylog::{
        Found, Library, Point, PointKind,
        finder::{How, Passes},
    },
    record::PointId,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Of one file in one state.
#[derive(Debug)]
pub struct Findings {
    /// To be attached.
    pub points: Vec<Arc<Known>>,
    /// What stands in for points of these that take no uprobe, where uprobes are used.
    pub instead: Vec<Arc<Known>>,
    /// `EVP_KDF_derive`, where it is attached instead.
    pub fallback: Option<Arc<Known>>,
    /// An OpenSSL whose key-log point was not found: its process needs the fallback.
    pub wants_fallback: bool,
    pub unread: Vec<Library>,
    /// Lowest address of the program's executable segments.
    pub code_start: Option<u64>,
}

/// A point with its id.
#[derive(Debug)]
pub struct Known {
    pub id: PointId,
    pub point: Point,
    /// Its secrets opened nothing.
    dropped: AtomicBool,
    /// The worker has been told of it.
    told: AtomicBool,
}

impl Known {
    /// Whether a word of data tells of it, and not its code.
    pub fn is_watched(&self) -> bool {
        self.point.word.is_some()
    }

    /// Where its code is, if it is attached at this address.
    pub fn code_at(&self, address: u64) -> u64 {
        address.wrapping_sub_signed(self.point.word.unwrap_or(0))
    }

    /// What is watched, if its code is at this address.
    pub fn watched_at(&self, code: u64) -> u64 {
        code.wrapping_add_signed(self.point.word.unwrap_or(0))
    }

    pub fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
    }

    pub fn drop_it(&self) {
        self.dropped.store(true, Ordering::Relaxed);
    }

    /// True the first time.
    pub fn tell(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }
}

/// A call that passes a TLS 1.2 master secret.
fn is_master(point: &Point) -> bool {
    matches!(
        point.how,
        How::CallSite {
            passes: Passes::Master,
            ..
        }
    )
}

/// Which points come first where a process has not enough breakpoints for all: those that pass all secrets; those that pass
/// TLS 1.3's, or what of it opens application data; then what passes TLS 1.2's; then all others.
fn rank(point: &Point) -> u8 {
    match (&point.how, point.kind) {
        (_, PointKind::KdfDerive) => 5,
        // Of the default first, then of what a program may use in its place.
        (How::MethodTable { all: false }, _) => 2,
        (How::MethodTable { all: true }, _) => 3,
        (How::CallSite { passes, .. }, _) => match passes {
            Passes::All => 1,
            Passes::Client | Passes::Server => 1,
            Passes::Master => 2,
            Passes::Other => 4,
        },
        _ => 0,
    }
}

impl Findings {
    /// `id` gives the next one. `only_fallback`: no point of OpenSSL is wanted but the fallback.
    pub fn new(found: &Found, only_fallback: bool, mut id: impl FnMut() -> PointId) -> Self {
        let mut known = |point: &Point| {
            Arc::new(Known {
                id: id(),
                point: point.clone(),
                dropped: AtomicBool::new(false),
                told: AtomicBool::new(false),
            })
        };
        let is_left_out = |point: &&Point| only_fallback && point.library == Library::Openssl;
        let mut chosen: Vec<&Point> = found
            .key_log_points()
            .filter(|point| !is_left_out(point))
            .collect();
        chosen.sort_by_key(|point| rank(point));
        // What a watched word tells of needs no breakpoint of its own.
        let is_watched = chosen.iter().any(|point| point.word.is_some());
        let (instead, points): (Vec<&Point>, Vec<&Point>) = chosen
            .iter()
            .partition(|point| is_watched && is_master(point));
        let wants_fallback = found.wants_fallback()
            || only_fallback && found.key_log_points().any(|point| is_left_out(&point));
        Self {
            points: points.into_iter().map(&mut known).collect(),
            instead: instead.into_iter().map(&mut known).collect(),
            fallback: found.fallback().map(known),
            wants_fallback,
            unread: found.unread.iter().map(|unread| unread.library).collect(),
            code_start: found.code_start,
        }
    }

    /// Whether another search gave the same.
    pub fn is_same(&self, other: &Self) -> bool {
        let points = |findings: &Self| -> Vec<Point> {
            let points = findings.all().map(|known| known.point.clone());
            points.collect()
        };
        points(self) == points(other)
            && self.fallback.is_some() == other.fallback.is_some()
            && self.wants_fallback == other.wants_fallback
            && self.unread == other.unread
            && self.code_start == other.code_start
    }

    /// Whether a process that maps the file must be told of: see `abi::file`.
    pub fn matters(&self, fallback_is_wanted: bool) -> bool {
        !self.points.is_empty()
            || !self.unread.is_empty()
            || self.wants_fallback
            || fallback_is_wanted && self.fallback.is_some()
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Known>> {
        self.points
            .iter()
            .chain(&self.instead)
            .chain(&self.fallback)
    }

    pub fn is_fallback(point: &Known) -> bool {
        point.point.kind == PointKind::KdfDerive
    }
}
