//! The probes as the privileged process holds them: attached, kept in scope, detached.
//!
//! Invariant: whoever takes [`Live`] out of [`Shared`] and drops it detaches every probe.

use super::RunArguments;
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::channel},
    time::Duration,
};
use tokentrail_agent::{
    config::Capture,
    kernel::{
        attach::{Attacher, Fallback, Results, Start, Way},
        bridge::{Bridge, Bridges},
        cgroups::Watch,
        decode::now,
        keeper::{Keeper, Started},
        keylog::{Cache, Client, Searches, searches::Shares},
        points::Points,
        probes::Probes,
        record::ProcessKey,
        scope::{Hierarchy, Scope},
    },
    privilege::{
        message::Tell,
        pipe::{Error, Pipe},
    },
};
use tracing::{debug, info, warn};

/// Where findings about files are kept between runs.
const CACHE: &str = "/var/cache/tokentrail";
/// Idle Unix sockets leave the probes' table after so long.
const IDLE: Duration = Duration::from_secs(600);

/// What is alive until the probes are detached.
pub(super) struct Live {
    pub attacher: Attacher,
    pub bridge: Bridge,
    pub probes: Arc<Mutex<Probes>>,
    keeper: Option<Arc<Keeper>>,
    searches: Arc<Searches>,
}

pub(super) type Shared = Arc<Mutex<Option<Live>>>;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is started before this process gives up its rights.
pub(super) struct Helpers {
    pub finder: Client,
    pub keeper: Option<Started>,
    pub way: Way,
    /// The agent's own processes.
    pub own: Vec<u32>,
}

/// Looks through the usual folders and the scope's processes, and starts what attaches.
pub(super) fn attach(
    arguments: &RunArguments,
    capture: &Capture,
    scopes: &[Scope],
    mut loaded: Probes,
    helpers: Helpers,
    pipe: &Arc<Pipe>,
    live: &Shared,
) -> anyhow::Result<Points> {
    let points = Points::followed_by({
        let pipe = Arc::clone(pipe);
        move |change| {
            // Its end is noticed where it is heard.
            if let Err(error) = pipe.send(&Tell::Change(change.clone()))
                && !matches!(error, Error::Gone)
            {
                warn!(%error, "the worker cannot be told of a key-log point");
            }
        }
    });
    let (cache, problem) = Cache::open(Path::new(CACHE));
    if let Some(problem) = problem {
        info!(%problem, "findings of earlier runs are not used");
    }
    let results = Results::new()?;
    let taker = results.taker();
    let searches = Searches::start(helpers.finder, cache, Shares::default(), taker)?;
    let searches = Arc::new(searches);
    let (lose, lost) = channel();
    let keeper = match helpers.keeper {
        Some(started) => {
            let bell = results.bell();
            let keeper = started.follow(move |lost| {
                // At the end nobody takes it any more.
                let _ = lose.send(lost);
                bell.ring();
            })?;
            Some(Arc::new(keeper))
        }
        None => None,
    };
    let bridges = Bridges::new(capture.bridge, Arc::clone(&searches), keeper.clone());
    let start = Start {
        maps: loaded.attach_maps()?,
        way: helpers.way,
        lost: keeper.is_some().then_some(lost),
        keeper: keeper.clone(),
        points: points.clone(),
        fallback: if arguments.only_fallback {
            Fallback::Only
        } else {
            Fallback::WhenNeeded
        },
        own: helpers.own,
        search_ahead: capture.search_ahead,
    };
    let probes = Arc::new(Mutex::new(loaded));
    let processes = running(scopes);
    // First what finds out what files hold.
    let attacher = Attacher::start(start, Arc::clone(&searches), results, &processes)?;
    let bridge = Bridge::start(bridges, Arc::clone(&probes), &processes)?;
    *lock(live) = Some(Live {
        attacher,
        bridge,
        probes,
        keeper,
        searches,
    });
    Ok(points)
}

/// Processes in the scope now.
pub(super) fn running(scopes: &[Scope]) -> Vec<ProcessKey> {
    let hierarchy = Hierarchy::find().ok();
    let processes = scopes
        .iter()
        .map(|scope| scope.processes(hierarchy.as_ref()));
    processes.flatten().collect()
}

/// The bridge's reference to the probes goes with its thread, so that ours is the last: they are detached.
pub(super) fn detach(live: &Shared) {
    let taken = lock(live).take();
    if let Some(Live {
        attacher,
        bridge,
        probes,
        keeper,
        searches,
    }) = taken
    {
        drop(attacher);
        drop(bridge);
        drop(probes);
        // A thread whose file hangs keeps its references to these two.
        if let Some(keeper) = keeper {
            keeper.close();
        }
        if let Err(problem) = searches.save() {
            debug!(%problem, "the findings were not cached");
        }
    }
}

/// Takes a new cgroup into the scope if it belongs there, and tells the worker.
pub(super) fn cgroup_made(live: &Shared, pipe: &Pipe, path: String) -> Result<(), Error> {
    let added = match &*lock(live) {
        Some(live) => lock(&live.probes).cgroup_made(&path),
        None => return Ok(()),
    };
    match added {
        Ok(Some(_)) => {
            info!(path, "a cgroup of the scope is back");
            pipe.send(&Tell::ScopeChanged { path })
        }
        Ok(None) => Ok(()),
        Err(error) => {
            warn!(%error, path, "a cgroup of the scope could not be added");
            Ok(())
        }
    }
}

/// Watches for the scope's cgroups; see [`Watch`]. Its thread ends with the process.
pub(super) fn watch(scopes: &[Scope], pipe: &Arc<Pipe>, live: &Shared) -> anyhow::Result<()> {
    let Ok(hierarchy) = Hierarchy::find() else {
        return Ok(());
    };
    let watch = match Watch::over(scopes, &hierarchy) {
        Ok(Some(watch)) => watch,
        Ok(None) => return Ok(()),
        Err(error) => {
            info!(%error, "cgroups are not watched here: they come through the worker alone");
            return Ok(());
        }
    };
    let (pipe, live) = (Arc::clone(pipe), Arc::clone(live));
    std::thread::Builder::new()
        .name("cgroups".into())
        .spawn(move || {
            let watched = watch.each(|path| cgroup_made(&live, &pipe, path).is_ok());
            if let Err(error) = watched {
                warn!(%error, "cgroups are not watched any more");
            }
        })?;
    Ok(())
}

pub(super) fn sweep(live: &Shared) {
    if let Some(live) = &*lock(live) {
        lock(&live.probes).sweep(now().saturating_sub(IDLE.as_nanos() as u64));
    }
}
