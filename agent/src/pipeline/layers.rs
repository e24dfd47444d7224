//! What is inside a connection: HTTP, TLS with HTTP inside, a tunnel with TLS inside that.
//!
//! Invariant: each layer sees its bytes once, in order; nesting is bounded.

use super::connection::gap;
use crate::{
    flow::{Budget, Direction, Nanos, Piece},
    http::{
        self, h1, h2,
        head::{Exchange, Outcome, ProxyClaim},
    },
    kernel::record::{PointId, ProcessKey},
    tls,
};
use std::collections::{BTreeMap, btree_map::Entry};
use tracing::trace;

/// TLS in a tunnel in TLS is met; more than this is not.
const DEPTH: u8 = 4;
/// Pieces that are held of a direction whose records the kernel makes: each has 8 KiB at most.
const HELD: usize = 64;
/// Tunnels of one HTTP/2 connection that are followed at once.
const TUNNELS: usize = 256;

/// Limits that every layer of a connection is made with.
#[derive(Clone)]
pub struct Settings {
    pub http: http::Limits,
    pub tls: tls::SessionLimits,
    pub budget: Budget,
}

/// What comes out of a connection's layers.
#[expect(clippy::large_enum_variant, reason = "exchanges are the common case")]
pub enum Output {
    Exchange(Exchange, Around),
    HttpUnread(http::Reason, Around),
    /// HTTP/2 follows.
    Multiplexed,
    /// Something that is neither HTTP nor TLS follows (WebSocket, another upgrade).
    Switched,
    Proved(PointId),
    TlsUnread(tls::Reason, Box<tls::Facts>),
    /// Bytes of a request were left out, because it was to be skipped.
    Skipped,
    /// A TLS layer has ended: what it was.
    TlsClosed(Box<tls::Facts>),
}

/// The TLS layer around an exchange, if any.
#[derive(Clone, Default)]
pub struct Around {
    pub tls: Option<std::sync::Arc<tls::Facts>>,
    pub point: Option<PointId>,
    /// The library's own calls gave it, not a record.
    pub nested: bool,
    /// The kernel makes and opens the records: the plaintext itself passed the socket's calls.
    pub by_kernel: bool,
}

/// A stream that begins somewhere: the socket's, TLS plaintext, or a tunnel's.
pub struct Stream {
    http: h1::Connection,
    layer: http::Layer,
    claim: Option<ProxyClaim>,
    depth: u8,
    inner: Inner,
    around: Around,
    /// An exchange that was answered by 101 with `Upgrade: h2c`, until HTTP/2 answers it.
    upgraded: Option<Exchange>,
    scratch: Vec<h1::Output>,
}

enum Inner {
    Nothing,
    Tls(Box<Sealed>),
    Stream(Box<Stream>),
    Http2(Box<Multiplexed>),
    Opaque,
}

/// HTTP/2, and what its streams are that became tunnels.
struct Multiplexed {
    http: h2::Connection,
    tunnels: BTreeMap<u32, Stream>,
    /// What a tunnel begins with.
    layer: http::Layer,
    claim: Option<ProxyClaim>,
    depth: u8,
}

/// A TLS session and the stream in it.
struct Sealed {
    session: tls::Session,
    inside: Stream,
    point: Option<PointId>,
    facts: Option<std::sync::Arc<tls::Facts>>,
    /// By direction: plaintext that came before the kernel took over its records, if it did.
    by_kernel: [Option<u64>; 2],
    /// What the kernel's direction has, until the other one is opened.
    held: Vec<(Direction, Piece)>,
    /// Nobody saw it, and one direction alone is the kernel's: what passes there is the bridge's to tell.
    handshake_unseen: bool,
}

/// What the layers need from outside while they work.
pub struct Surroundings<'a> {
    pub settings: &'a Settings,
    pub pool: &'a mut tls::Pool,
    pub processes: &'a [ProcessKey],
    /// Exchanges are left out now: see [`Stream::is_at_rest`].
    pub skip: bool,
    pub out: &'a mut Vec<Output>,
}

impl Stream {
    /// `from_start`: both directions are seen from their first byte.
    pub fn new(settings: &Settings, from_start: bool) -> Self {
        Self::nested(
            settings,
            http::Layer::Socket,
            from_start,
            None,
            Around::default(),
            0,
        )
    }

    /// What a TLS library gave, from somewhere on.
    pub fn plaintext(settings: &Settings) -> Self {
        Self::nested(
            settings,
            http::Layer::Record,
            false,
            None,
            Around::default(),
            1,
        )
    }

    /// Of the connection that [`plaintext`](Self::plaintext) is of.
    pub fn around_plaintext(&mut self, facts: &std::sync::Arc<tls::Facts>) {
        self.around = Around {
            tls: Some(std::sync::Arc::clone(facts)),
            point: None,
            nested: true,
            by_kernel: false,
        };
    }

    fn nested(
        settings: &Settings,
        layer: http::Layer,
        from_start: bool,
        claim: Option<ProxyClaim>,
        around: Around,
        depth: u8,
    ) -> Self {
        Self {
            http: h1::Connection::new(
                h1::Start {
                    layer,
                    from_start,
                    claim,
                },
                settings.http,
            ),
            layer,
            claim,
            depth,
            inner: Inner::Nothing,
            around,
            upgraded: None,
            scratch: Vec::new(),
        }
    }

    pub fn push(&mut self, direction: Direction, piece: Piece, with: &mut Surroundings<'_>) {
        let piece = if with.skip && self.http.is_http() {
            if self.http.request_direction() == Some(direction) {
                with.out.push(Output::Skipped);
            }
            piece.skipped()
        } else {
            piece
        };
        let mut out = std::mem::take(&mut self.scratch);
        self.http.push(direction, piece, &mut out);
        self.take(&mut out, with);
        self.scratch = out;
    }

    /// Plaintext of which the kernel makes records, or which it made of them.
    pub fn push_plain(&mut self, direction: Direction, piece: Piece, with: &mut Surroundings<'_>) {
        match &mut self.inner {
            Inner::Tls(sealed) => sealed.push_plain(direction, piece, with),
            // The handshake was not seen.
            _ => {
                if self.around.tls.is_none() {
                    self.around = Around {
                        tls: Some(Default::default()),
                        by_kernel: true,
                        ..Around::default()
                    };
                }
                self.push(direction, piece, with);
            }
        }
    }

    /// Nothing is under way in any layer: the exchange that begins with the next byte of a request may be left out.
    pub fn is_at_rest(&mut self) -> bool {
        match &mut self.inner {
            Inner::Nothing => self.http.is_at_rest(),
            Inner::Tls(sealed) => sealed.session.is_at_rest() && sealed.inside.is_at_rest(),
            Inner::Stream(stream) => stream.is_at_rest(),
            // What is left out would be missed by the compression of what follows.
            Inner::Http2(_) | Inner::Opaque => false,
        }
    }

    /// The direction of the requests in the innermost layer, once it is known.
    pub fn request_direction(&self) -> Option<Direction> {
        match &self.inner {
            Inner::Nothing => self.http.request_direction(),
            Inner::Tls(sealed) => sealed.inside.request_direction(),
            Inner::Stream(stream) => stream.request_direction(),
            Inner::Http2(inner) => Some(inner.http.request_direction()),
            Inner::Opaque => None,
        }
    }

    /// A secret has come for one of the processes.
    pub fn offer(&mut self, now: Nanos, with: &mut Surroundings<'_>) {
        match &mut self.inner {
            Inner::Tls(sealed) => {
                sealed.session.offer(with.pool, with.processes, now);
                sealed.drain(with);
                sealed.inside.offer(now, with);
            }
            Inner::Stream(stream) => stream.offer(now, with),
            Inner::Http2(inner) => inner.each(|tunnel| tunnel.offer(now, with)),
            Inner::Nothing | Inner::Opaque => {}
        }
    }

    pub fn wants_secret(&self) -> bool {
        match &self.inner {
            Inner::Tls(sealed) => {
                !sealed.is_wholly_by_kernel() && sealed.session.wants_secret()
                    || sealed.inside.wants_secret()
            }
            Inner::Stream(stream) => stream.wants_secret(),
            Inner::Http2(inner) => inner.tunnels.values().any(Self::wants_secret),
            Inner::Nothing | Inner::Opaque => false,
        }
    }

    /// Gives out what has waited longer than `max_age`.
    pub fn flush(&mut self, now: Nanos, max_age: Nanos, with: &mut Surroundings<'_>) {
        let mut out = std::mem::take(&mut self.scratch);
        self.http.flush(now, max_age, &mut out);
        self.take(&mut out, with);
        self.scratch = out;
        match &mut self.inner {
            Inner::Tls(sealed) => {
                sealed.session.expire(now);
                sealed.drain(with);
                sealed.release_late(now, max_age, with);
                sealed.inside.flush(now, max_age, with);
            }
            Inner::Stream(stream) => stream.flush(now, max_age, with),
            Inner::Http2(inner) => {
                let mut out = Vec::new();
                inner.http.flush(now, max_age, &mut out);
                inner.give(out, &self.around, with);
                inner.each(|tunnel| tunnel.flush(now, max_age, with));
            }
            Inner::Nothing | Inner::Opaque => {}
        }
    }

    /// The connection is idle: what can be computed again is forgotten.
    pub fn rest(&mut self) {
        self.scratch = Vec::new();
        match &mut self.inner {
            Inner::Tls(sealed) => {
                sealed.session.rest();
                sealed.inside.rest();
            }
            Inner::Stream(stream) => stream.rest(),
            Inner::Http2(inner) => inner.each(Self::rest),
            Inner::Nothing | Inner::Opaque => {}
        }
    }

    /// Gives up what waits for a secret, and forgets what can be computed again.
    pub fn shed(&mut self, with: &mut Surroundings<'_>) {
        self.rest();
        match &mut self.inner {
            Inner::Tls(sealed) => {
                sealed.session.shed();
                sealed.drain(with);
                sealed.release(with);
                sealed.inside.shed(with);
            }
            Inner::Stream(stream) => stream.shed(with),
            Inner::Http2(inner) => inner.each(|tunnel| tunnel.shed(with)),
            Inner::Nothing | Inner::Opaque => {}
        }
    }

    /// One direction's stream has ended.
    pub fn end(&mut self, direction: Direction, with: &mut Surroundings<'_>) {
        match &mut self.inner {
            Inner::Tls(sealed) => {
                sealed.session.end(direction);
                sealed.drain(with);
            }
            Inner::Stream(stream) => stream.end(direction, with),
            Inner::Http2(inner) => inner.each(|tunnel| tunnel.end(direction, with)),
            Inner::Nothing | Inner::Opaque => {}
        }
    }

    /// The connection has closed, or the agent stops.
    pub fn finish(&mut self, outcome: Outcome, with: &mut Surroundings<'_>) {
        match std::mem::replace(&mut self.inner, Inner::Nothing) {
            Inner::Tls(mut sealed) => {
                sealed.session.close();
                sealed.drain(with);
                sealed.release(with);
                sealed.inside.finish(outcome, with);
                with.out
                    .push(Output::TlsClosed(Box::new(sealed.session.facts().clone())));
            }
            Inner::Stream(mut stream) => stream.finish(outcome, with),
            Inner::Http2(mut inner) => {
                let mut out = Vec::new();
                inner.http.finish(outcome, &mut out);
                inner.give(out, &self.around, with);
                inner.each(|tunnel| tunnel.finish(outcome, with));
            }
            Inner::Nothing | Inner::Opaque => {}
        }
        let mut out = Vec::new();
        self.http.finish(outcome, &mut out);
        self.take(&mut out, with);
        if let Some(exchange) = self.upgraded.take() {
            with.out
                .push(Output::Exchange(exchange, self.around.clone()));
        }
    }

    fn take(&mut self, out: &mut Vec<h1::Output>, with: &mut Surroundings<'_>) {
        for output in out.drain(..) {
            match output {
                h1::Output::Exchange(exchange) if h1::becomes_http2(&exchange) => {
                    self.upgraded = Some(exchange);
                    self.upgrade(with);
                }
                h1::Output::Exchange(exchange) => with
                    .out
                    .push(Output::Exchange(exchange, self.around.clone())),
                h1::Output::Unread(reason) => with
                    .out
                    .push(Output::HttpUnread(reason, self.around.clone())),
                h1::Output::Switched(switch) => {
                    self.inner = self.switched(switch, with);
                    self.upgrade(with);
                }
                h1::Output::Inner(direction, piece) => match &mut self.inner {
                    Inner::Http2(inner) => {
                        let mut out = Vec::new();
                        inner.http.push(direction, piece, &mut out);
                        inner.give(out, &self.around, with);
                    }
                    inner => inner.push(direction, piece, with),
                },
            }
        }
    }

    /// HTTP/2 answers the request that asked for it.
    fn upgrade(&mut self, with: &mut Surroundings<'_>) {
        if let Inner::Http2(inner) = &mut self.inner
            && let Some(exchange) = self.upgraded.take()
        {
            let mut out = Vec::new();
            inner.http.upgraded(exchange, &mut out);
            inner.give(out, &self.around, with);
        }
    }

    fn http2(
        &self,
        client: Direction,
        from_start: [bool; 2],
        with: &mut Surroundings<'_>,
    ) -> Inner {
        let start = h2::Start {
            layer: self.layer,
            client,
            from_start,
            claim: self.claim,
        };
        with.out.push(Output::Multiplexed);
        Inner::Http2(Box::new(Multiplexed {
            http: h2::Connection::new(start, with.settings.http),
            tunnels: BTreeMap::new(),
            layer: self.layer,
            claim: self.claim,
            depth: self.depth,
        }))
    }

    fn switched(&mut self, switch: h1::Switch, with: &mut Surroundings<'_>) -> Inner {
        self.claim = self.http.proxy_claim();
        match switch {
            h1::Switch::Tls if self.depth < DEPTH => {
                let session = tls::Session::new(with.settings.tls, &with.settings.budget);
                let inside = Stream::nested(
                    with.settings,
                    http::Layer::Record,
                    true,
                    self.claim,
                    Around::default(),
                    self.depth + 1,
                );
                Inner::Tls(Box::new(Sealed {
                    session,
                    inside,
                    point: None,
                    facts: None,
                    by_kernel: [None; 2],
                    held: Vec::new(),
                    handshake_unseen: false,
                }))
            }
            h1::Switch::Http2 { client, from_start } => self.http2(client, from_start, with),
            h1::Switch::H2c(client) => self.http2(client, [true; 2], with),
            h1::Switch::Tunnel if self.depth < DEPTH => Inner::Stream(Box::new(Stream::nested(
                with.settings,
                self.layer,
                true,
                self.claim,
                self.around.clone(),
                self.depth + 1,
            ))),
            _ => {
                with.out.push(Output::Switched);
                Inner::Opaque
            }
        }
    }
}

impl Multiplexed {
    fn each(&mut self, each: impl FnMut(&mut Stream)) {
        self.tunnels.values_mut().for_each(each);
    }

    fn give(&mut self, from: Vec<h2::Output>, around: &Around, with: &mut Surroundings<'_>) {
        for output in from {
            match output {
                h2::Output::Exchange(exchange) => {
                    with.out.push(Output::Exchange(exchange, around.clone()));
                }
                h2::Output::Unread(reason) => {
                    with.out.push(Output::HttpUnread(reason, around.clone()));
                }
                h2::Output::Tunnel(stream, direction, piece) => {
                    if let Some(tunnel) = self.tunnel(stream, &piece, around, with) {
                        tunnel.push(direction, piece, with);
                    }
                }
                h2::Output::TunnelEnd(stream, direction) => {
                    if let Some(tunnel) = self.tunnels.get_mut(&stream) {
                        tunnel.end(direction, with);
                    }
                }
                h2::Output::TunnelOver(stream) => {
                    if let Some(mut tunnel) = self.tunnels.remove(&stream) {
                        tunnel.finish(Outcome::Closed, with);
                    }
                }
            }
        }
    }

    /// `None`: there are too many, or it is too deep.
    fn tunnel(
        &mut self,
        stream: u32,
        piece: &Piece,
        around: &Around,
        with: &mut Surroundings<'_>,
    ) -> Option<&mut Stream> {
        let room = self.tunnels.len() < TUNNELS && self.depth < DEPTH;
        match self.tunnels.entry(stream) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(place) if room => Some(place.insert(Stream::nested(
                with.settings,
                self.layer,
                true,
                self.claim,
                around.clone(),
                self.depth + 1,
            ))),
            Entry::Vacant(_) => {
                if piece.offset() == 0 {
                    with.out.push(Output::Switched);
                }
                None
            }
        }
    }
}

impl Inner {
    fn push(&mut self, direction: Direction, piece: Piece, with: &mut Surroundings<'_>) {
        match self {
            Self::Tls(sealed) => {
                sealed.session.skip(with.skip);
                sealed
                    .session
                    .push(direction, piece, with.pool, with.processes);
                sealed.drain(with);
            }
            Self::Stream(stream) => stream.push(direction, piece, with),
            Self::Nothing | Self::Http2(_) | Self::Opaque => {}
        }
    }
}

impl Sealed {
    fn is_wholly_by_kernel(&self) -> bool {
        self.by_kernel.iter().all(Option::is_some)
    }

    /// What is known of the handshake, for what is inside.
    fn surround(&mut self) {
        // Of what a session has not opened, the socket alone speaks.
        let by_kernel = self.is_wholly_by_kernel() || !self.session.facts().proven;
        if self.facts.is_none() || by_kernel && !self.inside.around.by_kernel {
            self.facts = Some(std::sync::Arc::new(self.session.facts().clone()));
            self.inside.around = Around {
                tls: self.facts.clone(),
                point: self.point,
                nested: false,
                by_kernel,
            };
        }
    }

    /// An answer must not come before its request, which may still wait for its secret.
    fn push_plain(&mut self, direction: Direction, piece: Piece, with: &mut Surroundings<'_>) {
        if self.handshake_unseen {
            return;
        }
        let d = direction.index();
        let counts = self.session.facts().counts[d];
        self.by_kernel[d].get_or_insert(counts.plain + counts.gaps);
        self.held.push((direction, piece));
        if self.is_wholly_by_kernel() || self.session.facts().proven || self.held.len() > HELD {
            self.release(with);
        }
    }

    fn release(&mut self, with: &mut Surroundings<'_>) {
        for (direction, piece) in std::mem::take(&mut self.held) {
            self.surround();
            let before = self.by_kernel[direction.index()].unwrap_or(0);
            self.inside.push(direction, piece.further(before), with);
        }
    }

    /// As [`release`](Self::release), where that has waited longer than `max_age`.
    fn release_late(&mut self, now: Nanos, max_age: Nanos, with: &mut Surroundings<'_>) {
        let first = self.held.first();
        if first.is_some_and(|(_, piece)| now.saturating_sub(piece.time()) > max_age) {
            self.release(with);
        }
    }

    fn drain(&mut self, with: &mut Surroundings<'_>) {
        while let Some(output) = self.session.pop() {
            match output {
                tls::Output::Plain(direction, piece) => {
                    trace!(?direction, offset = piece.offset(), len = piece.len(), gap = ?gap(&piece), "plaintext");
                    self.surround();
                    self.inside.push(direction, piece, with);
                }
                tls::Output::Proved { point, .. } => {
                    self.point = Some(point);
                    with.out.push(Output::Proved(point));
                }
                tls::Output::End { direction, .. } => self.inside.end(direction, with),
                // What the kernel opens, the session does not see.
                tls::Output::Unread {
                    direction: Some(direction),
                    ..
                } if self.by_kernel[direction.index()].is_some() => {}
                tls::Output::Unread { .. } if self.is_wholly_by_kernel() => {}
                tls::Output::Unread { reason, .. } => {
                    if reason == tls::Reason::OpenedBeforeAgent {
                        self.handshake_unseen = true;
                        self.held.clear();
                    }
                    with.out.push(Output::TlsUnread(
                        reason,
                        Box::new(self.session.facts().clone()),
                    ));
                }
            }
        }
        if self.session.facts().proven {
            self.release(with);
        }
    }
}
