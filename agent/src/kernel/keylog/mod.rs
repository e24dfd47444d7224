//! Finding the key-log points of TLS code in files: which files, which places, without symbols and without running anything.
//!
//! [`discover`] says which files a process has mapped and where libraries usually are; [`finder`] searches one file
//! by the [`forms`] it knows and remembers it in the [`cache`]; [`report`] tells a person what was found in a program.
//! Attaching is the business of `kernel/`. Where secrets pass in which library: `shared/design/tls-libraries.md`.
//!
//! Invariant: knows no aya, HTTP or connections. Invariant: every file is taken to be hostile; time and memory of a
//! look at one are bounded whatever it says about itself.

pub mod cache;
mod code;
pub mod discover;
pub mod elf;
pub mod finder;
pub mod forms;
pub mod headers;
mod ldcache;
mod needles;
pub(crate) mod places;
pub mod process;
pub mod report;
mod scan;
pub mod searches;
pub mod state;
mod symbolic;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use finder::{
    Finder, Found, Library, Limits, LookError, Point, PointKind, Unread, UnreadReason,
};
pub use places::Places;
pub use process::{Class, SearchError, client::Client};
pub use searches::{Job, Searched, Searches};
pub use state::{FileState, Seen};

#[doc(hidden)]
pub mod fuzz {
    use super::finder::{Limits, look_at};
    use super::{discover, ldcache};
    use std::time::Duration;

    /// Looks at `data` as an ELF file: no panic, and every point lies in the file at the address it says.
    pub fn elf(data: &[u8]) {
        let data = data.to_vec();
        let limits = Limits {
            file_bytes: 1 << 24,
            window_bytes: 4096,
            time: Duration::from_secs(5),
        };
        let Ok(found) = look_at(&data, limits) else {
            return;
        };
        for point in &found.points {
            assert!(
                point.file_offset < data.len() as u64,
                "a point outside the file"
            );
        }
        let chosen = found.key_log_points().count();
        let all = found
            .points
            .iter()
            .filter(|point| point.kind == super::PointKind::KeyLog);
        assert!(
            all.count() == 0 || chosen > 0,
            "points, and none of them chosen"
        );
    }

    /// Reads `data` as `/proc/PID/maps` and as `/etc/ld.so.cache`.
    pub fn text(data: &[u8]) {
        for mapping in discover::parse_maps(1, data) {
            assert!(mapping.id.inode != 0);
        }
        let _ = ldcache::parse(data);
    }
}
