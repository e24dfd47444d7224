//! Folders as processes see them: which were visited, when, and what is searched of them.
//!
//! Invariant: a folder is visited once, and again after some minutes if its entries, or those of a folder below it that
//! was listed, have changed.

use super::{
    Busy, Key, Line, Shared, Task,
    bucket::Bucket,
    desk::Next,
    folders::{self, Candidate, Folder, Listed, Stamp},
    usual::{self, Traces},
    view::{self, Handle, View, ViewKey},
};
use crate::kernel::{attach::record::Part, device::Mounts, owner::Owner};
use lru::LruCache;
use rustix::io::Errno;
use std::{
    fs, io,
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tracing::debug;

/// Views, folders of views, and traces that are remembered.
const VIEWS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const VISITED: NonZeroUsize = NonZeroUsize::new(2_048).unwrap();
const TRACES: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// When a folder is visited again, at the earliest.
const AGAIN: Duration = Duration::from_secs(300);
/// Longest visit: its root is kept open meanwhile.
const VISIT: Duration = Duration::from_secs(5);
/// Folders in a second that are visited for one owner.
const RATE: f64 = 20.0;
/// Files of one process's folders together.
const FILES: usize = 8_192;

struct Visited {
    at: Instant,
    stamps: Vec<Stamp>,
}

struct Known {
    views: LruCache<ViewKey, Arc<View>>,
    visited: LruCache<(ViewKey, Folder), Visited>,
    traces: LruCache<(ViewKey, Traces), Instant>,
    /// What the last process that was met of an owner sees.
    latest: LruCache<Owner, Arc<View>>,
}

/// See the module.
pub struct Visits(Mutex<Known>);

impl Default for Visits {
    fn default() -> Self {
        Self(Mutex::new(Known {
            views: LruCache::new(VIEWS),
            visited: LruCache::new(VISITED),
            traces: LruCache::new(TRACES),
            latest: LruCache::new(VIEWS),
        }))
    }
}

impl Visits {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn forget(&self) {
        let mut known = self.lock();
        known.visited.clear();
        known.traces.clear();
    }

    /// What this process of this owner sees.
    fn view(&self, pid: u32, owner: &Owner) -> io::Result<Arc<View>> {
        let key = ViewKey::of(pid)?;
        let mut known = self.lock();
        let view = known.views.get_or_insert(key, || Arc::new(View::new(key)));
        view.met(pid);
        let view = Arc::clone(view);
        known.latest.put(owner.clone(), Arc::clone(&view));
        Ok(view)
    }

    /// What processes of this owner see, most likely.
    pub fn latest(&self, owner: &Owner) -> Option<Arc<View>> {
        self.lock().latest.get(owner).map(Arc::clone)
    }

    /// Whether a process with these traces is to be looked at.
    fn is_due(&self, view: ViewKey, traces: &Traces, now: Instant) -> bool {
        let mut known = self.lock();
        let key = (view, traces.clone());
        let recent = |at: &Instant| now.saturating_duration_since(*at) < AGAIN;
        if known.traces.get(&key).is_some_and(recent) {
            return false;
        }
        known.traces.put(key, now);
        true
    }

    /// What is known of a folder that was visited before: `Err` if that was just now.
    fn last(&self, view: ViewKey, folder: &Folder, now: Instant) -> Result<Option<Vec<Stamp>>, ()> {
        let mut known = self.lock();
        let key = (view, folder.clone());
        if let Some(visited) = known.visited.get_mut(&key) {
            if now.saturating_duration_since(visited.at) < AGAIN {
                return Err(());
            }
            // Others need not visit it at the same time.
            visited.at = now;
            return Ok(Some(visited.stamps.clone()));
        }
        let stamps = Vec::new();
        known.visited.put(key, Visited { at: now, stamps });
        Ok(None)
    }

    fn visited(&self, view: ViewKey, folder: Folder, stamps: Vec<Stamp>) {
        let at = Instant::now();
        self.lock()
            .visited
            .put((view, folder), Visited { at, stamps });
    }
}

/// How a process was met.
enum How {
    /// By this name, if it is known.
    Executed(Option<PathBuf>),
    Mapped(Part),
}

/// Serves one owner's folders until none comes for a while.
pub fn serve(shared: &Arc<Shared>, key: &Key) {
    let mut bucket = Bucket::full(RATE, Instant::now());
    loop {
        let (line, how) = match shared.desk.next(key, None) {
            Next::Task(Task::Met(line, name)) => (line, How::Executed(name)),
            Next::Task(Task::Mapped(line, part)) => (line, How::Mapped(part)),
            Next::Task(Task::Made(..)) => continue,
            Next::Nothing | Next::End => return,
        };
        if shared.is_resting() {
            continue;
        }
        let _busy = Busy::new(shared, 1);
        match look(shared, &key.0, &line, how, &mut bucket) {
            Ok((view, candidates)) => search(shared, key, &view, candidates),
            // It has ended, most often.
            Err(error) => {
                debug!(pid = line.process(), %error, "a process's folders cannot be seen");
            }
        }
    }
}

/// Visits what is to be visited for a process, and gives the files to search.
fn look(
    shared: &Shared,
    owner: &Owner,
    line: &Line,
    how: How,
    bucket: &mut Bucket,
) -> io::Result<(Arc<View>, Vec<Candidate>)> {
    let visits = &shared.visits;
    let mut seen = line
        .running()
        .map(|pid| Ok((visits.view(pid, owner)?, pid)));
    let first = seen.next().unwrap_or_else(|| Err(Errno::SRCH.into()));
    let (view, pid) = seen.fold(first, io::Result::or)?;
    let (mut candidates, mut listed) = (Vec::new(), Listed::default());
    let folders = match how {
        How::Mapped(part) => beside(line.process(), part)?,
        How::Executed(name) => {
            let traces = Traces::of(line.process(), name);
            if !visits.is_due(view.key, &traces, Instant::now()) {
                return Ok((view, candidates));
            }
            let own = traces.folders(&view::root_of(pid)?);
            usual::of_every_view().chain(own).collect()
        }
    };
    for folder in folders {
        let Ok(last) = visits.last(view.key, &folder, Instant::now()) else {
            continue;
        };
        if candidates.len() >= FILES || shared.is_resting() {
            break;
        }
        let now = Instant::now();
        if !bucket.take(now) {
            std::thread::sleep(bucket.wait());
            bucket.take(Instant::now());
        }
        let Ok((root, pid)) = view.root() else {
            break;
        };
        if last.is_some_and(|stamps| !folders::have_changed(&root, &stamps)) {
            continue;
        }
        let mounts = Mounts::of(pid);
        let until = Instant::now() + VISIT;
        let wanted = |state: &_| shared.is_new(state);
        let visit = folders::visit(&root, &folder, &mut listed, &mounts, wanted, until);
        debug!(
            folder = %folder.path.display(),
            files = visit.candidates.len(),
            cut = visit.cut,
            "a folder is searched ahead"
        );
        candidates.extend(visit.candidates);
        visits.visited(view.key, folder, visit.stamps);
    }
    folders::put_in_order(&mut candidates);
    Ok((view, candidates))
}

/// Folders that a mapped library is one of many in.
fn beside(pid: u32, part: Part) -> io::Result<Vec<Folder>> {
    let page = rustix::param::page_size() as u64;
    let end = part.address.saturating_add(part.len).next_multiple_of(page);
    let link = format!("/proc/{pid}/map_files/{:x}-{end:x}", part.address);
    Ok(usual::beside_library(&fs::read_link(link)?))
}

fn search(shared: &Arc<Shared>, key: &Key, view: &Arc<View>, candidates: Vec<Candidate>) {
    let mut busy = Busy::new(shared, candidates.len() as u64);
    for Candidate { path, state, id } in candidates {
        if shared.is_resting() {
            return;
        }
        // It may be the same file by another path.
        if shared.is_new(&state) {
            let view = Arc::clone(view);
            let open = move || {
                let (root, pid) = view.root()?;
                let handle = Handle::new(view::below(&root, &path)?)?;
                let numbers = if view::id(&handle.stat) == id {
                    (state.device, state.inode)
                } else {
                    let state = handle.state(&Mounts::of(pid));
                    (state.device, state.inode)
                };
                Ok((handle.open()?, numbers))
            };
            if !shared.want(key, state, open) {
                return;
            }
        }
        busy.less_one();
    }
}
