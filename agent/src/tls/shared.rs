//! What both directions of a connection know: the hellos, the facts, the outputs.
//!
//! Invariant: a connection fails once, and each (direction, reason) is reported once.

use super::facts::{Counts, Facts, Label, Output, Reason};
use super::handshake::{Message, message};
use super::hello::{client_hello, encrypted_extensions, server_hello};
use super::keys::Keys;
use super::record::Record;
use super::secrets::{Pool, Query, SecretId};
use super::session::SessionLimits;
use super::suite::{Protocol, Suite};
use crate::flow::{Direction, GapReason, Nanos, Piece};
use crate::kernel::record::{PointId, ProcessKey};
use std::collections::VecDeque;

/// A secret may be older than the hello by this much, for clocks and the order of probes.
const SLACK: Nanos = 1_000_000_000;

/// Proven master secrets of before that are tried on a resumed connection, of each process.
const RESUMABLE: usize = 256;

/// TLS versions (RFC 8446 section 4.2.1).
const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

/// What of the 0-RTT that a client may send is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyData {
    /// Not offered, or behind us.
    None,
    Offered,
    Accepted,
    /// It may be on the wire nevertheless: the client does not know yet.
    Refused,
}

/// Trials left.
pub struct Trials {
    pub left: u64,
    pub spent: u64,
}

impl Trials {
    pub fn spend(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        self.spent += 1;
        Some(())
    }
}

/// The secrets that may be this connection's.
pub struct Candidates<'a> {
    pub pool: &'a mut Pool,
    pub processes: &'a [ProcessKey],
    pub now: Nanos,
}

/// What a cleartext handshake message meant.
pub enum Said {
    Hello,
    /// A ServerHello of TLS 1.3: what follows is encrypted.
    Sealed,
    Other,
}

/// What both directions know.
pub struct Shared {
    pub limits: SessionLimits,
    pub facts: Facts,
    pub protocol: Option<Protocol>,
    pub suite: Option<Suite>,
    client_random: Option<[u8; 32]>,
    server_random: Option<[u8; 32]>,
    /// When the first hello came.
    hello_time: Nanos,
    /// TLS 1.2: messages have come that a resumed handshake does not have.
    full: bool,
    early_offered: bool,
    early_accepted: Option<bool>,
    /// TLS 1.2: keys that the other direction's proof gave.
    pub connection_keys: [Option<Keys>; 2],
    pub trials: Trials,
    pub ended_by: Option<u8>,
    /// Application data need not be opened now.
    pub skip: bool,
    pub outputs: VecDeque<Output>,
    reported: Vec<(Option<Direction>, &'static str)>,
    pub failed: bool,
}

impl Shared {
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            facts: Facts::default(),
            protocol: None,
            suite: None,
            client_random: None,
            server_random: None,
            hello_time: 0,
            full: false,
            early_offered: false,
            early_accepted: None,
            connection_keys: [None, None],
            trials: Trials {
                left: limits.trials,
                spent: 0,
            },
            ended_by: None,
            skip: false,
            outputs: VecDeque::new(),
            reported: Vec::new(),
            failed: false,
        }
    }

    pub fn counts(&mut self, direction: Direction) -> &mut Counts {
        &mut self.facts.counts[direction.index()]
    }

    pub fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub fn report(&mut self, direction: Option<Direction>, reason: Reason) {
        let entry = (direction, reason.code());
        if !self.reported.contains(&entry) {
            self.reported.push(entry);
            self.push(Output::Unread { direction, reason });
        }
    }

    /// Nothing of the connection can be read (any more).
    pub fn fail(&mut self, reason: Reason) {
        if !self.failed {
            self.failed = true;
            self.report(None, reason);
        }
    }

    /// The first of `points` is the one by which the connection is known.
    pub fn proved(&mut self, points: &[PointId], label: Label) {
        self.facts.proven = true;
        if self.protocol == Some(Protocol::Tls12) {
            self.facts.resumed = Some(!self.full);
        }
        for &point in points.iter().rev() {
            self.push(Output::Proved { point, label });
        }
    }

    /// Hands out a gap of plaintext at `offset`; the offset after it.
    pub fn gap(
        &mut self,
        direction: Direction,
        offset: u64,
        len: u64,
        time: Nanos,
        reason: GapReason,
    ) -> u64 {
        if len == 0 {
            return offset;
        }
        self.counts(direction).gaps += len;
        self.push(Output::Plain(
            direction,
            Piece::Gap {
                offset,
                time,
                len,
                reason,
            },
        ));
        offset.saturating_add(len)
    }

    pub fn early_data(&self) -> EarlyData {
        match (self.early_offered, self.early_accepted) {
            (false, _) => EarlyData::None,
            (true, None) => EarlyData::Offered,
            (true, Some(true)) => EarlyData::Accepted,
            (true, Some(false)) => EarlyData::Refused,
        }
    }

    /// The client's handshake has come.
    pub fn early_data_is_over(&mut self) {
        self.early_offered = false;
    }

    pub fn randoms(&self) -> Option<([u8; 32], [u8; 32])> {
        self.client_random.zip(self.server_random)
    }

    pub fn query<'a>(
        &self,
        candidates: &Candidates<'a>,
        labels: &'a [Label],
        after: SecretId,
    ) -> Query<'a> {
        Query {
            processes: candidates.processes,
            labels,
            after,
            around: self.hello_time,
            // Secrets are younger than the hello, but for a resumed connection's master secret.
            since: self.hello_time.saturating_sub(SLACK),
            resumable: match self.protocol {
                Some(Protocol::Tls12) if !self.full => RESUMABLE,
                _ => 0,
            },
            client_random: self.client_random,
        }
    }

    fn set_client(&mut self, client: Direction) {
        match self.facts.client {
            Some(known) if known != client => {
                self.fail(Reason::Malformed("both directions sent the same hello"))
            }
            _ => self.facts.client = Some(client),
        }
    }

    /// A message of the cleartext handshake.
    pub fn clear_message(&mut self, direction: Direction, said: Message, record: &Record) -> Said {
        match (said.kind, said.body) {
            (message::CLIENT_HELLO, Some(body)) => self.client_said(direction, &body, record.time),
            (message::SERVER_HELLO, Some(body)) => self.server_said(direction, &body, record.time),
            (message::CLIENT_HELLO | message::SERVER_HELLO, None) => {
                self.fail(Reason::LostRecords);
                Said::Hello
            }
            (kind, _) => {
                self.full |= message::FULL.contains(&kind);
                Said::Other
            }
        }
    }

    fn client_said(&mut self, direction: Direction, body: &[u8], time: Nanos) -> Said {
        let Some(hello) = client_hello(body) else {
            self.fail(Reason::Malformed("ClientHello"));
            return Said::Other;
        };
        if self.client_random.is_none() && self.server_random.is_none() {
            self.hello_time = time;
        }
        self.set_client(direction);
        // Only the first ClientHello may be followed by early data (RFC 8446 section 4.1.2).
        self.early_offered = hello.early_data && self.client_random.is_none();
        self.client_random = Some(hello.random);
        self.facts.early_data |= hello.early_data;
        self.facts.sni = hello.sni;
        self.facts.alpn_offered = hello.alpn;
        Said::Hello
    }

    fn server_said(&mut self, direction: Direction, body: &[u8], time: Nanos) -> Said {
        let hello = match server_hello(body) {
            Ok(Some(hello)) => hello,
            Ok(None) => {
                self.fail(Reason::Malformed("ServerHello"));
                return Said::Other;
            }
            Err(version) => {
                self.fail(Reason::VersionUnsupported(version));
                return Said::Other;
            }
        };
        self.set_client(direction.opposite());
        self.facts.version = Some(hello.version);
        self.facts.suite = Some(hello.suite);
        let protocol = match hello.version {
            TLS12 => Protocol::Tls12,
            TLS13 => Protocol::Tls13,
            version => {
                self.fail(Reason::VersionUnsupported(version));
                return Said::Other;
            }
        };
        self.protocol = Some(protocol);
        if hello.retry {
            self.facts.retried = true;
            return Said::Hello;
        }
        if protocol == Protocol::Tls13 {
            self.facts.resumed = Some(hello.pre_shared_key);
        }
        if self.client_random.is_none() {
            self.hello_time = time;
        }
        self.server_random = Some(hello.random);
        self.facts.alpn = hello.alpn;
        if !hello.pre_shared_key {
            self.early_accepted = Some(false);
        }
        self.suite = Suite::read(protocol, hello.suite);
        if self.suite.is_none() {
            self.fail(Reason::SuiteUnsupported(hello.suite));
        }
        if protocol == Protocol::Tls13 {
            Said::Sealed
        } else {
            Said::Hello
        }
    }

    /// A message of the encrypted handshake of TLS 1.3; true for the last one, Finished.
    pub fn sealed_message(&mut self, direction: Direction, said: Message) -> bool {
        if said.kind == message::ENCRYPTED_EXTENSIONS
            && self.facts.client != Some(direction)
            && let Some(body) = said.body
        {
            let found = encrypted_extensions(&body);
            self.facts.alpn = found.alpn;
            self.early_accepted = Some(found.early_data);
        }
        said.kind == message::FINISHED
    }
}
