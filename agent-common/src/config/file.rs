//! Reading a configuration file.

use serde::de::DeserializeOwned;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const SIZE_LIMIT: u64 = 1024 * 1024;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is not a regular file")]
    NotAFile { path: PathBuf },
    #[error("{path} has {bytes} bytes, more than the {SIZE_LIMIT} that a configuration may have")]
    TooLarge { path: PathBuf, bytes: u64 },
    #[error(
        "{path} belongs to user {owner}, neither to root nor to user {user}, who reads it; `chown {user} {path}` would do"
    )]
    Owner {
        path: PathBuf,
        owner: u32,
        user: u32,
    },
    #[error("{path} is writable by others (mode {mode:04o}); `chmod go-w {path}` would do")]
    Writable { path: PathBuf, mode: u32 },
    /// `line` and `column` count from 1; column in characters.
    #[error("{path}:{line}:{column}: {message}")]
    Parse {
        path: PathBuf,
        line: usize,
        column: usize,
        message: String,
    },
}

/// Reads and parses a file that only root or the program's own user may write.
///
/// # Errors
/// If it cannot be read, may be written by others, or is not a valid configuration.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let read = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::OpenOptions::new()
        .read(true)
        // A pipe without a writer would hold the program.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    refuse_writable_by_others(path, &metadata)?;
    if metadata.len() > SIZE_LIMIT {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            bytes: metadata.len(),
        });
    }
    let mut text = String::new();
    file.take(SIZE_LIMIT)
        .read_to_string(&mut text)
        .map_err(read)?;
    parse(path, &text)
}

/// What [`load`] returns, or every default where no file was named.
///
/// # Errors
/// As [`load`].
pub fn load_or_default<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Error> {
    path.map(load).transpose().map(Option::unwrap_or_default)
}

/// Refuses what anyone but root and the program's own user may change. `metadata` is of the opened file, so that it
/// cannot be exchanged meanwhile.
///
/// # Errors
/// [`Error::NotAFile`], [`Error::Owner`], [`Error::Writable`].
pub fn refuse_writable_by_others(path: &Path, metadata: &Metadata) -> Result<(), Error> {
    let path = path.to_owned();
    let user = rustix::process::geteuid().as_raw();
    if !metadata.is_file() {
        Err(Error::NotAFile { path })
    } else if metadata.uid() != 0 && metadata.uid() != user {
        Err(Error::Owner {
            path,
            owner: metadata.uid(),
            user,
        })
    } else if metadata.mode() & OTHERS_WRITE != 0 {
        Err(Error::Writable {
            path,
            mode: metadata.mode() & 0o7777,
        })
    } else {
        Ok(())
    }
}

/// Parses a configuration; `path` is for messages.
///
/// # Errors
/// [`Error::Parse`] at the first place that is not understood, with what would be.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, Error> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let before = text.get(..at).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Error::Parse {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: error.message().trim().replace('\n', "; "),
        }
    })
}
