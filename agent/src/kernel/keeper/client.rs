//! The agent's side: starts the watch, asks the keeper, and hears what is gone.
//!
//! Invariant: every call ends within twice [`PATIENCE`], whatever the other processes do.
//! Invariant: what is not known to be attached is told to be detached.

use super::{
    Attachment, AttachmentId, Facts, Lost, PLACES, Place, Programs, Refused, Scope, Why,
    channel::{Error, IDS, Order, Report, hear, is_closed, tell},
    screen,
};
use crate::kernel::{keylog::FileState, scope};
use lru::LruCache;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair,
        sockopt::{Timeout, set_socket_timeout},
    },
    process::{Pid, PidfdFlags, pidfd_open},
};
use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    num::NonZeroUsize,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How long an answer is waited for. An attachment takes tens of milliseconds, and many at once wait for one another
/// where they are perf's.
const PATIENCE: Duration = Duration::from_secs(10);
/// Attachments that were lost to a writer and are remembered.
const WRITTEN: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");
/// How long a full socket is waited for. The other side reads all the time, so that this is a fault of it.
const FULL: Duration = Duration::from_secs(1);
/// How long the watch may take to begin.
const BEGIN: Duration = Duration::from_secs(20);
/// How long the end of both is waited for; they go on detaching after it.
const END: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the keeper's process cannot be started: {0}")]
    Process(#[from] std::io::Error),
    #[error("the keeper cannot be told what to do: {0}")]
    Told(String),
    #[error("the keeper does not begin in time")]
    Late,
    #[error("no uprobe can be attached here: {0}")]
    Refused(String),
}

/// What is to be attached.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub file: &'a File,
    /// As the file was when its places were found.
    pub state: FileState,
    pub scope: Scope,
    /// When the process started, in ticks since boot; nothing for [`Scope::Host`].
    pub start_ticks: u64,
    /// In this order, and detached in the opposite one.
    pub places: Vec<Place>,
}

/// A keeper that runs, and that nobody listens to yet.
pub struct Started {
    socket: OwnedFd,
    // Waited for after the socket is closed.
    child: Watch,
    generation: u64,
    pid: u32,
    facts: Facts,
}

/// Handle of the keeper. Dropping it detaches everything.
pub struct Keeper {
    shared: Arc<Shared>,
    child: Watch,
    thread: Option<JoinHandle<()>>,
}

/// The watch's process. Dropping it waits for its end, which comes after the keeper's; what takes longer goes on without
/// this process.
struct Watch(Child);

impl Watch {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let until = Instant::now() + END;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Shared {
    socket: OwnedFd,
    state: Mutex<State>,
    /// A keeper has begun, or there will be none any more.
    begun: Condvar,
}

type Hearer = Arc<dyn Fn(&Lost) + Send + Sync>;

struct State {
    /// Of the keeper that runs now, with its process's id.
    now: Option<(u64, u32)>,
    facts: Facts,
    /// For attachments and for orders to detach.
    next: u64,
    attaching: HashMap<AttachmentId, Sender<Result<Attachment, Refused>>>,
    detaching: HashMap<u64, Sender<()>>,
    live: BTreeSet<AttachmentId>,
    /// Lost to a writer, the latest of them.
    written: LruCache<AttachmentId, ()>,
    /// The first number of the keeper that runs now.
    first: u64,
    /// There will be none any more.
    over: bool,
    /// Who else wants to know what is lost.
    hearers: Vec<Hearer>,
}

impl Started {
    /// Starts `program` (this very executable, usually) with the hidden command `keeper`, and waits until it is ready.
    ///
    /// # Errors
    /// If the process cannot be started, or no way to attach works in it.
    pub fn start(program: &Path, programs: &Programs) -> Result<Self, StartError> {
        let flags = SocketFlags::CLOEXEC;
        let (socket, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(std::io::Error::from)?;
        set_socket_timeout(&socket, Timeout::Send, Some(FULL)).map_err(std::io::Error::from)?;
        let child = Command::new(program)
            .arg("keeper")
            .stdin(Stdio::from(theirs))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_PID")
            .env_remove("WATCHDOG_USEC")
            .spawn()?;
        let mut started = Self {
            socket,
            child: Watch(child),
            generation: 0,
            pid: 0,
            facts: Facts {
                way: super::Way::Perf,
                no_multi: None,
                capabilities: Vec::new(),
                weaker: Vec::new(),
            },
        };
        started.begin(programs)?;
        Ok(started)
    }

    fn begin(&mut self, programs: &Programs) -> Result<(), StartError> {
        let all = || programs.perf.iter().chain(&programs.multi);
        let descriptors: Vec<BorrowedFd<'_>> = all().map(|(_, program)| program.as_fd()).collect();
        let order = Order::Begin {
            perf: programs.perf.iter().map(|(program, _)| *program).collect(),
            multi: programs.multi.iter().map(|(program, _)| *program).collect(),
            no_multi: programs.no_multi.clone(),
        };
        let told = tell(
            self.socket.as_fd(),
            &order,
            &descriptors,
            SendFlags::empty(),
        );
        told.map_err(|error| StartError::Told(error.to_string()))?;
        match self.first()? {
            Report::Ready {
                generation,
                pid,
                facts,
            } => {
                self.generation = generation;
                self.pid = pid;
                self.facts = facts;
                Ok(())
            }
            Report::Failed(why) | Report::Died { how: why, .. } => Err(StartError::Refused(why)),
            other => Err(StartError::Told(format!("it begins with {other:?}"))),
        }
    }

    fn first(&self) -> Result<Report, StartError> {
        let until = Instant::now() + BEGIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut asked = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut asked, Some(&super::hold::timespec(left))) {
                Ok(0) => return Err(StartError::Late),
                Err(Errno::INTR) => {}
                Err(error) => return Err(StartError::Process(error.into())),
                Ok(_) => {
                    let heard = hear(self.socket.as_fd(), RecvFlags::DONTWAIT);
                    return match heard.and_then(|(heard, _)| heard.read()) {
                        Ok(report) => Ok(report),
                        Err(error) => Err(StartError::Told(error.to_string())),
                    };
                }
            }
        }
    }

    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The watch and the keeper.
    #[must_use]
    pub fn pids(&self) -> [u32; 2] {
        [self.child.id(), self.pid]
    }

    /// Starts the thread that listens. `lost` is called by it, and must not ask the keeper.
    ///
    /// # Errors
    /// Those of making a thread.
    pub fn follow(self, lost: impl Fn(Lost) + Send + 'static) -> std::io::Result<Keeper> {
        let shared = Arc::new(Shared {
            socket: self.socket,
            state: Mutex::new(State {
                now: Some((self.generation, self.pid)),
                facts: self.facts,
                next: 1,
                attaching: HashMap::new(),
                detaching: HashMap::new(),
                live: BTreeSet::new(),
                written: LruCache::new(WRITTEN),
                first: 0,
                over: false,
                hearers: Vec::new(),
            }),
            begun: Condvar::new(),
        });
        let listening = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("keeper".into())
            .spawn(move || listening.listen(&lost))?;
        Ok(Keeper {
            shared,
            child: self.child,
            thread: Some(thread),
        })
    }
}

impl Keeper {
    /// Attaches, or says why not; waits for another keeper where one has ended. An attachment may be lost before this
    /// returns: see [`holds`](Self::holds).
    ///
    /// # Errors
    /// Why it is not attached.
    pub fn attach(&self, request: &Request<'_>) -> Result<Attachment, Refused> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.attach_once(request) {
                Err(Refused::Restarted) if self.shared.has_keeper_by(until) => {}
                result => return result,
            }
        }
    }

    /// Why an attachment is not held any more: told whoever did not know its number when it was lost.
    #[must_use]
    pub fn why_lost(&self, id: AttachmentId) -> Why {
        let state = self.shared.lock();
        if state.written.contains(&id) {
            Why::Written
        } else if state.over {
            Why::Gone
        } else if id.0 < state.first {
            Why::Restarted("before the attachment was known".to_owned())
        } else {
            Why::Ended
        }
    }

    /// Has everything detached, and ends both processes, whoever else still has this handle.
    pub fn close(&self) {
        // Seen by both processes, and by the thread.
        let _ = rustix::net::shutdown(&self.shared.socket, rustix::net::Shutdown::Both);
    }

    fn attach_once(&self, request: &Request<'_>) -> Result<Attachment, Refused> {
        if request.places.is_empty() || request.places.len() > PLACES {
            return Err(Refused::Places);
        }
        let process = match request.scope {
            Scope::Process(pid) => {
                let process = open(pid, request.start_ticks)?;
                screen::check(pid, request.file)?;
                Some(process)
            }
            Scope::Host => None,
        };
        let (id, generation, answer) = self.shared.expect_attachment()?;
        let order = Order::Attach {
            generation,
            id,
            state: request.state,
            scope: request.scope,
            places: request.places.clone(),
        };
        let mut descriptors = vec![request.file.as_fd()];
        descriptors.extend(process.as_ref().map(OwnedFd::as_fd));
        if let Err(error) = self.shared.say(&order, &descriptors) {
            self.shared.lock().attaching.remove(&id);
            return Err(error);
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(_) => {
                let mut state = self.shared.lock();
                state.attaching.remove(&id);
                state.live.remove(&id);
                drop(state);
                // If it comes later it goes at once: orders are obeyed one after the other.
                let _ = self.shared.say(
                    &Order::Detach {
                        number: 0,
                        ids: vec![id],
                    },
                    &[],
                );
                Err(Refused::Late)
            }
        }
    }

    /// Detaches, and waits until that is done; ids that are gone already are no fault.
    ///
    /// # Errors
    /// If the keeper does not answer: it detaches all the same, or its end does.
    pub fn detach(&self, ids: &[AttachmentId]) -> Result<(), Refused> {
        let mut answers = Vec::new();
        for ids in ids.chunks(IDS) {
            let (sender, answer) = channel();
            let number = {
                let mut state = self.shared.lock();
                if state.over {
                    return Ok(());
                }
                for id in ids {
                    state.live.remove(id);
                }
                let number = state.next;
                state.next += 1;
                state.detaching.insert(number, sender);
                number
            };
            let ids = ids.to_vec();
            if let Err(error) = self.shared.say(&Order::Detach { number, ids }, &[]) {
                self.shared.lock().detaching.remove(&number);
                return Err(error);
            }
            answers.push((number, answer));
        }
        let until = Instant::now() + PATIENCE;
        for (number, answer) in answers {
            let left = until.saturating_duration_since(Instant::now());
            if answer.recv_timeout(left).is_err() {
                self.shared.lock().detaching.remove(&number);
                return Err(Refused::Late);
            }
        }
        Ok(())
    }

    /// Whether it is attached as far as is known: to be asked once after the id was written down, because what was lost
    /// before that was told to nobody who knew it.
    #[must_use]
    pub fn holds(&self, id: AttachmentId) -> bool {
        self.shared.lock().live.contains(&id)
    }

    /// Calls this, too, with everything that is lost from now on, by the thread that listens: it must not ask the keeper.
    pub fn tell(&self, hearer: impl Fn(&Lost) + Send + Sync + 'static) {
        self.shared.lock().hearers.push(Arc::new(hearer));
    }

    /// How many are attached.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().live.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The watch's process, and the keeper's if one runs now.
    #[must_use]
    pub fn pids(&self) -> (u32, Option<u32>) {
        let now = self.shared.lock().now;
        (self.child.id(), now.map(|(_, pid)| pid))
    }

    #[must_use]
    pub fn facts(&self) -> Facts {
        self.shared.lock().facts.clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its hook.
            let _ = thread.join();
        }
    }
}

/// The process itself, and not another that has got its id.
fn open(pid: u32, start_ticks: u64) -> Result<OwnedFd, Refused> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = match pidfd_open(id.ok_or(Refused::Ended)?, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Err(Refused::Ended),
        Err(Errno::MFILE | Errno::NFILE) => return Err(Refused::Descriptors),
        Err(error) => return Err(Refused::Kernel(error.to_string())),
    };
    // Opened first: if the id means the right one now, it did then.
    if scope::start_ticks(pid) == Some(start_ticks) {
        Ok(process)
    } else {
        Err(Refused::Ended)
    }
}

type Expected = (AttachmentId, u64, Receiver<Result<Attachment, Refused>>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Result<(), Refused> {
        let flags = SendFlags::empty();
        tell(self.socket.as_fd(), order, descriptors, flags).map_err(|error| match error {
            Error::Gone => Refused::NoKeeper,
            Error::Full => Refused::Late,
            error => Refused::Channel(error.to_string()),
        })
    }

    /// Waits for a keeper; false if there is none by then, or will be none any more.
    fn has_keeper_by(&self, until: Instant) -> bool {
        let mut state = self.lock();
        while state.now.is_none() && !state.over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.begun.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        // One that ends again and again is not waited for without end.
        !state.over && Instant::now() < until
    }

    fn expect_attachment(&self) -> Result<Expected, Refused> {
        let mut state = self.lock();
        if state.over {
            return Err(Refused::NoKeeper);
        }
        let (generation, _) = state.now.ok_or(Refused::Restarted)?;
        let id = AttachmentId(state.next);
        state.next += 1;
        let (sender, answer) = channel();
        state.attaching.insert(id, sender);
        Ok((id, generation, answer))
    }

    /// Until the other side has gone.
    fn listen(&self, lost: &impl Fn(Lost)) {
        loop {
            match hear(self.socket.as_fd(), RecvFlags::empty()) {
                Ok((heard, _)) => match heard.read() {
                    Ok(report) => self.take(report, lost),
                    Err(error) => tracing::warn!(%error, "what the keeper says is not understood"),
                },
                Err(Error::Gone) => break,
                Err(error) => {
                    tracing::warn!(%error, "the keeper cannot be heard");
                    if is_closed(&self.socket) {
                        break;
                    }
                }
            }
        }
        self.all_lost(Why::Gone, true, lost);
    }

    fn take(&self, report: Report, lost: &impl Fn(Lost)) {
        match report {
            Report::Ready {
                generation,
                pid,
                facts,
            } => {
                let mut state = self.lock();
                state.now = Some((generation, pid));
                state.facts = facts;
                drop(state);
                self.begun.notify_all();
            }
            Report::Attached(attachment) => {
                let mut state = self.lock();
                // Nobody waits any more: it was told to go.
                if let Some(asker) = state.attaching.remove(&attachment.id) {
                    state.live.insert(attachment.id);
                    let _ = asker.send(Ok(attachment));
                }
            }
            Report::Refused { id, refused } => {
                if let Some(asker) = self.lock().attaching.remove(&id) {
                    let _ = asker.send(Err(refused));
                }
            }
            Report::Detached { number } => {
                if let Some(asker) = self.lock().detaching.remove(&number) {
                    let _ = asker.send(());
                }
            }
            Report::Lost { mut ids, why } => {
                let mut state = self.lock();
                if why == Why::Written {
                    for id in &ids {
                        state.written.put(*id, ());
                    }
                }
                ids.retain(|id| state.live.remove(id));
                drop(state);
                self.lose(Lost { ids, why }, lost);
            }
            Report::Died { how, .. } => self.all_lost(Why::Restarted(how), false, lost),
            Report::Failed(why) => {
                tracing::warn!(%why, "no uprobe is attached any more");
            }
        }
    }

    /// Nothing that was attached is any more.
    fn all_lost(&self, why: Why, over: bool, lost: &impl Fn(Lost)) {
        let mut state = self.lock();
        state.now = None;
        state.first = state.next;
        state.over |= over;
        let refused = if over {
            Refused::NoKeeper
        } else {
            Refused::Restarted
        };
        for (_, asker) in state.attaching.drain() {
            let _ = asker.send(Err(refused.clone()));
        }
        for (_, asker) in state.detaching.drain() {
            let _ = asker.send(());
        }
        let ids: Vec<AttachmentId> = std::mem::take(&mut state.live).into_iter().collect();
        drop(state);
        self.begun.notify_all();
        self.lose(Lost { ids, why }, lost);
    }

    fn lose(&self, what: Lost, lost: &impl Fn(Lost)) {
        if what.ids.is_empty() {
            return;
        }
        let hearers = self.lock().hearers.clone();
        hearers.iter().for_each(|hearer| hearer(&what));
        lost(what);
    }
}
