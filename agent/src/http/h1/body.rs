//! A body on its way: where it ends, and its first bytes.
//!
//! Invariant: memory is the prefix's limit, whatever the body's length. Invariant: each byte is looked at once.

use super::chunked::Chunked;
use super::framing::Framing;
use crate::http::prefix::Prefix;

/// What of the body is still to come.
pub(super) enum Body {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Going,
    Ended,
    /// Where the body ends can no longer be known.
    Lost,
}

impl Body {
    /// `None` if there is no body to read.
    pub fn of(framing: Framing) -> Option<Self> {
        match framing {
            Framing::Length(0)
            | Framing::Empty
            | Framing::Tunnel
            | Framing::Switched
            | Framing::Broken => None,
            Framing::Length(len) => Some(Self::Length(len)),
            Framing::Chunked => Some(Self::Chunked(Chunked::default())),
            Framing::UntilClose => Some(Self::UntilClose),
        }
    }

    /// Takes body bytes, at least one; says how many belonged to it. `prefix` is `None` when nobody wants them.
    pub fn data(&mut self, bytes: &[u8], mut prefix: Option<&mut Prefix>) -> (usize, Progress) {
        let mut keep = |bytes: &[u8]| {
            if let Some(prefix) = prefix.as_deref_mut() {
                prefix.add(bytes);
            }
        };
        let (used, progress) = match self {
            Self::UntilClose => {
                keep(bytes);
                (bytes.len(), Progress::Going)
            }
            Self::Length(left) => {
                let used = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                keep(&bytes[..used]);
                *left -= used as u64;
                (
                    used,
                    if *left == 0 {
                        Progress::Ended
                    } else {
                        Progress::Going
                    },
                )
            }
            Self::Chunked(chunked) => chunked.data(bytes, keep),
        };
        if let Some(prefix) = prefix {
            match (progress, &*self) {
                (Progress::Ended, _) => prefix.end(),
                (Progress::Lost, _) => prefix.cut(),
                // More is sure to come than fits: no need to wait for it.
                (Progress::Going, Self::Length(left)) => prefix.expect(*left),
                (Progress::Going, _) => {}
            }
        }
        (used, progress)
    }

    /// Takes `len` unknown bytes; says how many of them belonged to the body.
    pub fn gap(&mut self, len: u64, prefix: Option<&mut Prefix>) -> (u64, Progress) {
        if let Some(prefix) = prefix {
            prefix.cut();
        }
        match self {
            Self::UntilClose => (len, Progress::Going),
            Self::Length(left) => {
                let used = len.min(*left);
                *left -= used;
                (
                    used,
                    if *left == 0 {
                        Progress::Ended
                    } else {
                        Progress::Going
                    },
                )
            }
            Self::Chunked(chunked) => (len, chunked.gap(len)),
        }
    }
}
