//! The worker's end: asks the privileged process, and takes what it tells.
//!
//! Invariant: a question is answered within [`PATIENCE`] or not at all, and then its answer is thrown away.

use super::message::{Answer, Ask, Settings, Tell};
use super::pipe::{Error, Pipe};
use crate::flow::Nanos;
use crate::identity::executable::{Request, Slot};
use crate::identity::eyes::{Eyes, Running};
use crate::kernel::points::Points;
use crate::kernel::probes::Totals;
use crate::kernel::record::FileId;
use agent_common::event::HashAbsent;
use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::warn;

/// How long an answer is waited for: usually some ten microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// Executables that may be looked for at the same time.
const WAITING: usize = 1_024;
/// User names that are remembered, and for how long.
const NAMES: usize = 4_096;
const NAMES_LAST: Duration = Duration::from_secs(1);
/// Files of one configuration: more than three receivers have, with a header each from a file.
const FILES: usize = 64;
/// Complaints about the other side that are written down.
const COMPLAINTS: u32 = 10;

/// What the worker is told to do.
#[derive(Debug)]
pub enum Order {
    Start,
    ScopeChanged(String),
    /// With the files that it names.
    Reload(Settings, Vec<(PathBuf, File)>),
    /// What may be afforded: [`Tell::Budget`].
    Budget {
        kept: u16,
        shed: bool,
    },
    /// The probes are detached for a while: [`Tell::Detached`].
    Detached {
        at: Nanos,
        why: String,
    },
    /// To be answered by [`Ask::Waits`].
    Attaching,
    Attached {
        at: Nanos,
    },
    /// In good order, after the last record.
    Stop,
    /// The privileged process is gone: as [`Stop`](Self::Stop), but nobody is left to be asked.
    Gone,
}

enum Waiting {
    Executable(Arc<Slot>),
    Answer(SyncSender<Answer>),
}

/// The worker's end of the pipe.
pub struct Link {
    pipe: Pipe,
    next: AtomicU64,
    /// `None` once the other side is gone.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
}

impl Link {
    #[must_use]
    pub fn new(pipe: Pipe) -> Self {
        Self {
            pipe,
            next: AtomicU64::new(0),
            waiting: Mutex::new(Some(HashMap::new())),
        }
    }

    /// # Errors
    /// If the other side is gone or stuck.
    pub fn send(&self, ask: &Ask) -> Result<(), Error> {
        self.pipe.send(ask)
    }

    /// The probes' counters, or why they cannot be read.
    ///
    /// # Errors
    /// In words.
    pub fn counters(&self) -> Result<Totals, String> {
        match self.ask(|number| Ask::Counters { number }) {
            Some(Answer::Counters(Ok(values))) => Totals::from_values(&values)
                .ok_or_else(|| format!("{} counters are not all of them", values.len())),
            Some(Answer::Counters(Err(why))) => Err(why),
            _ => Err("the privileged process does not answer".to_owned()),
        }
    }

    /// Takes what is told until the end, in a thread of its own.
    pub fn listen(&self, points: &Points, mut order: impl FnMut(Order)) {
        let mut receiver = self.pipe.receiver();
        let (mut complaints, mut files) = (0, Vec::new());
        loop {
            let (told, descriptor) = match receiver.receive_with::<Tell>() {
                Ok((told, descriptor)) => (Ok(told), descriptor),
                Err(error) => (Err(error), None),
            };
            match told {
                Ok(Tell::Change(change)) => points.apply(change),
                Ok(Tell::Found { number, found }) => {
                    let last = found.digest.is_some();
                    let mut waiting = self.lock();
                    let slot = match waiting.as_ref().and_then(|waiting| waiting.get(&number)) {
                        Some(Waiting::Executable(slot)) => Some(slot.clone()),
                        _ => None,
                    };
                    if last && let Some(waiting) = &mut *waiting {
                        waiting.remove(&number);
                    }
                    drop(waiting);
                    if let Some(slot) = slot {
                        slot.land(found);
                    }
                }
                Ok(Tell::Answer { number, answer }) => {
                    let waiting = self.lock().as_mut().and_then(|all| all.remove(&number));
                    if let Some(Waiting::Answer(sender)) = waiting {
                        // Who asked may have lost patience.
                        let _ = sender.try_send(answer);
                    }
                }
                Ok(Tell::Start) => order(Order::Start),
                Ok(Tell::ScopeChanged { path }) => order(Order::ScopeChanged(path)),
                Ok(Tell::File { path }) => {
                    let file = descriptor.filter(|_| files.len() < FILES).map(File::from);
                    files.extend(file.map(|file| (path, file)));
                }
                Ok(Tell::Reload(settings)) => {
                    order(Order::Reload(settings, std::mem::take(&mut files)));
                }
                Ok(Tell::Budget { kept, shed }) => order(Order::Budget { kept, shed }),
                Ok(Tell::Detached { at, why }) => order(Order::Detached { at, why }),
                Ok(Tell::Attaching) => order(Order::Attaching),
                Ok(Tell::Attached { at }) => order(Order::Attached { at }),
                Ok(Tell::Stop) => order(Order::Stop),
                Ok(Tell::Begin(_)) => warn!("told to begin again: not done"),
                Err(Error::Message(error)) if complaints < COMPLAINTS => {
                    complaints += 1;
                    warn!(%error, "what the privileged process says is not understood");
                }
                Err(Error::Message(_)) => {}
                Err(error) => {
                    if !matches!(error, Error::Gone) {
                        warn!(%error, "the privileged process cannot be heard any more");
                    }
                    break;
                }
            }
        }
        let left = self.lock().take();
        for waiting in left.into_iter().flat_map(HashMap::into_values) {
            if let Waiting::Executable(slot) = waiting {
                slot.land(crate::identity::executable::Found {
                    digest: Some(Err(HashAbsent::Unreadable)),
                    ..Default::default()
                });
            }
        }
        order(Order::Gone);
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<u64, Waiting>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a question; `None` if too many wait or nobody is there.
    fn enter(&self, waiting: Waiting) -> Option<u64> {
        let mut all = self.lock();
        let all = all.as_mut().filter(|all| all.len() < WAITING)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        all.insert(number, waiting);
        Some(number)
    }

    fn forget(&self, number: u64) {
        if let Some(all) = &mut *self.lock() {
            all.remove(&number);
        }
    }

    fn ask(&self, question: impl FnOnce(u64) -> Ask) -> Option<Answer> {
        let (sender, answers) = sync_channel(1);
        let number = self.enter(Waiting::Answer(sender))?;
        if let Err(error) = self.send(&question(number)) {
            self.forget(number);
            if !matches!(error, Error::Gone) {
                warn!(%error, "the privileged process could not be asked");
            }
            return None;
        }
        let answer = answers.recv_timeout(PATIENCE).ok();
        if answer.is_none() {
            self.forget(number);
        }
        answer
    }
}

/// Sees through the other process.
pub struct Remote {
    link: Arc<Link>,
    names: HashMap<u32, (Instant, Option<Arc<str>>)>,
}

impl Remote {
    #[must_use]
    pub fn new(link: Arc<Link>) -> Self {
        Self {
            link,
            names: HashMap::new(),
        }
    }
}

impl Eyes for Remote {
    fn running(&self, pid: u32) -> Option<Running> {
        match self.link.ask(|number| Ask::Running { number, pid }) {
            Some(Answer::Running(running)) => running,
            _ => None,
        }
    }

    fn still_runs(&self, pid: u32, file: Option<FileId>) -> bool {
        match self.link.ask(|number| Ask::StillRuns { number, pid, file }) {
            Some(Answer::StillRuns(still)) => still,
            // As where it cannot be seen.
            _ => true,
        }
    }

    fn find(&self, request: Request, slot: &Arc<Slot>) -> bool {
        let Some(number) = self.link.enter(Waiting::Executable(slot.clone())) else {
            return false;
        };
        let sent = self.link.send(&Ask::Find { number, request }).is_ok();
        if !sent {
            self.link.forget(number);
        }
        sent
    }

    fn user_name(&mut self, uid: u32) -> Option<Arc<str>> {
        if let Some((since, name)) = self.names.get(&uid)
            && since.elapsed() < NAMES_LAST
        {
            return name.clone();
        }
        let name = match self.link.ask(|number| Ask::UserName { number, uid }) {
            Some(Answer::UserName(name)) => name.map(Arc::from),
            _ => None,
        };
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        self.names.insert(uid, (Instant::now(), name.clone()));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::executable::Found;
    use agent_common::event::Hex;
    use std::os::fd::AsFd as _;
    use std::sync::mpsc::channel;

    /// A link, the other end, and what is ordered.
    fn link() -> (Arc<Link>, Pipe, std::sync::mpsc::Receiver<Order>) {
        let (other, socket) = Pipe::pair().unwrap();
        let link = Arc::new(Link::new(Pipe::new(socket).unwrap()));
        let (orders, ordered) = channel();
        std::thread::spawn({
            let link = link.clone();
            move || link.listen(&Points::default(), |order| drop(orders.send(order)))
        });
        (link, other, ordered)
    }

    #[test]
    fn questions_get_their_own_answers() {
        let (link, other, _ordered) = link();
        std::thread::spawn(move || {
            let mut receiver = other.receiver();
            while let Ok(ask) = receiver.receive::<Ask>() {
                let Ask::UserName { number, uid } = ask else {
                    panic!("{ask:?}")
                };
                let answer = Answer::UserName(Some(format!("user{uid}")));
                // Of a question that nobody asked, and not understood: neither is an answer to this one.
                let unasked = Answer::UserName(Some("wrong".into()));
                other
                    .send(&Tell::Answer {
                        number: number + 100,
                        answer: unasked,
                    })
                    .unwrap();
                rustix::net::send(&other, b"garbage", rustix::net::SendFlags::empty()).unwrap();
                other.send(&Tell::Answer { number, answer }).unwrap();
            }
        });
        let mut remote = Remote::new(link);
        for uid in 0..20 {
            assert_eq!(
                remote.user_name(uid).as_deref(),
                Some(format!("user{uid}").as_str())
            );
        }
    }

    #[test]
    fn a_reload_has_the_files_that_came_before_it() {
        let (_link, other, ordered) = link();
        let folder = tempfile::tempdir().unwrap();
        let path = |number: usize| folder.path().join(number.to_string());
        let pass = |number: usize| {
            std::fs::write(path(number), number.to_string()).unwrap();
            let file = File::open(path(number)).unwrap();
            let path = path(number);
            other.send_with(&Tell::File { path }, file.as_fd()).unwrap();
        };
        let reload = || {
            let settings = Settings {
                config: String::new(),
                keys: None,
            };
            other.send(&Tell::Reload(settings)).unwrap();
            match ordered.recv().unwrap() {
                Order::Reload(_, files) => files,
                order => panic!("{order:?}"),
            }
        };
        pass(1);
        // Without a descriptor there is no file.
        other.send(&Tell::File { path: path(2) }).unwrap();
        pass(3);
        let mut files = reload();
        let names: Vec<_> = files.iter().map(|(path, _)| path.clone()).collect();
        assert_eq!(names, [path(1), path(3)]);
        let mut text = String::new();
        std::io::Read::read_to_string(&mut files[1].1, &mut text).unwrap();
        assert_eq!(text, "3");
        (0..FILES + 5).for_each(pass);
        assert_eq!(reload().len(), FILES);
        assert!(reload().is_empty());
    }

    #[test]
    fn executables_land_and_the_end_settles_the_rest() {
        let (link, other, ordered) = link();
        let remote = Remote::new(link.clone());
        let request = || Request {
            pid: 1,
            parent: None,
            filename: None,
            file: FileId {
                device: 1,
                inode: 2,
            },
        };
        let slots: [Arc<Slot>; 2] = Default::default();
        for slot in &slots {
            assert_eq!(slot.ask_once(|| remote.find(request(), slot)), Some(true));
        }
        let found = |path: Option<&str>, digest| Found {
            path: path.map(str::to_owned),
            digest,
            ..Found::default()
        };
        for found in [
            found(Some("/bin/x"), None),
            found(None, Some(Ok(Hex([3; 32])))),
        ] {
            other.send(&Tell::Found { number: 0, found }).unwrap();
        }
        let known = slots[0].wait(Duration::from_secs(20));
        assert_eq!(known, found(Some("/bin/x"), Some(Ok(Hex([3; 32])))));
        drop(other);
        let known = slots[1].wait(Duration::from_secs(20));
        assert_eq!(known.digest, Some(Err(HashAbsent::Unreadable)));
        assert!(matches!(ordered.recv().unwrap(), Order::Gone));
        let begin = Instant::now();
        assert_eq!(remote.running(1), None);
        assert!(!remote.find(request(), &slots[0]));
        assert!(link.counters().is_err());
        assert!(begin.elapsed() < PATIENCE, "nobody is waited for");
    }
}
