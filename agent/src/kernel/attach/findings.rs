//! What a search found in one file, as the attacher uses it.

use crate::kernel::{
    keylog::{
        Found, Library, Point, PointKind,
        finder::How,
        places::{LabelPlace, Place},
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
        self.point.watch.is_some()
    }

    /// Whether this passes what `watched` would tell of.
    pub fn stands_for(&self, watched: &Self) -> bool {
        let PointKind::Placed(places) = self.point.kind else {
            return false;
        };
        let is_master = places.label == LabelPlace::Master;
        match (watched.point.kind, &watched.point.how) {
            (PointKind::Called, _) => !is_master,
            (_, How::MethodTable { all: true }) => true,
            _ => is_master,
        }
    }

    /// Where its code is, if it is attached at this address.
    pub fn code_at(&self, address: u64) -> u64 {
        match &self.point.watch {
            Some(watch) => address.wrapping_sub_signed(watch.word),
            None => address,
        }
    }

    /// What is watched, if its code is at this address.
    pub fn watched_at(&self, code: u64) -> u64 {
        match &self.point.watch {
            Some(watch) => code.wrapping_add_signed(watch.word),
            None => code,
        }
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

/// Which points come first where a process has not enough breakpoints for all: those that pass every secret, then what
/// passes the secrets of TLS 1.3 (by a label of its own, whose length tells: those of application data), then those of
/// TLS 1.2, then all others.
fn rank(point: &Point) -> u8 {
    match point.kind {
        PointKind::KeyLog => 0,
        PointKind::Called => 1,
        PointKind::Placed(places) => match places.label {
            LabelPlace::Text { .. } if point.watch.is_some() => match point.how {
                How::MethodTable { all: true } => 0,
                _ => 2,
            },
            LabelPlace::Text { length, .. } => match length {
                Place::Constant(length) if length != APPLICATION_LABEL => 3,
                _ => 1,
            },
            LabelPlace::Master => 2,
        },
        PointKind::KdfDerive => 4,
    }
}

/// Bytes of `CLIENT_TRAFFIC_SECRET_0` and of `SERVER_TRAFFIC_SECRET_0`; `EXPORTER_SECRET` and those of the handshake have
/// another length.
const APPLICATION_LABEL: i32 = 23;

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
        // A call that a watched word tells of needs no breakpoint of its own.
        let watched = |library| {
            let mut chosen = chosen.iter();
            chosen.any(|point| point.library == library && point.watch.is_some())
        };
        let (instead, points): (Vec<&Point>, Vec<&Point>) = chosen
            .iter()
            .partition(|point| point.watch.is_none() && watched(point.library));
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
