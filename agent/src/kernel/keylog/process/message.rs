//! What passes between the privileged process and the finder's: two closed enums, in the form of
//! [`crate::privilege::message`].
//!
//! Invariant: an answer that is not sane is refused as a whole: no text in it is longer than what a search can give, and
//! none has characters that a terminal or a log would obey.

use super::{Failure, Lane};
use crate::kernel::keylog::finder::{Found, How, Point};
use crate::privilege::message::Message;
use serde::{Deserialize, Serialize};

/// Points of one file; sites of one point; libraries that are not read.
const POINTS: usize = 256;
const SITES: usize = 64;
const UNREAD: usize = 32;
/// Longest text: names of functions, labels, versions.
const TEXT: usize = 128;
/// Longest name that a library gives itself.
const SONAME: usize = 4096;
/// Digits of a build id.
const BUILD_ID: usize = 128;

/// To the finder. The file comes with it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    Search {
        number: u64,
        lane: Lane,
        /// What was found in a file that may be of the same build.
        hint: Option<Box<Found>>,
    },
}

/// From the finder.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is locked down.
    Ready { weaker: Vec<String> },
    /// The process that searches for this end of the pipe has begun.
    Begun { pid: u32 },
    /// It has ended, which it does not by itself: what it was asked for is lost.
    Died { by_signal: Option<i32> },
    Searched {
        number: u64,
        outcome: Result<Box<Found>, Failure>,
    },
}

impl Message for Ask {
    fn is_sane(&self) -> bool {
        // From the side that is trusted.
        true
    }
}

impl Message for Answer {
    fn is_sane(&self) -> bool {
        match self {
            Self::Ready { weaker } => {
                weaker.len() <= 16 && weaker.iter().all(|text| text.len() <= 1024)
            }
            Self::Searched {
                outcome: Ok(found), ..
            } => is_sane(found),
            _ => true,
        }
    }
}

fn is_sane(found: &Found) -> bool {
    let build_id = found.build_id.as_ref().map(|id| id.as_str());
    found.points.len() <= POINTS
        && found.unread.len() <= UNREAD
        && found.points.iter().all(is_sane_point)
        && found
            .unread
            .iter()
            .all(|unread| is_plain(unread.version.as_deref(), TEXT))
        && found
            .soname
            .as_ref()
            .is_none_or(|name| name.len() <= SONAME)
        && build_id.is_none_or(|id| {
            id.len() <= BUILD_ID && id.bytes().all(|digit| digit.is_ascii_hexdigit())
        })
}

fn is_sane_point(point: &Point) -> bool {
    is_plain(point.version.as_deref(), TEXT)
        && match &point.how {
            How::Labels(sites) => {
                sites.len() <= SITES && sites.iter().all(|site| is_plain(Some(&site.label), TEXT))
            }
            How::Export(name) => is_plain(Some(name), TEXT),
            How::GoFunction(function) => is_plain(Some(&function.name), TEXT),
            How::CallSite { .. } | How::MethodTable { .. } => true,
        }
}

fn is_plain(text: Option<&str>, longest: usize) -> bool {
    text.is_none_or(|text| {
        text.len() <= longest
            && text
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    })
}

#[cfg(test)]
pub(in crate::kernel::keylog) mod tests {
    use super::*;
    use crate::kernel::keylog::finder::{Library, PointKind, Site, Unread, UnreadReason};
    use crate::privilege::message::{Error, decode, encode};

    /// The most that a search gives.
    pub fn much() -> Found {
        let site = Site {
            label: "EARLY_EXPORTER_SECRET".into(),
            reference: u64::MAX,
            target: u64::MAX,
            tail: true,
        };
        let point = Point {
            kind: PointKind::KeyLog,
            file_offset: u64::MAX,
            virtual_address: u64::MAX,
            word: None,
            also: None,
            library: Library::Openssl,
            version: Some("3.0.0".into()),
            how: How::Labels(vec![site; 64]),
            chosen: true,
        };
        Found {
            size: 7,
            soname: Some("libssl.so.3".into()),
            points: vec![point; 16],
            functions: Vec::new(),
            unread: vec![Unread {
                library: Library::Nss,
                version: None,
                reason: UnreadReason::NoReader,
            }],
            ..Found::default()
        }
    }

    fn searched(found: Found) -> Answer {
        Answer::Searched {
            number: 1,
            outcome: Ok(Box::new(found)),
        }
    }

    #[test]
    fn messages_come_through() {
        for answer in [
            searched(much()),
            Answer::Ready {
                weaker: vec!["x".into()],
            },
            Answer::Begun { pid: 1 },
            Answer::Died { by_signal: Some(9) },
            Answer::Searched {
                number: 2,
                outcome: Err(Failure::Time),
            },
        ] {
            let bytes = encode(&answer).unwrap();
            assert_eq!(decode::<Answer>(&bytes).as_ref(), Ok(&answer));
        }
        let ask = Ask::Search {
            number: 1,
            lane: Lane::Ahead,
            hint: Some(Box::new(much())),
        };
        assert_eq!(decode::<Ask>(&encode(&ask).unwrap()), Ok(ask));
    }

    #[test]
    fn answers_that_no_search_gives_are_refused() {
        let changes: [&dyn Fn(&mut Found); 6] = [
            &|found| found.points = vec![found.points[0].clone(); POINTS + 1],
            &|found| found.points[0].version = Some("\x1b[2J".into()),
            &|found| found.points[0].how = How::Export("x".repeat(TEXT + 1)),
            &|found| found.soname = Some("x".repeat(SONAME + 1)),
            &|found| found.build_id = serde_json::from_str("\"../x\"").unwrap(),
            &|found| found.unread = vec![found.unread[0].clone(); UNREAD + 1],
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut found = much();
            found.points.truncate(1);
            change(&mut found);
            let refused = match encode(&searched(found)) {
                Ok(bytes) => decode::<Answer>(&bytes) == Err(Error::Form),
                Err(_) => true,
            };
            assert!(refused, "change {number}");
        }
    }
}
