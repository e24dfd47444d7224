//! What goes on beside the requests: sealing, merging and dropping, telling of holes, and with that the watchdog.

use super::metrics::Done;
use super::watchdog::Watchdog;
use crate::config::Config;
use crate::inbox::Inbox;
use crate::store::{Retention, Store};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, warn};

const DAY: i64 = 24 * 3_600 * 1_000_000_000;
const HOLES: Duration = Duration::from_secs(10);

/// Starts them; they end soon after `stopped` changes.
pub fn start(
    config: &Config,
    inbox: &Inbox,
    store: &Store,
    done: &Arc<Done>,
    stopped: &watch::Receiver<()>,
) -> Vec<JoinHandle<()>> {
    let seal = {
        let (store, done) = (store.clone(), done.clone());
        every(
            Duration::from_secs(config.store.seal_seconds.get()),
            stopped.clone(),
            move || {
                let (store, done) = (store.clone(), done.clone());
                async move {
                    match store.seal().await {
                        Ok(sealed) => {
                            done.seals.fetch_add(1, Ordering::Relaxed);
                            debug!(?sealed, "sealed");
                        }
                        Err(error) => {
                            done.seal_failures.fetch_add(1, Ordering::Relaxed);
                            warn!("what waits could not be sealed, and waits on: {error}");
                        }
                    }
                }
            },
        )
    };
    let retention = Retention {
        age: Some(i64::try_from(config.store.keep_days.get()).unwrap_or(i64::MAX / DAY) * DAY),
        bytes: Some(config.store.keep_bytes.get()).filter(|bytes| *bytes > 0),
    };
    let tidy = {
        let (store, done) = (store.clone(), done.clone());
        let period = Duration::from_secs(config.store.tidy_seconds.get());
        every(period, stopped.clone(), move || {
            let (store, done) = (store.clone(), done.clone());
            async move {
                let now = now();
                // First: what goes is not merged.
                match store.retain(retention, now).await {
                    Ok(retained) => {
                        let dropped = retained.aged.len() + retained.crowded.len();
                        done.dropped_segments
                            .fetch_add(dropped as u64, Ordering::Relaxed);
                    }
                    Err(error) => {
                        done.retain_failures.fetch_add(1, Ordering::Relaxed);
                        warn!("old segments could not be dropped: {error}");
                    }
                }
                match store.merge(now).await {
                    Ok(merged) => {
                        done.merges.fetch_add(merged.wholes, Ordering::Relaxed);
                        debug!(?merged, "merged");
                    }
                    Err(error) => {
                        done.merge_failures.fetch_add(1, Ordering::Relaxed);
                        warn!("segments could not be merged, and stay as they are: {error}");
                    }
                }
            }
        })
    };
    let grace = Duration::from_secs(config.inbox.hole_seconds.get());
    let watchdog = Watchdog::from_environment();
    let holes = {
        let inbox = inbox.clone();
        every(watchdog.every(HOLES), stopped.clone(), move || {
            let inbox = inbox.clone();
            async move {
                match inbox.report_holes(grace).await {
                    Ok(0) => {}
                    Ok(count) => warn!("{count} holes in agents' events"),
                    Err(error) => debug!("holes are told of later: {error}"),
                }
                // Whatever the answer: the inbox gave one.
                watchdog.beat();
            }
        })
    };
    vec![seal, tidy, holes]
}

fn every<F>(
    period: Duration,
    mut stopped: watch::Receiver<()>,
    mut work: impl FnMut() -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send,
{
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stopped.changed() => return,
                _ = ticks.tick() => {}
            }
            work().await;
        }
    })
}

/// Nanoseconds since the Unix epoch.
fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
