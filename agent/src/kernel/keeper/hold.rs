//! The keeper's first thread: hears the agent, gives the other threads their work, and tells the watch that it lives.
//!
//! It waits for nothing but the next event: attaching and detaching, which the kernel takes its time for, is done by the
//! other threads ([`super::shard`]), and they answer writers by themselves, whether the agent is there or not.
//!
//! Invariant: while anything is held, or is about to be, the watch hears a beat every [`BEAT`].
//! Invariant: what waits to be told to the agent is bounded by what may be attached: with more of it no order is heard.

use super::{
    AttachmentId, PLACES, Place, Refused, Scope, Way, Why,
    channel::{self, Error, IDS, Order, Report, hear, tell},
    shard::{self, Answers, Attach, Done, LEASES, Post, Task, Tools},
};
use crate::kernel::keylog::FileState;
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll},
    net::{RecvFlags, SendFlags},
};
use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Most attachments: 32 for each thread, so that a file that all of them are on is free within 2 s.
pub const ATTACHMENTS: usize = 4_096;
/// Most files with attachments.
pub const FILES: usize = 1_024;
/// Most events of perf, which are detached one after the other, in 0.1 s each: a writer who waits for all of them waits a
/// third of the time after which the kernel takes a lease away (`fs.lease-break-time`, 45 s).
pub const EVENTS: usize = 128;
/// Most threads that hold attachments.
const SHARDS: usize = 128;
/// How long detaching may take once the agent has gone.
const GIVING_UP: Duration = Duration::from_secs(60);
/// How often the watch is told.
pub(super) const BEAT: Duration = Duration::from_millis(10);
/// What it is told: something is held; nothing is.
pub(super) const HOLDING: u8 = 1;
pub(super) const IDLE: u8 = 0;
/// Reports that wait for an agent that does not read, before no more orders are heard.
const REPORTS: usize = 1_024;

// What events are about; other numbers are attachments'.
const SOCKET: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

struct Shard {
    post: Arc<Post>,
    thread: JoinHandle<()>,
    load: usize,
    files: HashMap<FileState, usize>,
}

/// An attachment, or one that is being made.
struct Known {
    shard: usize,
    state: FileState,
    /// Of perf.
    events: usize,
    /// The file while it is attached to.
    file: Option<OwnedFd>,
    process: Option<OwnedFd>,
    /// It is to go, because the process has ended.
    ended: bool,
    going: bool,
    /// Orders that wait for its end.
    waiting: Vec<u64>,
}

pub(super) struct Hold<'a> {
    pub socket: BorrowedFd<'a>,
    pub beats: OwnedFd,
    pub generation: u64,
    pub tools: Arc<Tools>,
}

struct Keeping<'a> {
    hold: Hold<'a>,
    events: OwnedFd,
    answers: Arc<Answers>,
    shards: Vec<Shard>,
    known: HashMap<AttachmentId, Known>,
    /// How many attachments each order still waits for.
    orders: HashMap<u64, usize>,
    reports: VecDeque<Report>,
    /// The socket's events that are asked for.
    asked: epoll::EventFlags,
    beaten: Instant,
    told: u8,
    /// Since when the agent is gone.
    gone: Option<Instant>,
}

/// Holds what the agent asks for, until it has gone and all is given up. `ready` is the first report.
pub(super) fn hold(hold: Hold<'_>, ready: Report) -> io::Result<()> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let answers = Arc::new(Answers::new(eventfd(0, flags)?));
    let of = epoll::EventData::new_u64;
    epoll::add(&events, answers.bell(), of(BELL), epoll::EventFlags::IN)?;
    epoll::add(&events, hold.socket, of(SOCKET), epoll::EventFlags::IN)?;
    let mut keeping = Keeping {
        hold,
        events,
        answers,
        shards: Vec::new(),
        known: HashMap::new(),
        orders: HashMap::new(),
        reports: VecDeque::from([ready]),
        asked: epoll::EventFlags::IN,
        beaten: Instant::now(),
        told: IDLE,
        gone: None,
    };
    while !keeping.is_over() {
        keeping.step()?;
    }
    keeping.end();
    Ok(())
}

impl Keeping<'_> {
    fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Nobody is there to ask, and nothing is held: no event would come any more.
    fn is_over(&self) -> bool {
        self.gone.is_some() && self.is_empty()
    }

    fn step(&mut self) -> io::Result<()> {
        self.report();
        if self.is_over() {
            return Ok(());
        }
        if self.gone.is_some_and(|since| since.elapsed() > GIVING_UP) {
            // A thread hangs. The kernel detaches all with this process.
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.ask()?;
        self.beat(!self.is_empty());
        let mut ready = Vec::with_capacity(64);
        let wait = (self.told != IDLE).then_some(BEAT).map(timespec);
        match epoll::wait(
            &self.events,
            rustix::buffer::spare_capacity(&mut ready),
            wait.as_ref(),
        ) {
            Err(rustix::io::Errno::INTR) => return Ok(()),
            waited => waited?,
        };
        for event in ready {
            match event.data.u64() {
                BELL => {
                    for done in self.answers.take() {
                        self.done(done);
                    }
                }
                SOCKET => self.hear(),
                id => self.ended(AttachmentId(id)),
            }
        }
        Ok(())
    }

    /// Tells the watch, at once if something begins to be held or the last is gone.
    fn beat(&mut self, holding: bool) {
        let state = if holding { HOLDING } else { IDLE };
        if state == IDLE && self.told == IDLE
            || state == self.told && self.beaten.elapsed() < BEAT / 2
        {
            return;
        }
        // A full pipe: the watch is stopped, and begins with what is the latest when it goes on.
        if rustix::io::write(&self.hold.beats, &[state]).is_ok() {
            self.told = state;
        }
        self.beaten = Instant::now();
    }

    /// Gives the agent what it takes.
    fn report(&mut self) {
        while let Some(report) = self.reports.front() {
            match tell(self.hold.socket, report, &[], SendFlags::DONTWAIT) {
                Err(Error::Full) => return,
                Err(Error::Gone) => return self.leave(),
                // What cannot be said is left out; ids that are not answered are given up by who asked.
                Ok(()) | Err(_) => self.reports.pop_front(),
            };
        }
    }

    /// Asks for the socket's events that matter now.
    fn ask(&mut self) -> io::Result<()> {
        let mut wanted = epoll::EventFlags::empty();
        if self.reports.len() < REPORTS {
            wanted |= epoll::EventFlags::IN;
        }
        if !self.reports.is_empty() {
            wanted |= epoll::EventFlags::OUT;
        }
        if self.gone.is_none() && wanted != self.asked {
            let data = epoll::EventData::new_u64(SOCKET);
            epoll::modify(&self.events, self.hold.socket, data, wanted)?;
            self.asked = wanted;
        }
        Ok(())
    }

    /// The agent has gone: everything is given up.
    fn leave(&mut self) {
        if self.gone.is_none() {
            self.gone = Some(Instant::now());
            // Watched no more, or it would be ready for ever.
            let _ = epoll::delete(&self.events, self.hold.socket);
            let ids: Vec<AttachmentId> = self.known.keys().copied().collect();
            ids.into_iter().for_each(|id| self.detach(id));
        }
        self.reports.clear();
    }

    fn hear(&mut self) {
        // As much as is there, but not for ever.
        for _ in 0..64 {
            if self.gone.is_some() || self.reports.len() >= REPORTS {
                return;
            }
            match hear(self.hold.socket, RecvFlags::DONTWAIT) {
                Ok((heard, descriptors)) => {
                    if let Ok(order) = heard.read::<Order>() {
                        self.obey(order, descriptors);
                    }
                }
                Err(Error::Full) => return,
                Err(Error::Gone) => return self.leave(),
                Err(Error::Descriptors(order)) => match *order {
                    Some(Order::Attach { id, .. }) => self.refuse(id, Refused::Descriptors),
                    Some(order) => self.obey(order, Vec::new()),
                    None => {}
                },
                Err(_) => {
                    if channel::is_closed(self.hold.socket) {
                        return self.leave();
                    }
                }
            }
        }
    }

    fn refuse(&mut self, id: AttachmentId, refused: Refused) {
        self.reports.push_back(Report::Refused { id, refused });
    }

    fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) {
        match order {
            // To the watch alone.
            Order::Begin { .. } => {}
            Order::Attach { generation, id, .. } if generation != self.hold.generation => {
                self.refuse(id, Refused::Restarted);
            }
            Order::Attach {
                id,
                state,
                scope,
                places,
                ..
            } => {
                if let Err(refused) = self.begin(id, state, scope, places, descriptors) {
                    self.refuse(id, refused);
                }
            }
            Order::Detach { number, ids } => {
                let mut waits = 0;
                for id in ids {
                    if let Some(known) = self.known.get_mut(&id) {
                        known.waiting.push(number);
                        waits += 1;
                        self.detach(id);
                    }
                }
                if waits == 0 {
                    self.reports.push_back(Report::Detached { number });
                } else {
                    self.orders.insert(number, waits);
                }
            }
        }
    }

    fn begin(
        &mut self,
        id: AttachmentId,
        state: FileState,
        scope: Scope,
        places: Vec<Place>,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<(), Refused> {
        if places.is_empty() || places.len() > PLACES {
            return Err(Refused::Places);
        }
        if self.known.len() >= ATTACHMENTS {
            return Err(Refused::Attachments(ATTACHMENTS));
        }
        let files = || self.known.values().map(|known| known.state);
        if files().all(|known| known != state)
            && files().collect::<std::collections::HashSet<_>>().len() >= FILES
        {
            return Err(Refused::Files(FILES));
        }
        let events = match self.hold.tools.way {
            Way::Multi => 0,
            Way::Perf => places.len(),
        };
        let there: usize = self.known.values().map(|known| known.events).sum();
        if there + events > EVENTS {
            return Err(Refused::Events(EVENTS));
        }
        let process = match scope {
            Scope::Process(_) => Some(descriptors.pop().ok_or(Refused::Descriptors)?),
            Scope::Host => None,
        };
        let (Some(file), true) = (descriptors.pop(), descriptors.is_empty()) else {
            return Err(Refused::Descriptors);
        };
        if process.as_ref().is_some_and(has_ended) {
            return Err(Refused::Ended);
        }
        // Before anything is held.
        self.beat(true);
        let shard = self.shard_for(&state)?;
        self.shards[shard].add(state);
        self.shards[shard].post.give(Task::Attach(Box::new(Attach {
            id,
            file: file.as_raw_fd(),
            state,
            scope,
            places,
        })));
        let known = Known {
            shard,
            state,
            events,
            file: Some(file),
            process,
            ended: false,
            going: false,
            waiting: Vec::new(),
        };
        self.known.insert(id, known);
        Ok(())
    }

    /// One that has nothing yet, a new one, or the one with the least to detach when this file is written to.
    fn shard_for(&mut self, state: &FileState) -> Result<usize, Refused> {
        if let Some(idle) = self.shards.iter().position(|shard| shard.load == 0) {
            return Ok(idle);
        }
        if self.shards.len() < SHARDS {
            match shard::start(&self.hold.tools, &self.answers) {
                Ok((post, thread)) => {
                    self.shards.push(Shard {
                        post,
                        thread,
                        load: 0,
                        files: HashMap::new(),
                    });
                    return Ok(self.shards.len() - 1);
                }
                Err(error) if self.shards.is_empty() => return Err(shard::refusal(error)),
                // Those that there are do.
                Err(_) => {}
            }
        }
        let room = |shard: &&Shard| shard.files.contains_key(state) || shard.files.len() < LEASES;
        let best = self.shards.iter().enumerate().filter(|(_, one)| room(one));
        let best = best.min_by_key(|(_, shard)| (shard.load, shard.files.get(state).copied()));
        best.map(|(number, _)| number).ok_or(Refused::Files(FILES))
    }

    fn detach(&mut self, id: AttachmentId) {
        if let Some(known) = self.known.get_mut(&id)
            && !std::mem::replace(&mut known.going, true)
        {
            self.shards[known.shard].post.give(Task::Detach(id));
        }
    }

    /// Its process has ended.
    fn ended(&mut self, id: AttachmentId) {
        if let Some(known) = self.known.get_mut(&id) {
            known.ended = true;
            if let Some(process) = known.process.take() {
                let _ = epoll::delete(&self.events, &process);
            }
            self.detach(id);
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Attached(attachment) => self.attached(attachment),
            Done::Refused(id, refused) => {
                self.forget(id);
                self.refuse(id, refused);
            }
            Done::Detached(id) => {
                if self.forget(id).is_some_and(|known| known.ended) {
                    self.lost(vec![id], Why::Ended);
                }
            }
            Done::Written(ids) => {
                for id in &ids {
                    self.forget(*id);
                }
                self.lost(ids, Why::Written);
            }
        }
    }

    fn attached(&mut self, attachment: super::Attachment) {
        let id = attachment.id;
        let Some(known) = self.known.get_mut(&id) else {
            return;
        };
        known.file = None;
        // Alive now, so that its id meant it all the while.
        let lives = known.process.as_ref().is_none_or(|process| {
            let data = epoll::EventData::new_u64(id.0);
            epoll::add(&self.events, process, data, epoll::EventFlags::IN).is_ok()
                && !has_ended(process)
        });
        if lives {
            self.reports.push_back(Report::Attached(attachment));
        } else {
            self.refuse(id, Refused::Ended);
            self.detach(id);
        }
    }

    fn lost(&mut self, ids: Vec<AttachmentId>, why: Why) {
        if ids.is_empty() {
            return;
        }
        // Many processes end at once: one message for all of them.
        if let Some(Report::Lost {
            ids: waiting,
            why: same,
        }) = self.reports.back_mut()
            && *same == why
            && waiting.len() + ids.len() <= IDS
        {
            waiting.extend(ids);
            return;
        }
        for ids in ids.chunks(IDS) {
            self.reports.push_back(Report::Lost {
                ids: ids.to_vec(),
                why: why.clone(),
            });
        }
    }

    /// It is detached: closes what was kept of it, and tells who waited.
    fn forget(&mut self, id: AttachmentId) -> Option<Known> {
        let mut known = self.known.remove(&id)?;
        self.shards[known.shard].remove(&known.state);
        if let Some(process) = known.process.take() {
            // Never added if it was not attached.
            let _ = epoll::delete(&self.events, &process);
        }
        for number in known.waiting.drain(..) {
            if let Some(waits) = self.orders.get_mut(&number) {
                *waits -= 1;
                if *waits == 0 {
                    self.orders.remove(&number);
                    self.reports.push_back(Report::Detached { number });
                }
            }
        }
        Some(known)
    }

    /// Nothing is attached any more.
    fn end(&mut self) {
        for shard in self.shards.drain(..) {
            shard.post.give(Task::End);
            // A panic there was printed by its hook.
            let _ = shard.thread.join();
        }
        self.beat(false);
    }
}

impl Shard {
    fn add(&mut self, state: FileState) {
        self.load += 1;
        *self.files.entry(state).or_default() += 1;
    }

    fn remove(&mut self, state: &FileState) {
        self.load -= 1;
        if let Some(count) = self.files.get_mut(state) {
            *count -= 1;
            if *count == 0 {
                self.files.remove(state);
            }
        }
    }
}

fn has_ended(process: impl AsFd) -> bool {
    let now = timespec(Duration::ZERO);
    let mut asked = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut asked, Some(&now)).is_ok_and(|ready| ready > 0)
}

pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Facts, *};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::sync::mpsc::channel;

    /// How long the keeper may take to end, with nothing to give up.
    const LONG: Duration = Duration::from_secs(60);

    /// A keeper in a thread of this process, told to begin. `agent` is done with the other end of its socket at first.
    fn ends_after(agent: impl FnOnce(OwnedFd) -> Option<OwnedFd>) -> bool {
        let flags = SocketFlags::CLOEXEC;
        let (ours, socket) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (_watch, beats) = io::pipe().unwrap();
        let facts = Facts {
            way: Way::Perf,
            no_multi: None,
            capabilities: Vec::new(),
            weaker: Vec::new(),
        };
        let tools = Arc::new(Tools {
            way: Way::Perf,
            programs: Vec::new(),
            event: None,
            memory: None,
        });
        let ours = agent(ours);
        let (ended, ends) = channel();
        std::thread::spawn(move || {
            let hold = Hold {
                socket: socket.as_fd(),
                beats: beats.into(),
                generation: 1,
                tools,
            };
            let ready = Report::Ready {
                generation: 1,
                pid: 1,
                facts,
            };
            super::hold(hold, ready).unwrap();
            let _ = ended.send(());
        });
        if let Some(ours) = ours {
            let (heard, _) = hear(ours.as_fd(), RecvFlags::empty()).unwrap();
            assert!(matches!(heard.read().unwrap(), Report::Ready { .. }));
        }
        ends.recv_timeout(LONG).is_ok()
    }

    #[test]
    fn a_keeper_ends_with_an_agent_that_went_before_it_began() {
        assert!(ends_after(|ours| {
            drop(ours);
            None
        }));
    }

    #[test]
    fn a_keeper_ends_with_an_agent_that_goes_after_it_began() {
        assert!(ends_after(Some));
    }
}
