//! Files that a process has just made executable, or has created so: opened while they are there, and searched when
//! their writer is done with them.
//!
//! A file that was made executable by its path is searched at once: it has been written, or what it becomes is another
//! state, which is searched when it is executed. One that a process has open is waited for, until the process has it open
//! no more; and where nothing is written for a while, it is searched as it is.
//!
//! Invariant: no descriptor is kept for longer than [`HOLD`], so that a file system can be unmounted; and a descriptor is
//! a bare reference (`O_PATH`), which no writer and no lease meets.

use super::{
    super::record::Made,
    Busy, Held, Key, Line, Shared, Task,
    desk::Next,
    folders,
    view::{self, Handle},
};
use crate::kernel::device::Mounts;
use rustix::fs::{Mode, OFlags};
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tracing::debug;

/// Longest that a descriptor is kept, the wait for a search included.
const HOLD: Duration = Duration::from_secs(10);
/// Longest that a file is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// A file that is not written for so long is searched as it is.
const QUIET: Duration = Duration::from_millis(20);
/// How soon a file is looked at again; one that has been waited for long, after an eighth of that time.
const SOON: Duration = Duration::from_millis(2);
/// Files of one owner that are waited for: the oldest give way.
const WATCHED: usize = 64;
/// How often one file is searched while it is being written.
const SEARCHES: u32 = 4;

/// A file that its writer may have open.
struct Watch {
    process: u32,
    descriptor: u32,
    handle: Handle,
    mounts: Mounts,
    since: Instant,
    /// Size and time of the last change, and since when they are so.
    last: (u64, i64, u32),
    quiet_since: Instant,
    searches: u32,
    next: Instant,
    _busy: Busy,
}

/// Serves one owner's files until none comes for a while.
pub fn serve(shared: &Arc<Shared>, key: &Key) {
    let mut watches: Vec<Watch> = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    loop {
        let now = Instant::now();
        held.retain(|held| held.expire(now));
        let next = watches.iter().map(|watch| watch.next);
        let next = next.chain(held.iter().map(|held| held.until)).min();
        let patience = next.map(|next| next.saturating_duration_since(now).max(SOON));
        match shared.desk.next(key, patience) {
            Next::Task(Task::Made(line, made)) if !shared.is_resting() => {
                let _busy = Busy::new(shared, 1);
                if let Some(watch) = take(shared, key, (&line, &made), &mut held) {
                    if watches.len() >= WATCHED {
                        watches.remove(0);
                    }
                    watches.push(watch);
                }
            }
            Next::Task(_) => {}
            Next::Nothing if watches.is_empty() && held.is_empty() => return,
            Next::Nothing => {}
            Next::End => return,
        }
        let now = Instant::now();
        watches.retain_mut(|watch| watch.next > now || look(shared, key, watch, &mut held, now));
    }
}

/// Opens what was made. Gives it back if it is to be waited for.
fn take(
    shared: &Arc<Shared>,
    key: &Key,
    (line, made): (&Line, &Made),
    held: &mut Vec<Held>,
) -> Option<Watch> {
    let found = by_descriptor(made)
        .or_else(|_| by_path(shared, key, line, made).map(|handle| (handle, None)));
    let (handle, descriptor) = match found {
        Ok(found) => found,
        Err(error) => {
            debug!(pid = made.process.pid, path = ?made.path, %error, "a made file is gone");
            return None;
        }
    };
    if !handle.is_executable() {
        return None;
    }
    // Where nobody is left, the agent's own, which may have them.
    let mounts = line.running().chain([std::process::id()]).map(Mounts::of);
    let mounts = mounts.into_iter().find(|mounts| !mounts.is_empty());
    let mounts = mounts.unwrap_or_default();
    let now = Instant::now();
    let Some(descriptor) = descriptor else {
        search(shared, key, &handle, &mounts, now, held);
        return None;
    };
    Some(Watch {
        _busy: Busy::new(shared, 1),
        process: made.process.pid,
        descriptor,
        last: content(&handle.stat),
        handle,
        mounts,
        since: now,
        quiet_since: now,
        searches: 0,
        next: now + SOON,
    })
}

/// False: it is not waited for any more.
fn look(
    shared: &Arc<Shared>,
    key: &Key,
    watch: &mut Watch,
    held: &mut Vec<Held>,
    now: Instant,
) -> bool {
    let Ok(stat) = view::attributes(&watch.handle.descriptor) else {
        return false;
    };
    watch.handle.stat = stat;
    let link = format!("/proc/{}/fd/{}", watch.process, watch.descriptor);
    let is_open = view::attributes_at(&link)
        .is_ok_and(|there| view::id(&there) == view::id(&watch.handle.stat));
    let waited = now.saturating_duration_since(watch.since);
    if !is_open || waited >= PATIENCE {
        search(shared, key, &watch.handle, &watch.mounts, watch.since, held);
        return false;
    }
    let content = content(&watch.handle.stat);
    if content != watch.last {
        (watch.last, watch.quiet_since) = (content, now);
    } else if now.saturating_duration_since(watch.quiet_since) >= QUIET
        && watch.searches < SEARCHES
        && content.0 > 0
    {
        // The same state is searched once.
        search(shared, key, &watch.handle, &watch.mounts, watch.since, held);
        watch.searches += 1;
        watch.quiet_since = now;
    }
    watch.next = now + SOON.max(waited / 8);
    true
}

fn search(
    shared: &Arc<Shared>,
    key: &Key,
    handle: &Handle,
    mounts: &Mounts,
    since: Instant,
    held: &mut Vec<Held>,
) {
    if handle.stat.stx_size < folders::LEAST || !handle.is_executable() {
        return;
    }
    let state = handle.state(mounts);
    if !shared.is_new(&state) {
        return;
    }
    // Its own, so that what waits for a search is let go of in time whatever becomes of this one.
    let Ok(descriptor) = handle.descriptor.try_clone() else {
        return;
    };
    let kept = Held::new(descriptor, since + HOLD);
    let (open, numbers) = (kept.clone(), (state.device, state.inode));
    let open = move || {
        let file = Handle::new(open.take()?)?.open()?;
        Ok((file, numbers))
    };
    if shared.want(key, state, open) {
        held.push(kept);
    }
}

fn content(stat: &rustix::fs::Statx) -> (u64, i64, u32) {
    (stat.stx_size, stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// By what the process has open.
fn by_descriptor(made: &Made) -> io::Result<(Handle, Option<u32>)> {
    let gone = || io::Error::from(rustix::io::Errno::BADF);
    let descriptor = made.descriptor.ok_or_else(gone)?;
    let link = format!("/proc/{}/fd/{descriptor}", made.process.pid);
    let handle = Handle::new(reference(&link)?)?;
    Ok((handle, Some(descriptor)))
}

/// By the path that the call had. The process may have ended with its call: those that have started it are most often in
/// the same folder, and others of the same owner see the same. What is opened in its place is another file, or none.
fn by_path(shared: &Shared, key: &Key, line: &Line, made: &Made) -> io::Result<Handle> {
    let path = made.path.as_deref();
    let path = path.ok_or(rustix::io::Errno::NOENT)?;
    let mut found = resolve(made.process.pid, made.folder, path);
    if made.folder.is_none() || path.is_absolute() {
        let mut others = line.running().filter(|pid| *pid != made.process.pid);
        while found.is_err()
            && let Some(pid) = others.next()
        {
            found = resolve(pid, None, path);
        }
    }
    if found.is_err()
        && path.is_absolute()
        && let Some(view) = shared.visits.latest(&key.0)
    {
        found = view.root().and_then(|(root, _)| view::below(root, path));
    }
    Handle::new(found?)
}

fn resolve(pid: u32, folder: Option<u32>, path: &Path) -> io::Result<OwnedFd> {
    if path.is_absolute() {
        return view::below(view::root_of(pid)?, path);
    }
    let link = match folder {
        Some(descriptor) => format!("/proc/{pid}/fd/{descriptor}"),
        None => format!("/proc/{pid}/cwd"),
    };
    match view::within(reference(&link)?, path) {
        // It leads out of the folder, perhaps back again: by its whole name, as far as that can be told.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::XDEV.raw_os_error()) => {
            let whole: PathBuf = std::fs::read_link(&link)?.join(path);
            view::below(view::root_of(pid)?, &whole)
        }
        result => result,
    }
}

/// What a link of `/proc` names, not opened.
fn reference(link: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::open(link, flags, Mode::empty())?)
}
