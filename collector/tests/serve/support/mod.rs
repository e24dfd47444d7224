//! A collector as a child, who delivers to it, and what it should have then.

pub mod chance;
pub mod events;
pub mod serve;
pub mod stored;

use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Starting a program takes long on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What `cargo xtask setup --test` has made, if it has.
pub fn fixture(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("TOKENTRAIL_FIXTURES").map_or_else(
        || {
            PathBuf::from(std::env::var_os("HOME").unwrap_or_default())
                .join(".cache/tokentrail/fixtures")
        },
        PathBuf::from,
    );
    Some(folder.join(path)).filter(|path| path.exists())
}

/// A number of the environment.
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number"))
    })
}

/// Waits until `check` says something.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > PATIENCE => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
