//! What passes between the two processes: two closed enums, one for each direction.
//!
//! Form: one byte [`VERSION`], then postcard (its specification is fixed: <https://postcard.jamesmunns.com>). One
//! message is one datagram of a `SOCK_SEQPACKET` socket, so that nothing has to be framed.
//!
//! Invariant: a message is at most [`MESSAGE_MAX`] bytes, and what is not exactly one message is refused.
//! Invariant: no message has a `Debug` form that shows a key.

use crate::flow::Nanos;
use crate::identity::executable::{Found, Request};
use crate::identity::eyes::Running;
use crate::kernel::points::{Change, path};
use crate::kernel::record::{ConnectionKey, FileId, PointId, ProcessKey};
use agent_common::event::{Hook, Host};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Of the messages' form. Both sides are the same executable, so that another one is a mistake.
pub const VERSION: u8 = 1;

/// Most bytes of one message: the configuration and a keyring of 64 KiB fit. Well below `net.core.wmem_default`.
pub const MESSAGE_MAX: usize = 128 * 1024;

/// Longest text that is taken from the other side where it is not part of the configuration.
const TEXT_MAX: usize = 16 * 1024;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a message of {0} bytes is longer than {MESSAGE_MAX}")]
    TooLong(usize),
    #[error("a message is empty")]
    Empty,
    #[error("a message has version {0}, this program knows version {VERSION}")]
    Version(u8),
    #[error("a message has no known form")]
    Form,
    #[error("{0} bytes follow a message")]
    Trailing(usize),
}

/// From the worker.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// It is locked down and waits for [`Tell::Start`].
    Ready {
        /// What this kernel could not do for it.
        weaker: Vec<String>,
    },
    /// Look at the files that this process has mapped.
    Look(ProcessKey),
    /// This point did not prove itself.
    DropPoint(PointId),
    /// TLS whose begin was not seen passes through the process's socket of this inode number: see [`crate::kernel::bridge`].
    Bridge {
        process: ProcessKey,
        socket: u64,
    },
    /// It does not, or not any more.
    BridgeOver {
        process: ProcessKey,
        socket: u64,
    },
    /// More of this connection is to be copied: see [`crate::kernel::probes::Probes::multiplexed`].
    Multiplexed(ConnectionKey),
    CgroupMade {
        path: String,
    },
    Counters {
        number: u64,
    },
    Find {
        number: u64,
        request: Request,
    },
    Running {
        number: u64,
        pid: u32,
    },
    StillRuns {
        number: u64,
        pid: u32,
        file: Option<FileId>,
    },
    UserName {
        number: u64,
        uid: u32,
    },
    /// The pipeline's loop goes round.
    Alive,
    /// Stop in good order: standard output's reader has gone.
    Stop,
    /// Answer to [`Tell::Attaching`]: nothing of before is left.
    Waits,
}

/// From the privileged process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// The first message; the ring's descriptor comes with it.
    Begin(Box<Begin>),
    /// Files are looked at from now on: take records.
    Start,
    /// Of key-log points and of what processes have mapped.
    Change(Change),
    Found {
        number: u64,
        found: Found,
    },
    Answer {
        number: u64,
        answer: Answer,
    },
    /// A cgroup of the scope is back.
    ScopeChanged {
        path: String,
    },
    /// A file that the configuration names comes with this, opened: for the next [`Tell::Reload`].
    File {
        #[serde(with = "path")]
        path: PathBuf,
    },
    Reload(Settings),
    /// The probes are detached: read what is left, and end.
    Stop,
    /// What may be afforded (see `crate::budget`): exchanges to be read, of [`crate::budget::WHOLE`], and whether what
    /// waits is to be given up.
    Budget {
        kept: u16,
        shed: bool,
    },
    /// The probes are detached since `at`, for a while.
    Detached {
        at: Nanos,
        /// What was over.
        why: String,
    },
    /// They will be attached again: read what is left, leave the ring alone from then on, and answer [`Ask::Waits`].
    Attaching,
    /// They are: read the ring again.
    Attached {
        at: Nanos,
    },
}

/// What a worker begins with.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    pub settings: Settings,
    /// User and group id of the worker, if it has its own.
    pub account: Option<(u32, u32)>,
    pub scope: Vec<String>,
    pub hook: Hook,
    pub host: HostFacts,
    pub epoch: u64,
}

/// [`Host`], whose own form leaves fields out, which this encoding cannot.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    pub id: Option<String>,
    pub name: String,
    pub boot_id: String,
}

impl From<Host> for HostFacts {
    fn from(host: Host) -> Self {
        Self {
            id: host.id,
            name: host.name,
            boot_id: host.boot_id,
        }
    }
}

impl From<HostFacts> for Host {
    fn from(host: HostFacts) -> Self {
        Self {
            id: host.id,
            name: host.name,
            boot_id: host.boot_id,
        }
    }
}

/// What may change while the agent runs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The whole configuration with what the command line says over it, as TOML.
    pub config: String,
    /// Text of the key file; `None`: the worker makes a key for this run.
    pub keys: Option<Keys>,
}

/// Text of a key file.
#[derive(PartialEq, Eq)]
pub struct Keys(pub Zeroizing<String>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from).map(|text| Self(Zeroizing::new(text)))
    }
}

/// Of a question with the same number.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// By row and reason, or why they cannot be read.
    Counters(Result<Vec<u64>, String>),
    Running(Option<Running>),
    StillRuns(bool),
    UserName(Option<String>),
}

/// A kind of message.
pub trait Message: Serialize + DeserializeOwned {
    /// Its variable parts are not longer than their places deserve.
    fn is_sane(&self) -> bool;
}

impl Message for Ask {
    fn is_sane(&self) -> bool {
        match self {
            Self::Ready { weaker } => weaker.iter().map(String::len).sum::<usize>() <= TEXT_MAX,
            Self::CgroupMade { path } => path.len() <= TEXT_MAX,
            Self::Find { request, .. } => request
                .filename
                .as_ref()
                .is_none_or(|name| name.len() <= TEXT_MAX),
            _ => true,
        }
    }
}

impl Message for Tell {
    fn is_sane(&self) -> bool {
        // From the side that is trusted: the length of the message is bound enough.
        true
    }
}

/// # Errors
/// If it would be too long.
pub fn encode(message: &impl Message) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Sized first, so that nothing grows: growing would leave copies of keys behind.
    let size = postcard::experimental::serialized_size(message).map_err(|_| Error::Form)? + 1;
    if size > MESSAGE_MAX {
        return Err(Error::TooLong(size));
    }
    let mut bytes = Zeroizing::new(vec![VERSION; size]);
    postcard::to_slice(message, &mut bytes[1..]).map_err(|_| Error::Form)?;
    Ok(bytes)
}

/// # Errors
/// If `bytes` are not exactly one message.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, Error> {
    if bytes.len() > MESSAGE_MAX {
        return Err(Error::TooLong(bytes.len()));
    }
    let (version, body) = bytes.split_first().ok_or(Error::Empty)?;
    if *version != VERSION {
        return Err(Error::Version(*version));
    }
    let (message, rest): (M, _) = postcard::take_from_bytes(body).map_err(|_| Error::Form)?;
    if !rest.is_empty() {
        return Err(Error::Trailing(rest.len()));
    }
    if !message.is_sane() {
        return Err(Error::Form);
    }
    Ok(message)
}

/// Entry points for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use super::{Ask, Message, Tell, decode, encode};
    use crate::kernel::keylog::process::message as finder;

    /// Whatever comes through the pipe is refused, or says the same when it is said again.
    pub fn messages(data: &[u8]) {
        again::<Ask>(data);
        again::<Tell>(data);
        again::<finder::Ask>(data);
        again::<finder::Answer>(data);
    }

    fn again<M: Message + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = decode::<M>(data) {
            let encoded = encode(&message).unwrap_or_default();
            // Shorter or equal: postcard reads numbers that are longer than they need be.
            assert!(encoded.len() <= data.len());
            assert_eq!(decode::<M>(&encoded), Ok(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::keylog::Library;
    use crate::kernel::points::{Mapped, State, Unattached};
    use agent_common::event::{HashAbsent, Hex};

    fn tells() -> Vec<Tell> {
        let process = ProcessKey { pid: 7, start: 9 };
        let found = |digest| Found {
            path: Some("/bin/x".into()),
            deleted: true,
            user_namespace: Some(4_026_531_837),
            digest,
        };
        let settings = |keys: Option<&str>| Settings {
            config: "[agent]\n".into(),
            keys: keys.map(|text| Keys(Zeroizing::new(text.into()))),
        };
        vec![
            Tell::Begin(Box::new(Begin {
                settings: settings(None),
                account: Some((5, 6)),
                scope: vec!["host".into()],
                hook: Hook::Fentry,
                host: HostFacts {
                    id: None,
                    name: "h".into(),
                    boot_id: "b".into(),
                },
                epoch: 5,
            })),
            Tell::Change(Change::Mapped {
                process,
                mapped: Mapped {
                    library: Library::Openssl,
                    path: "/lib/x".into(),
                    attached: Some(3),
                    point: Some(PointId(2)),
                    why: Some(Unattached::TextCopied),
                },
            }),
            Tell::Change(Change::State {
                point: PointId(3),
                state: State::Dropped,
            }),
            Tell::Found {
                number: 1,
                found: found(Some(Ok(Hex([7; 32])))),
            },
            Tell::Found {
                number: 1,
                found: found(Some(Err(HashAbsent::Gone))),
            },
            Tell::Answer {
                number: u64::MAX,
                answer: Answer::Counters(Ok(vec![1, 2])),
            },
            Tell::Reload(settings(Some("secret"))),
            Tell::Stop,
            Tell::Budget {
                kept: 3,
                shed: true,
            },
            Tell::Detached {
                at: 4,
                why: "memory".into(),
            },
            Tell::Attaching,
            Tell::Attached { at: 5 },
        ]
    }

    fn asks() -> Vec<Ask> {
        let process = ProcessKey { pid: 7, start: 9 };
        let file = FileId {
            device: 1,
            inode: 2,
        };
        vec![
            Ask::Ready {
                weaker: vec!["no Landlock".into()],
            },
            Ask::Look(process),
            Ask::DropPoint(PointId(1)),
            Ask::Multiplexed(ConnectionKey { sock: 1, inode: 2 }),
            Ask::Bridge { process, socket: 3 },
            Ask::BridgeOver { process, socket: 3 },
            Ask::CgroupMade { path: "/a".into() },
            Ask::Find {
                number: 3,
                request: Request {
                    pid: 1,
                    parent: None,
                    filename: Some("x".into()),
                    file,
                },
            },
            Ask::StillRuns {
                number: 4,
                pid: 1,
                file: Some(file),
            },
            Ask::Stop,
            Ask::Waits,
        ]
    }

    /// It comes through as it is; cut anywhere, or with something behind it, it is refused.
    fn check<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
        let bytes = encode(message).unwrap();
        assert_eq!(decode::<M>(&bytes).as_ref(), Ok(message));
        for end in 0..bytes.len() {
            assert!(
                decode::<M>(&bytes[..end]).is_err(),
                "{message:?} cut at {end}"
            );
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(decode::<M>(&longer), Err(Error::Trailing(1)));
        let mut newer = bytes.to_vec();
        newer[0] = VERSION + 1;
        assert_eq!(decode::<M>(&newer), Err(Error::Version(VERSION + 1)));
    }

    #[test]
    fn messages_come_through_whole_or_not_at_all() {
        tells().iter().for_each(check);
        asks().iter().for_each(check);
        assert_eq!(decode::<Ask>(&[]), Err(Error::Empty));
        assert_eq!(decode::<Ask>(&[VERSION, 99]), Err(Error::Form));
    }

    #[test]
    fn long_messages_are_refused() {
        let path = "x".repeat(MESSAGE_MAX);
        assert!(matches!(
            encode(&Ask::CgroupMade { path }),
            Err(Error::TooLong(_))
        ));
        assert_eq!(
            decode::<Ask>(&vec![VERSION; MESSAGE_MAX + 1]),
            Err(Error::TooLong(MESSAGE_MAX + 1))
        );
        let path = "x".repeat(TEXT_MAX + 1);
        let bytes = encode(&Ask::CgroupMade { path }).unwrap();
        assert_eq!(decode::<Ask>(&bytes), Err(Error::Form));
    }

    #[test]
    fn keys_are_not_shown() {
        let shown = format!("{:?}", tells());
        assert!(!shown.contains("secret"));
    }
}
