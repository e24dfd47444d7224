//! Replays recordings through a [`Session`].

use super::peers::Recording;
use crate::flow::{Budget, Direction, GapReason, Origin, Payload, Piece};
use crate::kernel::record::{Caller, PointId, ProcessKey, SecretRecord};
use crate::tls::{Facts, Output, Pool, PoolLimits, Session, SessionLimits};

pub const PROCESS: ProcessKey = ProcessKey { pid: 7, start: 70 };

/// What came out of a connection.
#[derive(Default)]
pub struct Read {
    /// Plaintext of each direction; unknown bytes are `?`.
    pub text: [Vec<u8>; 2],
    pub gaps: [Vec<(u64, u64, GapReason)>; 2],
    pub origins: [Vec<(u64, Origin)>; 2],
    pub proved: Vec<&'static str>,
    pub ends: Vec<(Direction, u8)>,
    pub unread: Vec<String>,
    pub facts: Facts,
}

impl Read {
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.text[0]).into_owned()
    }

    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.text[1]).into_owned()
    }

    pub fn is_silent(&self) -> bool {
        self.text.iter().all(Vec::is_empty)
    }

    pub fn take(&mut self, session: &mut Session) {
        while let Some(output) = session.pop() {
            match output {
                Output::Plain(direction, piece) => {
                    let text = &mut self.text[direction.index()];
                    assert_eq!(
                        piece.offset(),
                        text.len() as u64,
                        "pieces follow one another"
                    );
                    match piece {
                        Piece::Data {
                            offset,
                            origin,
                            bytes,
                            ..
                        } => {
                            self.origins[direction.index()].push((offset, origin));
                            text.extend_from_slice(&bytes);
                        }
                        Piece::Gap {
                            offset,
                            len,
                            reason,
                            ..
                        } => {
                            self.gaps[direction.index()].push((offset, len, reason));
                            text.resize(text.len() + len as usize, b'?');
                        }
                    }
                }
                Output::Proved { label, .. } => self.proved.push(label.name()),
                Output::End { direction, alert } => self.ends.push((direction, alert)),
                Output::Unread { direction, reason } => self.unread.push(match direction {
                    Some(direction) => format!("{direction:?} {reason}"),
                    None => reason.to_string(),
                }),
            }
        }
        self.facts = session.facts().clone();
    }
}

pub fn secret(process: ProcessKey, label: &str, secret: &[u8], time: u64) -> SecretRecord {
    let caller = Caller {
        process,
        thread: process.pid,
        uid: 0,
        gid: 0,
        cgroup: 0,
        network_namespace: 0,
        comm: String::new(),
    };
    SecretRecord {
        time,
        caller,
        point: PointId(3),
        label: label.to_owned(),
        secret: Payload::copy_from(secret),
        client_random: None,
    }
}

/// A session and a pool, at the hand of a test.
pub struct Replay {
    pub session: Session,
    pub pool: Pool,
    pub read: Read,
    pub offsets: [u64; 2],
    pub now: u64,
    pub processes: Vec<ProcessKey>,
}

impl Replay {
    pub fn new() -> Self {
        Self::with(SessionLimits::default(), &Budget::new(1 << 30))
    }

    pub fn with(limits: SessionLimits, budget: &Budget) -> Self {
        Self {
            session: Session::new(limits, budget),
            pool: Pool::new(PoolLimits {
                per_process: 5000,
                ..PoolLimits::default()
            }),
            read: Read::default(),
            offsets: [0; 2],
            now: 5_000_000_000,
            processes: vec![PROCESS],
        }
    }

    /// The key log's secrets become candidates.
    pub fn learn(&mut self, recording: &Recording) {
        for (label, _, bytes) in &recording.secrets {
            self.now += 1;
            self.pool.insert(secret(PROCESS, label, bytes, self.now));
        }
    }

    pub fn offer(&mut self) {
        self.session
            .offer(&mut self.pool, &self.processes, self.now);
        self.read.take(&mut self.session);
    }

    pub fn data(&mut self, direction: Direction, bytes: &[u8]) {
        let offset = self.offsets[direction.index()];
        let origin = Origin {
            wire: offset,
            within: 0,
        };
        self.push(
            direction,
            Piece::Data {
                offset,
                time: self.now,
                origin,
                bytes: Payload::copy_from(bytes),
            },
        );
    }

    pub fn gap(&mut self, direction: Direction, len: usize, reason: GapReason) {
        let offset = self.offsets[direction.index()];
        self.push(
            direction,
            Piece::Gap {
                offset,
                time: self.now,
                len: len as u64,
                reason,
            },
        );
    }

    pub fn push(&mut self, direction: Direction, piece: Piece) {
        self.now += 1;
        self.offsets[direction.index()] += piece.len();
        self.session
            .push(direction, piece, &mut self.pool, &self.processes);
        self.read.take(&mut self.session);
    }

    pub fn close(mut self) -> Read {
        self.session.close();
        self.read.take(&mut self.session);
        assert_eq!(self.session.held(), 0);
        self.read
    }

    /// Everything as it was recorded.
    pub fn all(&mut self, recording: &Recording) {
        for (direction, bytes) in &recording.chunks {
            self.data(*direction, bytes);
        }
    }
}

/// A recording with its secrets known from the start.
pub fn read(recording: &Recording) -> Read {
    let mut replay = Replay::new();
    replay.learn(recording);
    replay.all(recording);
    replay.close()
}
