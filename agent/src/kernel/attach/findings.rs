//! What a search found in one file, as the attacher uses it.

use crate::kernel::{
    keylog::{
        Found, Library, Point, PointKind,
        places::{LabelPlace, Place},
    },
    record::PointId,
};
use agent_common::abi::BREAKPOINTS_MAX;
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
    /// How many breakpoints the agent may take of a thread for it.
    pub slots: usize,
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

/// Which points come first where a thread has not enough breakpoints for all: those that pass every label, or the
/// secrets of TLS 1.3's application data by a label of its own (its length tells), then TLS 1.2's, then all others.
fn rank(point: &Point) -> u8 {
    match point.kind {
        PointKind::KeyLog => 0,
        PointKind::Placed(places) => match places.label {
            LabelPlace::Text { length, .. } => match length {
                Place::Constant(length) if length != APPLICATION_LABEL => 2,
                _ => 0,
            },
            LabelPlace::Master => 1,
        },
        PointKind::KdfDerive => 3,
    }
}

/// Breakpoints that the agent takes of a thread, usually.
const USUAL_SLOTS: usize = 2;

/// Bytes of `CLIENT_TRAFFIC_SECRET_0` and of `SERVER_TRAFFIC_SECRET_0`; `EXPORTER_SECRET` and those of the handshake have
/// another length.
const APPLICATION_LABEL: i32 = 23;

impl Findings {
    /// `id` gives the next one. `only_fallback`: no point of OpenSSL is wanted but the fallback.
    pub fn new(found: &Found, only_fallback: bool, mut id: impl FnMut() -> PointId) -> Self {
        // A debugger keeps two, but of programs that pass their secrets in more places (rustls, which is compiled in).
        let slots = match found.key_log_points().count() {
            ..=USUAL_SLOTS => USUAL_SLOTS,
            _ => BREAKPOINTS_MAX,
        };
        let mut known = |point: &Point| {
            Arc::new(Known {
                id: id(),
                point: point.clone(),
                slots,
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
        let wants_fallback = found.wants_fallback()
            || only_fallback && found.key_log_points().any(|point| is_left_out(&point));
        Self {
            points: chosen.into_iter().map(&mut known).collect(),
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
