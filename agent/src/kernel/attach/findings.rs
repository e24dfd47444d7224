//! What a search found in one file, as the attacher uses it.

use crate::kernel::{
    keylog::{Found, Library, Point, PointKind},
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
        let wants_fallback = found.wants_fallback()
            || only_fallback && found.key_log_points().any(|point| is_left_out(&point));
        Self {
            points: found
                .key_log_points()
                .filter(|point| !is_left_out(point))
                .map(&mut known)
                .collect(),
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
        self.points.iter().chain(&self.fallback)
    }

    pub fn is_fallback(point: &Known) -> bool {
        point.point.kind == PointKind::KdfDerive
    }
}
