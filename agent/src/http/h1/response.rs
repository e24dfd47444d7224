//! The server's direction: heads, bodies, and whose answer each is.

use super::body::{Body, Progress};
use super::framing::Framing;
use super::gather::{Fed, Gather};
use super::lane::{Rest, Taken};
use super::open::{Entry, Serial};
use super::{Connection, Output, Reason, Stage, Step, Switch};
use crate::flow::{Direction, Nanos};
use crate::http::detect::{self, Verdict};
use crate::http::head::{Exchange, Headers, Outcome, ResponseHead};

pub(super) struct Responses {
    state: State,
    gather: Gather,
    /// The next response is that of the first unanswered request.
    synced: bool,
    /// When the last head began, or a gap was.
    activity: Option<Nanos>,
    /// The time of the last bytes that may have held the answer to any request that is older.
    gone: Option<Nanos>,
}

impl Default for Responses {
    fn default() -> Self {
        Self {
            state: State::Head,
            gather: Gather::default(),
            synced: true,
            activity: None,
            gone: None,
        }
    }
}

enum State {
    Head,
    Body(Body, Serial),
}

impl Responses {
    /// `gone`: the time of the last piece that nobody has read.
    pub fn begin(&mut self, synced: bool, gone: Option<Nanos>) {
        self.synced = synced;
        self.lost(gone);
    }

    fn lost(&mut self, time: Option<Nanos>) {
        self.gone = self.gone.max(time);
    }

    /// Bytes of a head that goes on.
    pub fn gathered(&self) -> usize {
        self.gather.len()
    }

    /// Nothing of a response is read in part.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Head) && !self.gather.is_begun()
    }

    pub fn activity(&self) -> Option<Nanos> {
        self.activity
    }
}

/// What to do with bytes where a head is due.
enum Begins {
    /// A response to the first unanswered request.
    Yes,
    /// Not a response, and none was due.
    No,
    /// Not a response, left over from before the request.
    Leftover,
    /// A response to a request that was not seen.
    Stray,
    /// One of several requests', nobody knows whose.
    Ambiguous(usize),
    /// Its request may still come.
    Wait,
}

impl Connection {
    pub(super) fn read_responses(&mut self, out: &mut Vec<Output>) -> bool {
        self.read(
            self.common.client.opposite(),
            out,
            |this| this.stage == Stage::Http,
            Self::response_step,
        )
    }

    fn response_step(&mut self, taken: &Taken, out: &mut Vec<Output>) -> Step {
        if !self.pairing {
            self.requests.mark(taken.time());
            return Step::Used(taken.len());
        }
        match (&self.responses.state, taken.rest()) {
            (State::Body(..), rest) => self.response_body(taken, rest, out),
            (State::Head, Rest::Gap(len)) => {
                self.response_gap(taken, out);
                Step::Used(len)
            }
            (State::Head, Rest::Data(bytes)) => self.response_head(taken, bytes, out),
        }
    }

    fn response_head(&mut self, taken: &Taken, bytes: &[u8], out: &mut Vec<Output>) -> Step {
        let all = bytes.len() as u64;
        if !self.responses.gather.is_begun() {
            let blank = bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count();
            if blank > 0 {
                return Step::Used(blank as u64);
            }
            match self.response_begins(taken.time(), bytes) {
                Begins::Yes => {}
                Begins::No => {
                    self.responses.lost(Some(taken.time()));
                    return Step::Used(all);
                }
                Begins::Wait => return Step::Wait,
                Begins::Leftover => {
                    out.push(Output::Unread(Reason::Malformed));
                    return Step::Used(all);
                }
                Begins::Stray => {
                    out.push(Output::Unread(Reason::ResponseWithoutRequest));
                    self.saw_nobodys(taken.time());
                    return Step::Used(all);
                }
                Begins::Ambiguous(count) => {
                    self.saw_nobodys(taken.time());
                    for _ in 0..count {
                        self.lose_response(out);
                    }
                    return Step::Used(all);
                }
            }
        }
        let gathered = self.responses.gather.len();
        match self.responses.gather.feed::<ResponseHead>(
            bytes,
            taken.place(self.layer),
            &self.limits,
        ) {
            Fed::More => Step::Used(all),
            Fed::Head(head, used) => {
                let keeps = self.answer(head, out);
                Step::Used(if keeps { used as u64 } else { all })
            }
            // It only looked like the beginning of a response: this piece may still be one.
            Fed::Bad(Reason::Malformed) if !self.responses.synced => {
                Step::Used(if gathered > 0 { 0 } else { all })
            }
            Fed::Bad(reason) => {
                out.push(Output::Unread(reason));
                self.lose_response(out);
                Step::Used(all)
            }
        }
    }

    fn response_begins(&mut self, time: Nanos, bytes: &[u8]) -> Begins {
        let like = detect::resumes_response(bytes);
        let current = self
            .open
            .current()
            .map(|(_, entry)| (entry.phantom, entry.time));
        match (self.responses.synced, current) {
            (true, None) => Begins::Wait,
            // What is older than the request and no response is left over from the body before.
            (true, Some((false, asked))) if like == Verdict::No && time < asked => Begins::Leftover,
            (true, Some((false, _))) => Begins::Yes,
            _ if like == Verdict::No => Begins::No,
            (_, None) => Begins::Wait,
            (_, Some((_, asked))) => match self.open.candidates(time) {
                0 if like == Verdict::More => Begins::No,
                0 => Begins::Stray,
                1 if Some(asked) > self.responses.gone => Begins::Yes,
                several => Begins::Ambiguous(several),
            },
        }
    }

    /// A response's head is whole. False if nothing is known of what follows it.
    fn answer(&mut self, head: ResponseHead, out: &mut Vec<Output>) -> bool {
        let time = head.time;
        self.saw_response(time);
        let Some((serial, entry)) = self.open.current() else {
            return true;
        };
        if matches!(head.status, 100 | 102..200) {
            // RFC 9110 section 15.2: interim, the final response follows.
            return true;
        }
        if entry.phantom {
            entry.answered = true;
            self.open.tidy();
            self.responses.synced = false;
            // It may be that of a request which was seen and waits in its lane.
            self.responses.lost(Some(time));
            return false;
        }
        let framing = Framing::of_response(&head, entry.head_request, entry.connect);
        let switch = switch_of(framing, &head.headers, self.common.client);
        // Unless it switches HTTP goes on. Requests that wait are read when the answer's body is settled: they would cut
        // it short.
        entry.pauses = switch.is_some();
        match entry.parts() {
            Some(parts) => parts.response = Some(head),
            // Given out already: there is no body to wait for.
            None if switch.is_none() => self.requests.resume(serial),
            None => {}
        }
        self.responses.synced = true;
        if let Some(switch) = switch {
            self.response_ended(serial, true, out);
            self.give(serial, Outcome::Answered, out);
            self.switch(switch, out);
            return true;
        }
        if framing == Framing::Broken {
            out.push(Output::Unread(Reason::FramingLost));
            self.response_ended(serial, false, out);
            self.responses.synced = false;
            return false;
        }
        match Body::of(framing) {
            Some(body) => self.responses.state = State::Body(body, serial),
            None => self.response_ended(serial, true, out),
        }
        true
    }

    fn response_body(&mut self, taken: &Taken, rest: Rest<'_>, out: &mut Vec<Output>) -> Step {
        let State::Body(body, serial) = &mut self.responses.state else {
            return Step::Used(0);
        };
        let serial = *serial;
        if let (Body::UntilClose, Rest::Data(bytes)) = (&*body, &rest)
            && taken.is_whole()
            && self.open.has_later(taken.time())
            && matches!(detect::resumes_response(bytes), Verdict::Yes(_))
        {
            // The client went on with the connection, and so does the server: the body had an end after all.
            self.response_ended(serial, false, out);
            return Step::Used(0);
        }
        let mut prefix = self
            .open
            .get(serial)
            .and_then(Entry::parts)
            .map(|parts| &mut parts.response_body);
        let before = prefix.as_ref().map_or(0, |prefix| prefix.len());
        let (used, progress) = match rest {
            Rest::Data(bytes) => {
                let (used, progress) = body.data(bytes, prefix.as_deref_mut());
                (used as u64, progress)
            }
            Rest::Gap(len) => {
                self.responses.activity = self.responses.activity.max(Some(taken.time()));
                body.gap(len, prefix.as_deref_mut())
            }
        };
        let grown = prefix.map_or(0, |prefix| prefix.len()) - before;
        self.open.grew(serial, grown);
        match progress {
            Progress::Going => self.settle(serial, out),
            Progress::Ended => self.response_ended(serial, true, out),
            Progress::Lost => {
                out.push(Output::Unread(Reason::FramingLost));
                self.response_ended(serial, false, out);
                self.responses.synced = false;
            }
        }
        self.bound_open(out);
        Step::Used(if progress == Progress::Lost {
            taken.len()
        } else {
            used
        })
    }

    /// `seen`: the body's end is known to have come.
    fn response_ended(&mut self, serial: Serial, seen: bool, out: &mut Vec<Output>) {
        self.responses.state = State::Head;
        if let Some(entry) = self.open.get(serial) {
            entry.answered = true;
            if let Some(parts) = entry.parts() {
                if seen {
                    parts.response_body.end()
                } else {
                    parts.response_body.cut()
                }
            }
        }
        self.settle(serial, out);
    }

    fn response_gap(&mut self, taken: &Taken, out: &mut Vec<Output>) {
        let time = taken.time();
        if !taken.is_skipped() {
            self.responses.lost(Some(time));
        }
        let begun = self.responses.gather.is_begun();
        self.responses.gather.clear();
        // Out of step, the gap may hold anything: what it means shows at the next head.
        let due = self
            .open
            .current()
            .is_some_and(|(_, entry)| begun || entry.time <= time);
        if self.responses.synced && due {
            self.lose_response(out);
        }
        self.responses.synced = false;
        self.saw_response(time);
    }

    /// The first unanswered request's response is not known.
    fn lose_response(&mut self, out: &mut Vec<Output>) {
        self.responses.gather.clear();
        self.responses.synced = false;
        let Some((serial, entry)) = self.open.current() else {
            return;
        };
        entry.answered = true;
        if self.requests.response_lost(serial) {
            out.push(Output::Unread(Reason::FramingLost));
        }
        self.give(serial, Outcome::ResponseLost, out);
    }

    fn saw_response(&mut self, time: Nanos) {
        self.responses.activity = self.responses.activity.max(Some(time));
        self.requests.mark(time);
    }

    /// A response that is not read: whose it is, is not known.
    fn saw_nobodys(&mut self, time: Nanos) {
        self.responses.lost(Some(time));
        self.saw_response(time);
    }

    /// A client that does not pipeline sends its next request after the whole response.
    pub(super) fn next_request_begins(&mut self, time: Nanos, out: &mut Vec<Output>) {
        let State::Body(_, serial) = self.responses.state else {
            return;
        };
        let Some(parts) = self.open.get(serial).and_then(Entry::parts) else {
            return;
        };
        if parts
            .response
            .as_ref()
            .is_some_and(|response| response.time <= time)
        {
            parts.response_body.cut();
            self.settle(serial, out);
        }
    }

    /// A piece that waited for a request in vain is gone.
    pub(super) fn response_forgotten(&mut self, time: Option<Nanos>, out: &mut Vec<Output>) {
        self.responses.lost(time);
        self.responses.synced = false;
        out.push(Output::Unread(Reason::ResponseWithoutRequest));
    }

    /// The connection was closed: that ends a body which lasts until then.
    pub(super) fn response_closed(&mut self, out: &mut Vec<Output>) {
        if let State::Body(Body::UntilClose, serial) = self.responses.state {
            self.response_ended(serial, true, out);
        }
    }

    /// From here on requests are given out alone.
    pub(super) fn stop_pairing(&mut self) {
        self.pairing = false;
        self.responses = Responses::default();
        self.open.clear();
    }
}

/// Its answer comes by HTTP/2 (RFC 7540 section 3.2).
pub fn becomes_http2(exchange: &Exchange) -> bool {
    exchange.response.as_ref().is_some_and(|response| {
        response.status == 101 && response.headers.first("upgrade").is_some_and(is_h2c)
    })
}

fn is_h2c(upgrade: &[u8]) -> bool {
    upgrade.trim_ascii().eq_ignore_ascii_case(b"h2c")
}

fn switch_of(framing: Framing, headers: &Headers, client: Direction) -> Option<Switch> {
    match framing {
        Framing::Tunnel => Some(Switch::Tunnel),
        Framing::Switched => {
            let to = headers.first("upgrade").unwrap_or_default().trim_ascii();
            Some(if is_h2c(to) {
                Switch::H2c(client)
            } else if to.eq_ignore_ascii_case(b"websocket") {
                Switch::WebSocket
            } else {
                Switch::OtherUpgrade
            })
        }
        _ => None,
    }
}
