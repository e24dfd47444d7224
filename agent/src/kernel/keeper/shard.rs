//! A thread of the keeper that holds some attachments, with the leases on their files, in a table of descriptors of its own.
//!
//! Detaching waits for the kernel, so that each thread has few attachments, best of different files. Because its
//! descriptors are its own, a keeper that is ended by force detaches as quickly: every thread gives up its own at its end.
//! There the kernel closes the highest number first (`task_work_run`, kernel/task_work.c), so that links are kept above
//! [`LINKS`] and leases below.
//!
//! Invariant: a lease is given back after the last link on its file.

use super::{
    Attachment, AttachmentId, Place, Program, Refused, Scope, Way,
    calls::{self, Event, Multi},
    file,
};
use crate::kernel::keylog::FileState;
use rustix::{
    fs::{Mode, OFlags, open},
    io::{Errno, fcntl_dupfd_cloexec},
    thread::Pid,
};
use std::{
    collections::VecDeque,
    ffi::CString,
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Links have these numbers and higher ones.
const LINKS: RawFd = 512;
/// Leases of one thread: their numbers stay below [`LINKS`], with room for what all have.
pub(super) const LEASES: usize = 400;
/// How long a signal that was lost may stay unnoticed.
const LOOK: Duration = Duration::from_secs(1);

/// What a thread is told.
pub(super) enum Task {
    Attach(Box<Attach>),
    Detach(AttachmentId),
    /// Detach all, and end.
    End,
}

pub(super) struct Attach {
    pub id: AttachmentId,
    /// The file in the first thread's table of descriptors.
    pub file: RawFd,
    pub state: FileState,
    pub scope: Scope,
    pub places: Vec<Place>,
}

/// What it has to say.
pub(super) enum Done {
    Attached(Attachment),
    Refused(AttachmentId, Refused),
    /// Also of what was gone already.
    Detached(AttachmentId),
    /// A writer came.
    Written(Vec<AttachmentId>),
}

/// Both ways between the first thread and another one.
pub(super) struct Post {
    tasks: Mutex<VecDeque<Task>>,
    thread: Pid,
}

impl Post {
    pub fn give(&self, task: Task) {
        lock(&self.tasks).push_back(task);
        calls::wake(self.thread);
    }

    fn take(&self) -> Option<Task> {
        lock(&self.tasks).pop_front()
    }
}

/// What all threads say to the first, with the bell that wakes it.
pub(super) struct Answers {
    done: Mutex<VecDeque<Done>>,
    bell: OwnedFd,
}

impl Answers {
    pub fn new(bell: OwnedFd) -> Self {
        Self {
            done: Mutex::default(),
            bell,
        }
    }

    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    fn give(&self, done: Done) {
        lock(&self.done).push_back(done);
        self.ring();
    }

    fn ring(&self) {
        // An event counter takes more rings than there are.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn take(&self) -> VecDeque<Done> {
        // Rung again for what comes from now on.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut *lock(&self.done))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What every thread needs to attach.
pub(super) struct Tools {
    pub way: Way,
    /// Those for `way`.
    pub programs: Vec<(Program, OwnedFd)>,
    pub event: Option<u32>,
    pub memory: Option<u64>,
}

struct Held {
    file: File,
    state: FileState,
    layered: bool,
    attached: Vec<Attached>,
}

struct Attached {
    id: AttachmentId,
    /// Dropped with it.
    _links: Links,
}

/// In the order in which they were attached; dropped from the last to the first.
#[derive(Default)]
struct Links(Vec<OwnedFd>);

impl Links {
    /// At a high number; see the module.
    fn push(&mut self, link: OwnedFd) -> Result<(), Refused> {
        self.0
            .push(fcntl_dupfd_cloexec(&link, LINKS).map_err(|error| refusal(error.into()))?);
        Ok(())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        while let Some(link) = self.0.pop() {
            drop(link);
        }
    }
}

struct Shard {
    tools: Arc<Tools>,
    answers: Arc<Answers>,
    held: Vec<Held>,
}

/// Starts a thread.
///
/// # Errors
/// If there may be no more threads, or no table of descriptors of its own (before Linux 5.9).
pub(super) fn start(
    tools: &Arc<Tools>,
    answers: &Arc<Answers>,
) -> io::Result<(Arc<Post>, std::thread::JoinHandle<()>)> {
    let (tools, answers) = (Arc::clone(tools), Arc::clone(answers));
    let (begun, beginning) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("keeper-shard".into())
        .stack_size(256 * 1024)
        .spawn(move || {
            let programs = tools
                .programs
                .iter()
                .map(|(_, program)| program.as_raw_fd());
            let mut kept: Vec<RawFd> = programs.collect();
            kept.extend([libc::STDERR_FILENO, answers.bell.as_raw_fd()]);
            let post = calls::own_descriptors(&kept).map(|()| {
                Arc::new(Post {
                    tasks: Mutex::default(),
                    thread: rustix::thread::gettid(),
                })
            });
            let shard = Shard {
                tools,
                answers,
                held: Vec::new(),
            };
            let own = post.as_ref().ok().map(Arc::clone);
            // The first thread waits for it.
            let _ = begun.send(post);
            if let Some(post) = own {
                shard.run(&post);
            }
        })?;
    let post = beginning
        .recv()
        .map_err(|_| io::Error::other("a thread ended"))??;
    Ok((post, thread))
}

impl Shard {
    fn run(mut self, post: &Post) {
        loop {
            while let Some(task) = post.take() {
                match task {
                    Task::Attach(attach) => {
                        let id = attach.id;
                        let done = match self.attach(&attach) {
                            Ok(attachment) => Done::Attached(attachment),
                            Err(refused) => Done::Refused(id, refused),
                        };
                        self.answers.give(done);
                    }
                    Task::Detach(id) => {
                        self.detach(id);
                        self.answers.give(Done::Detached(id));
                    }
                    Task::End => {
                        self.held.drain(..).for_each(Held::give_up);
                        self.answers.ring();
                        return;
                    }
                }
                self.look();
            }
            calls::wait(LOOK);
            self.look();
        }
    }

    /// Gives up the files that somebody wants to write to.
    fn look(&mut self) {
        let mut at = 0;
        while at < self.held.len() {
            if calls::is_leased(&self.held[at].file) {
                at += 1;
                continue;
            }
            let held = self.held.swap_remove(at);
            let ids = held.attached.iter().map(|attached| attached.id).collect();
            held.give_up();
            self.answers.give(Done::Written(ids));
        }
    }

    fn detach(&mut self, id: AttachmentId) {
        let holds = |held: &Held| held.attached.iter().any(|attached| attached.id == id);
        let Some(at) = self.held.iter().position(holds) else {
            return;
        };
        let held = &mut self.held[at];
        held.attached.retain(|attached| attached.id != id);
        if held.attached.is_empty() {
            self.held.swap_remove(at).give_up();
        }
    }

    fn attach(&mut self, attach: &Attach) -> Result<Attachment, Refused> {
        let known = |held: &Held| held.state == attach.state && calls::is_leased(&held.file);
        let at = match self.held.iter().position(known) {
            Some(at) => at,
            None => {
                let held = self.lease(attach)?;
                self.held.push(held);
                self.held.len() - 1
            }
        };
        let held = &mut self.held[at];
        if held.layered && attach.scope == Scope::Host {
            return Err(Refused::Layers);
        }
        let result = self.tools.attach(&held.file, attach);
        let attached = result.and_then(|links| {
            // A writer who came meanwhile still waits.
            if calls::is_leased(&held.file) {
                let id = attach.id;
                held.attached.push(Attached { id, _links: links });
                Ok(())
            } else {
                drop(links);
                Err(Refused::Written)
            }
        });
        let layered = held.layered;
        if held.attached.is_empty() {
            self.held.swap_remove(at).give_up();
        }
        attached.map(|()| Attachment {
            id: attach.id,
            way: self.tools.way,
            layered,
        })
    }

    /// Opens the file once more, since a lease belongs to what open(2) gives, and takes one; then it must be as it was.
    fn lease(&self, attach: &Attach) -> Result<Held, Refused> {
        if self.held.len() >= LEASES {
            return Err(Refused::Files(LEASES));
        }
        // Whoever has a lease for writing is told, but not waited for.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        // `self` is the process, and so the first thread's table.
        let path = format!("/proc/self/fd/{}", attach.file);
        let file = match open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::AGAIN) => return Err(Refused::Busy),
            Err(error) => return Err(refusal(error.into())),
        };
        let layered = file::check(&file, attach.scope, self.tools.memory)?;
        calls::lease(&file, calls::lease_signal()).map_err(|error| match error {
            Errno::AGAIN => Refused::Writer,
            error => Refused::Lease(error.to_string()),
        })?;
        let held = Held {
            file,
            state: attach.state,
            layered,
            attached: Vec::new(),
        };
        if FileState::of(&held.file).ok() != Some(attach.state) {
            held.give_up();
            return Err(Refused::Changed);
        }
        Ok(held)
    }
}

impl Held {
    fn give_up(mut self) {
        self.attached.clear();
        calls::release(&self.file);
    }
}

impl Tools {
    fn attach(&self, file: &File, attach: &Attach) -> Result<Links, Refused> {
        let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        let path = CString::new(path).map_err(|error| Refused::Kernel(error.to_string()))?;
        let mut links = Links::default();
        let alike = |one: &Place, other: &Place| {
            one.program == other.program && one.returns == other.returns
        };
        for places in attach.places.chunk_by(alike) {
            let Some((_, program)) = self
                .programs
                .iter()
                .find(|(program, _)| *program == places[0].program)
            else {
                return Err(Refused::Program);
            };
            match self.way {
                Way::Multi => links.push(self.multi(program, &path, places, attach.scope)?)?,
                Way::Perf => {
                    for place in places {
                        let (event, link) = self.event(program, &path, place, attach.scope)?;
                        links.push(event)?;
                        links.push(link)?;
                    }
                }
            }
        }
        Ok(links)
    }

    fn multi(
        &self,
        program: &OwnedFd,
        path: &std::ffi::CStr,
        places: &[Place],
        scope: Scope,
    ) -> Result<OwnedFd, Refused> {
        let offsets: Vec<u64> = places.iter().map(|place| place.file_offset).collect();
        let cookies: Vec<u64> = places.iter().map(|place| place.cookie).collect();
        let multi = Multi {
            path,
            offsets: &offsets,
            cookies: &cookies,
            pid: match scope {
                Scope::Process(pid) => pid,
                Scope::Host => 0,
            },
            returns: places[0].returns,
        };
        calls::link_multi(program.as_fd(), &multi).map_err(refusal)
    }

    fn event(
        &self,
        program: &OwnedFd,
        path: &std::ffi::CStr,
        place: &Place,
        scope: Scope,
    ) -> Result<(OwnedFd, OwnedFd), Refused> {
        let event = Event {
            kind: self
                .event
                .ok_or_else(|| Refused::Kernel("it has no events for uprobes".to_owned()))?,
            path,
            offset: place.file_offset,
            pid: match scope {
                Scope::Process(pid) => Some(pid),
                Scope::Host => None,
            },
            returns: place.returns,
        };
        let event = calls::open_event(&event).map_err(refusal)?;
        let link = calls::link_event(program.as_fd(), event.as_fd(), place.cookie);
        Ok((event, link.map_err(refusal)?))
    }
}

pub(super) fn refusal(error: io::Error) -> Refused {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE) => Refused::Descriptors,
        Some(Errno::SRCH) => Refused::Ended,
        _ => Refused::Kernel(error.to_string()),
    }
}
