//! Before the first head: what is on this connection, and which side is the client?
//!
//! Seen from the start, the first bytes of a direction decide ([`detect`]). Joined late, only a piece that begins with a
//! request is believed: anything else may be the middle of a body.

use super::{Connection, Output, Reason, Stage, Switch};
use crate::flow::{Direction, Nanos};
use crate::http::detect::{self, Detected, Start, Verdict};
use crate::http::h2;
use crate::http::proxy::{self, Parsed};

pub(super) struct Looking {
    /// The connection was not seen from the start.
    joined_late: bool,
    /// By direction: its first bytes are not the stream's first.
    late: [bool; 2],
    /// By direction: nothing was looked at yet.
    fresh: [bool; 2],
    /// By direction: the time of the last piece that is gone.
    gone: [Option<Nanos>; 2],
    proxied: bool,
    seen: bool,
}

impl Looking {
    pub fn new(from_start: bool) -> Self {
        Self {
            joined_late: !from_start,
            late: [!from_start; 2],
            fresh: [true; 2],
            gone: [None; 2],
            proxied: false,
            seen: false,
        }
    }

    /// Anything came at all.
    pub fn has_seen(&self) -> bool {
        self.seen
    }

    /// The piece of that time is gone.
    pub fn lost(&mut self, direction: Direction, time: Option<Nanos>) {
        self.late[direction.index()] = true;
        self.fresh[direction.index()] = false;
        self.gone[direction.index()] = self.gone[direction.index()].max(time);
    }
}

/// What to do about a lane's front.
enum Look {
    Wait,
    /// The front piece cannot begin anything.
    Drop,
    /// Pieces before the last cannot begin anything.
    DropToLast,
    Begins(Start),
    Proxied {
        len: usize,
        claim: Option<crate::http::head::ProxyClaim>,
    },
}

impl Connection {
    pub(super) fn look(&mut self, out: &mut Vec<Output>) -> bool {
        let mut moved = false;
        for direction in [Direction::Sent, Direction::Received] {
            while self.stage == Stage::Looking && self.look_at(direction, out) {
                moved = true;
            }
        }
        moved
    }

    /// False if the lane is empty or undecided.
    fn look_at(&mut self, direction: Direction, out: &mut Vec<Output>) -> bool {
        if !self.lanes[direction].strip_now() {
            return false;
        }
        self.looking.seen = true;
        let late = self.looking.late[direction.index()];
        let fresh = self.looking.fresh[direction.index()];
        let alone = self.lanes[direction].pieces() == 1;
        let proxied = self.looking.proxied;
        let look = self.lanes[direction].view(detect::UNDECIDED, |bytes| match bytes {
            None => Look::Drop,
            Some(bytes) if late => judge_late(bytes, fresh, alone),
            Some(bytes) => judge(bytes, proxied),
        });
        match look {
            Look::Wait => return false,
            Look::Drop => self.drop_unread(direction),
            Look::DropToLast => {
                while self.lanes[direction].pieces() > 1 {
                    self.drop_unread(direction);
                }
            }
            Look::Proxied { len, claim } => {
                self.looking.proxied = true;
                self.common.claim = claim.or(self.common.claim);
                self.lanes[direction].strip(len as u64);
            }
            Look::Begins(start) => return self.begin(direction, start, out),
        }
        true
    }

    fn begin(&mut self, direction: Direction, start: Start, out: &mut Vec<Output>) -> bool {
        match start {
            Start::Http1Request => self.begin_http(direction, out),
            // Pushed before its request: the request's side decides, and may have more before it.
            Start::Http1Response if !self.looking.late[direction.index()] => return false,
            Start::Http1Response => {
                out.push(Output::Unread(Reason::ResponseWithoutRequest));
                self.drop_unread(direction);
            }
            Start::Http2Preface => self.begin_http2(direction, [true; 2], out),
            Start::Http2Settings => {
                let mut seen = self.looking.late.map(|late| !late);
                seen[direction.index()] = true;
                self.begin_http2(direction.opposite(), seen, out);
            }
            Start::Http2Frames { of_client } => {
                let client = if of_client {
                    direction
                } else {
                    direction.opposite()
                };
                self.begin_http2(client, [false; 2], out);
            }
            Start::Tls | Start::TlsData => self.switch(Switch::Tls, out),
            Start::Opaque | Start::ProxyV1 | Start::ProxyV2 => {
                self.give_up(Reason::OpaqueProtocol, out)
            }
        }
        true
    }

    /// The front piece is not read.
    fn drop_unread(&mut self, direction: Direction) {
        self.looking.lost(direction, self.lanes[direction].since());
        self.lanes[direction].drop_front();
    }

    fn begin_http(&mut self, client: Direction, out: &mut Vec<Output>) {
        self.stage = Stage::Http;
        self.common.client = client;
        let [sent, received] = self.looking.late;
        if self.looking.late[client.index()] {
            self.requests.begin_late();
            if !self.looking.joined_late {
                out.push(Output::Unread(Reason::RequestLost));
            }
        }
        let gone = self.looking.gone[client.opposite().index()];
        self.responses.begin(!sent && !received, gone);
    }

    fn begin_http2(&mut self, client: Direction, from_start: [bool; 2], out: &mut Vec<Output>) {
        self.common.client = client;
        self.switch(Switch::Http2 { client, from_start }, out);
    }

    fn give_up(&mut self, reason: Reason, out: &mut Vec<Output>) {
        out.push(Output::Unread(reason));
        self.stop();
    }
}

fn judge(bytes: &[u8], proxied: bool) -> Look {
    match detect::detect(bytes) {
        Detected::More => Look::Wait,
        Detected::Is(Start::ProxyV1 | Start::ProxyV2) if !proxied => match proxy::parse(bytes) {
            Parsed::More => Look::Wait,
            Parsed::Header { len, claim } => Look::Proxied { len, claim },
            Parsed::Invalid => Look::Begins(Start::Opaque),
        },
        Detected::Is(start) => Look::Begins(start),
    }
}

/// `fresh`: the first bytes seen of the direction, which may be a stream's first after all. `alone`: in one piece.
fn judge_late(bytes: &[u8], fresh: bool, alone: bool) -> Look {
    match detect::resumes_request(bytes) {
        Verdict::Yes(start) => return Look::Begins(start),
        Verdict::More => return Look::Wait,
        Verdict::No if !alone => return Look::DropToLast,
        Verdict::No => {}
    }
    match detect::detect(bytes) {
        Detected::Is(
            start @ (Start::Tls | Start::TlsData | Start::Http2Preface | Start::Http2Settings),
        ) if fresh => Look::Begins(start),
        Detected::Is(start @ Start::Http1Response) => Look::Begins(start),
        _ => match h2::frame::is_of_client(bytes) {
            Some(of_client) => Look::Begins(Start::Http2Frames { of_client }),
            None => Look::Drop,
        },
    }
}
