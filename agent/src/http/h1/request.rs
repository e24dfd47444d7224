//! The client's direction: heads, bodies, and where it must wait.

use super::body::{Body, Progress};
use super::framing::Framing;
use super::gather::{Fed, Gather};
use super::lane::{Rest, Taken};
use super::open::{Entry, Serial};
use super::{Connection, Output, Reason, Stage, Step};
use crate::flow::Nanos;
use crate::http::detect::{self, Verdict};
use crate::http::head::{Outcome, RequestHead};

#[derive(Default)]
pub(super) struct Requests {
    state: State,
    gather: Gather,
    sync: Sync,
    /// When the last bytes were read.
    last: Nanos,
}

#[derive(Default)]
enum State {
    #[default]
    Head,
    Body(Body, Serial),
    /// After CONNECT or Upgrade: what follows may be another protocol, the response tells.
    Paused(Serial),
}

/// Is it known that the next byte begins a request?
#[derive(Clone, Copy, Default)]
enum Sync {
    #[default]
    Synced,
    /// Joined in the middle: the next piece that begins like a request does.
    Late,
    /// Lost the way, having read up to `since`. Bodies may contain requests, so one is believed only after something of
    /// the other direction, first seen at `mark`.
    Lost { since: Nanos, mark: Option<Nanos> },
}

impl Requests {
    pub fn begin_late(&mut self) {
        self.sync = Sync::Late;
    }

    pub fn in_body(&self) -> bool {
        matches!(self.state, State::Body(..))
    }

    pub fn in_head(&self) -> bool {
        self.gather.is_begun()
    }

    /// Bytes of a head that goes on.
    pub fn gathered(&self) -> usize {
        self.gather.len()
    }

    pub fn is_paused(&self) -> bool {
        matches!(self.state, State::Paused(_))
    }

    /// Nothing of a request is read in part.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.state, State::Head) && !self.gather.is_begun()
    }

    pub fn is_synced(&self) -> bool {
        matches!(self.sync, Sync::Synced)
    }

    /// Something of the other direction was seen.
    pub fn mark(&mut self, time: Nanos) {
        if let Sync::Lost {
            since,
            mark: mark @ None,
        } = &mut self.sync
        {
            *mark = Some(time).filter(|time| time >= since);
        }
    }

    /// The final response to a request that paused has come, and HTTP goes on.
    pub fn resume(&mut self, answered: Serial) {
        if matches!(self.state, State::Paused(serial) if serial == answered) {
            self.state = State::Head;
        }
    }

    /// The response to a request was lost; true if that leaves us without the way.
    pub fn response_lost(&mut self, lost: Serial) -> bool {
        let waits = matches!(self.state, State::Paused(serial) if serial == lost);
        if waits {
            self.state = State::Head;
            self.sync = Sync::Late;
        }
        waits
    }

    fn lose(&mut self, activity: Option<Nanos>) {
        self.gather.clear();
        self.state = State::Head;
        let since = self.last;
        self.sync = Sync::Lost {
            since,
            mark: activity.filter(|time| *time >= since),
        };
    }
}

impl Connection {
    pub(super) fn read_requests(&mut self, out: &mut Vec<Output>) -> bool {
        let reads = |this: &Self| match this.stage {
            Stage::Http => true,
            // A body that is still on its way when the response has switched already.
            Stage::Switched => this.requests.in_body(),
            Stage::Looking | Stage::Done => false,
        };
        self.read(self.common.client, out, reads, Self::request_step)
    }

    fn request_step(&mut self, taken: &Taken, out: &mut Vec<Output>) -> Step {
        match (&self.requests.state, taken.rest()) {
            (State::Paused(_), _) => Step::Wait,
            (State::Body(..), rest) => self.request_body(taken, rest, out),
            (State::Head, Rest::Gap(len)) => {
                self.request_gap(taken.is_skipped(), out);
                Step::Used(len)
            }
            (State::Head, Rest::Data(bytes)) => self.request_head(taken, bytes, out),
        }
    }

    fn request_head(&mut self, taken: &Taken, bytes: &[u8], out: &mut Vec<Output>) -> Step {
        let all = bytes.len() as u64;
        if !self.requests.gather.is_begun() {
            let blank = bytes
                .iter()
                .take_while(|byte| matches!(byte, b'\r' | b'\n'))
                .count();
            if blank > 0 {
                return Step::Used(blank as u64);
            }
            match self.request_begins(taken.time(), bytes) {
                Begins::Yes => {}
                Begins::No => return Step::Used(all),
                Begins::Wait => return Step::Wait,
            }
        }
        self.requests.last = taken.time();
        let gathered = self.requests.gather.len();
        let synced = self.requests.is_synced();
        let began = self.requests.gather.since().unwrap_or(taken.time());
        match self
            .requests
            .gather
            .feed::<RequestHead>(bytes, taken.place(self.layer), &self.limits)
        {
            Fed::More => Step::Used(all),
            Fed::Head(head, used) => {
                let keeps = self.open_request(head, gathered + used, out);
                Step::Used(if keeps { used as u64 } else { all })
            }
            // It only looked like the beginning of a request: this piece may still be one.
            Fed::Bad(Reason::Malformed) if !synced => {
                Step::Used(if gathered > 0 { 0 } else { all })
            }
            Fed::Bad(reason) => {
                out.push(Output::Unread(reason));
                self.lose_request(began);
                Step::Used(all)
            }
        }
    }

    fn request_begins(&self, time: Nanos, bytes: &[u8]) -> Begins {
        if self.requests.is_synced() {
            return Begins::Yes;
        }
        if detect::resumes_request(bytes) == Verdict::No {
            return Begins::No;
        }
        match self.requests.sync {
            Sync::Lost { mark: None, .. } => Begins::Wait,
            Sync::Lost {
                mark: Some(mark), ..
            } if time < mark => Begins::No,
            _ => Begins::Yes,
        }
    }

    /// A request's head is whole. False if where its body ends cannot be known.
    fn open_request(&mut self, head: RequestHead, weight: usize, out: &mut Vec<Output>) -> bool {
        let framing = Framing::of_request(&head);
        self.requests.sync = Sync::Synced;
        self.next_request_begins(head.time, out);
        let serial = self
            .open
            .push(Entry::new(head, weight, self.limits.body_prefix));
        if framing == Framing::Broken {
            if let Some(parts) = self.open.get(serial).and_then(Entry::parts) {
                parts.request_body.cut();
            }
            out.push(Output::Unread(Reason::FramingLost));
            self.requests.lose(self.responses.activity());
        } else if let Some(body) = Body::of(framing) {
            self.requests.state = State::Body(body, serial);
        } else {
            if let Some(parts) = self.open.get(serial).and_then(Entry::parts) {
                parts.request_body.end();
            }
            self.request_ended(serial);
        }
        self.settle(serial, out);
        self.bound_open(out);
        framing != Framing::Broken
    }

    fn request_body(&mut self, taken: &Taken, rest: Rest<'_>, out: &mut Vec<Output>) -> Step {
        let State::Body(body, serial) = &mut self.requests.state else {
            return Step::Used(0);
        };
        let serial = *serial;
        let mut prefix = self
            .open
            .get(serial)
            .and_then(Entry::parts)
            .map(|parts| &mut parts.request_body);
        let before = prefix.as_ref().map_or(0, |prefix| prefix.len());
        let (used, progress) = match rest {
            Rest::Data(bytes) => {
                self.requests.last = taken.time();
                let (used, progress) = body.data(bytes, prefix.as_deref_mut());
                (used as u64, progress)
            }
            Rest::Gap(len) => body.gap(len, prefix.as_deref_mut()),
        };
        let grown = prefix.map_or(0, |prefix| prefix.len()) - before;
        self.open.grew(serial, grown);
        match progress {
            Progress::Going => {}
            Progress::Ended => self.request_ended(serial),
            Progress::Lost => {
                out.push(Output::Unread(Reason::FramingLost));
                self.requests.lose(self.responses.activity());
            }
        }
        self.settle(serial, out);
        self.bound_open(out);
        Step::Used(if progress == Progress::Lost {
            taken.len()
        } else {
            used
        })
    }

    fn request_ended(&mut self, serial: Serial) {
        let pauses = self
            .open
            .get(serial)
            .is_some_and(|entry| entry.pauses && !entry.answered);
        self.requests.state = if pauses {
            State::Paused(serial)
        } else {
            State::Head
        };
    }

    fn request_gap(&mut self, skipped: bool, out: &mut Vec<Output>) {
        let began = self.requests.gather.since();
        if self.requests.is_synced() {
            if !skipped {
                out.push(Output::Unread(Reason::RequestLost));
            }
            self.lose_request(began.unwrap_or(self.requests.last));
        } else {
            self.requests.gather.clear();
        }
    }

    /// A request went by unread: its response must not be taken for another's.
    fn lose_request(&mut self, time: Nanos) {
        self.requests.lose(self.responses.activity());
        if self.pairing {
            self.open.push(Entry::phantom(time));
        }
    }

    pub(super) fn bound_open(&mut self, out: &mut Vec<Output>) {
        while self.open.weight() > self.limits.queued {
            let Some(serial) = self.open.oldest_held_if(|_| true) else {
                break;
            };
            self.give(serial, Outcome::Unfinished, out);
        }
        if self.pairing && self.open.len() > self.limits.outstanding {
            out.push(Output::Unread(Reason::TooManyOutstanding));
            self.give_all(Outcome::Unfinished, out);
            self.stop_pairing();
        }
    }
}

enum Begins {
    Yes,
    No,
    Wait,
}
