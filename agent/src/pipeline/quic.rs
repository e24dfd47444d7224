//! QUIC connections: listed as not read, with the name that the client asked for where its hello was seen.
//!
//! A hello may come in several datagrams, be sent again, and be sent again to another id after the server's Retry; a
//! socket may have many connections, also with one peer. Datagrams that no client's keys open tell of a connection only
//! where nothing else has: they are the server's, or the begin was before the agent's.
//!
//! Invariant: one coverage event per attempt to connect, and at least one per socket and peer that was told of.

use super::{Pipeline, coverage::Unread, coverage::program};
use crate::{
    coverage::Subject,
    flow::Nanos,
    kernel::record::{Caller, ConnectionKey, Datagram, Endpoints},
    quic::{ConnectionId, Initial, Initials, initials},
    tls, usage,
};
use agent_common::event::CoverageReason;
use lru::LruCache;
use std::{net::SocketAddr, num::NonZeroUsize};

/// Attempts, and sockets with their peers, that are remembered; beyond it the least recently used is forgotten.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();

/// How long the rest of a hello is waited for: a client sends again after some 100 ms (RFC 9002 section 6.2), and gives
/// its handshake up after some seconds, which a busy server may let pass before it reads on.
const WAIT: Nanos = 10_000_000_000;

/// TLS 1.3: QUIC has no other (RFC 9001 section 4.2), and its hellos must not ask for less.
const VERSION: u16 = 0x0304;

/// A socket and whom it talks to.
type Pair = (ConnectionKey, SocketAddr);

/// What is known of QUIC connections.
pub(super) struct Quic {
    /// Attempts, until they are listed and after.
    attempts: LruCache<(Pair, ConnectionId), Attempt>,
    /// What was listed or is on its way.
    pairs: LruCache<Pair, Known>,
}

/// What was seen of a pair.
#[derive(Default)]
struct Known {
    /// Of the last hello.
    random: Option<[u8; 32]>,
    /// The last attempt.
    last: Option<ConnectionId>,
}

/// `None` when it is listed.
type Attempt = Option<Box<Unfinished>>;

/// An attempt whose hello has not come whole.
struct Unfinished {
    initials: Initials,
    seen: Seen,
}

/// Whom a datagram belongs to, and when it came.
struct Seen {
    time: Nanos,
    endpoints: Endpoints,
    caller: Caller,
}

impl Default for Quic {
    fn default() -> Self {
        Self {
            attempts: LruCache::new(REMEMBERED),
            pairs: LruCache::new(REMEMBERED),
        }
    }
}

impl Quic {
    /// Hands a packet to an attempt. False if that is not known, or could not have sent it.
    fn give(&mut self, attempt: (Pair, ConnectionId), packet: &Initial<'_>) -> bool {
        match self.attempts.get_mut(&attempt) {
            Some(None) => true,
            Some(Some(unfinished)) => unfinished.initials.take(packet),
            None => false,
        }
    }
}

impl Pipeline {
    pub(super) fn datagram(&mut self, datagram: Datagram) {
        self.now = self.now.max(datagram.time);
        let Endpoints::Udp { peer, .. } = datagram.endpoints else {
            return;
        };
        let pair = (datagram.socket, peer);
        let mut understood = false;
        for packet in initials(&datagram.bytes) {
            understood |= self.initial(pair, &packet, &datagram);
        }
        if !understood && !self.quic.pairs.contains(&pair) {
            self.quic.pairs.put(pair, Known::default());
            self.list(&Seen::of(&datagram), None);
        }
        self.quic.pairs.promote(&pair);
    }

    /// One packet; false if it is no client's Initial.
    fn initial(&mut self, pair: Pair, packet: &Initial<'_>, datagram: &Datagram) -> bool {
        let Some(key) = self.attempt_of(pair, packet, datagram) else {
            return false;
        };
        let known = self.quic.pairs.get_or_insert_mut(pair, Known::default);
        known.last = Some(key.1);
        if let Some(attempt) = self.quic.attempts.peek_mut(&key)
            && let Some(hello) = attempt.as_ref().and_then(|begun| begun.initials.hello())
            && let Some(unfinished) = attempt.take()
            // After a Retry the same hello is sent once more (RFC 9000 section 17.2.5.3).
            && known.random.replace(hello.random) != Some(hello.random)
        {
            self.list(&unfinished.seen, Some(hello));
        }
        true
    }

    /// The attempt that the packet belongs to and was given to; `None` if it is no client's.
    fn attempt_of(
        &mut self,
        pair: Pair,
        packet: &Initial<'_>,
        datagram: &Datagram,
    ) -> Option<(Pair, ConnectionId)> {
        let key = (pair, packet.destination);
        if self.quic.attempts.contains(&key) {
            return self.quic.give(key, packet).then_some(key);
        }
        if let Some(initials) = Initials::begin(packet) {
            let seen = Seen::of(datagram);
            let attempt = Some(Box::new(Unfinished { initials, seen }));
            let forgotten = self.quic.attempts.push(key, attempt);
            if let Some((_, Some(unfinished))) = forgotten {
                self.list(&unfinished.seen, None);
            }
            return Some(key);
        }
        // Once the server has answered, the client sends to the id that the server chose, and seals as before (RFC 9000
        // section 7.2); that may be in the middle of its hello.
        let key = (pair, self.quic.pairs.peek(&pair)?.last?);
        self.quic.give(key, packet).then_some(key)
    }

    /// Lists those that have waited for the rest of their hello, or at the end all.
    pub(super) fn list_attempts(&mut self, now: Nanos, all: bool) {
        let mut late = Vec::new();
        for (_, attempt) in &mut self.quic.attempts {
            if attempt
                .as_ref()
                .is_some_and(|begun| all || now.saturating_sub(begun.seen.time) > WAIT)
            {
                late.extend(attempt.take());
            }
        }
        for unfinished in late {
            self.list(&unfinished.seen, None);
        }
    }

    fn list(&mut self, seen: &Seen, hello: Option<tls::ClientHello>) {
        self.counters.connections += 1;
        self.counters.connections_unread += 1;
        let identity = self.processes.resolve(&seen.caller, seen.time, &self.clock);
        let reason = CoverageReason::Quic;
        let subject = Subject {
            program: program(&identity, &seen.caller),
            protocol: "quic",
            library: None,
        };
        self.ledger.record(subject, Some(reason));
        self.count_unread(reason);
        let facts = hello.map(|hello| tls::Facts {
            version: Some(VERSION),
            sni: hello.sni,
            alpn_offered: hello.alpn,
            ..tls::Facts::default()
        });
        let unread = Unread {
            reason,
            // What may be spoken inside: `h3`, `doq`, ...
            detail: facts
                .as_ref()
                .filter(|facts| !facts.alpn_offered.is_empty())
                .map(|facts| format!("offers {}", facts.alpn_offered.join(", "))),
            protocol: Some("quic"),
            library: None,
            tls: facts.as_ref(),
        };
        self.push_unread(
            unread,
            identity,
            usage::network(&seen.endpoints, None),
            (seen.time, seen.time),
        );
    }
}

impl Seen {
    fn of(datagram: &Datagram) -> Self {
        Self {
            time: datagram.time,
            endpoints: datagram.endpoints.clone(),
            caller: datagram.caller.clone(),
        }
    }
}
