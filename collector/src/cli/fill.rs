//! `fill`: NDJSON of standard input into a data folder, without HTTP and with no collector running.
//!
//! For measuring questions at sizes that would take long to send (`cargo xtask bench collector`). Events go the way of
//! all others, from the inbox on: parsed, appended durably, sealed, and merged, each day when events of the next come.
//!
//! Invariant: what it leaves behind is what a collector would have made of the same events.

use crate::config::{self, Config};
use crate::event::Event;
use crate::inbox::{AppendError, Inbox, Packed};
use crate::serve;
use crate::store::{Settings, Store};
use anyhow::Context as _;
use bytes::Bytes;
use serde_json::json;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Bytes of lines that are parsed at once.
const PIECE: usize = 8 * 1024 * 1024;
/// Pieces on their way.
const PIECES: usize = 4;
/// Nanoseconds of a day.
const DAY: i64 = 24 * 3_600 * 1_000_000_000;
/// Events between two seals.
const ROUND: u64 = 256 * 1024;

#[derive(clap::Args)]
pub struct FillArguments {
    /// Configuration file (see `config show`)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of everything; replaces `data` in [server]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

pub fn run(arguments: FillArguments) -> anyhow::Result<ExitCode> {
    let mut config: Config = config::load_or_default(arguments.config.as_deref())?;
    config.server.data = arguments.data.unwrap_or(config.server.data);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (inbox, store) = serve::storage(&config).await?;
        let start = Instant::now();
        let events = fill(&inbox, &store).await?;
        store.seal().await?;
        let filled = start.elapsed();
        let start = Instant::now();
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond())?;
        let merged = store.merge(now).await?;
        let segments = store.segments();
        let rows: u64 = segments.iter().map(|segment| segment.rows).sum();
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let said = json!({
            "appended": events,
            "fill_seconds": filled.as_secs_f64(),
            "merge_seconds": start.elapsed().as_secs_f64(),
            "merged_events": merged.events,
            "segments": segments.len(),
            "events": rows,
            "bytes": bytes,
        });
        super::print(&format!("{said}\n"))
    })
}

/// Seals what waits, and beside that merges the days that are over by the events' own clock.
struct Keeper {
    store: Store,
    settle: i64,
    sealing: Option<JoinHandle<crate::store::Result<()>>>,
    merging: Option<JoinHandle<crate::store::Result<()>>>,
    /// The day of the newest event that is being sealed.
    day: i64,
}

impl Keeper {
    fn new(store: &Store) -> Self {
        Self {
            store: store.clone(),
            settle: Settings::default().settle,
            sealing: None,
            merging: None,
            day: i64::MIN,
        }
    }

    /// Begins to seal everything up to `newest`, when the last seal is done.
    async fn seal(&mut self, newest: i64) -> anyhow::Result<()> {
        self.sealed().await?;
        let store = self.store.clone();
        self.sealing = Some(tokio::spawn(async move { store.seal().await.map(drop) }));
        let day = newest.div_euclid(DAY) * DAY;
        let begun = std::mem::replace(&mut self.day, day);
        if begun != day && begun != i64::MIN {
            // What was sealed before this was of the days before.
            self.merged().await?;
            let store = self.store.clone();
            let now = begun.saturating_add(self.settle);
            self.merging = Some(tokio::spawn(
                async move { store.merge(now).await.map(drop) },
            ));
        }
        Ok(())
    }

    async fn sealed(&mut self) -> anyhow::Result<()> {
        if let Some(sealing) = self.sealing.take() {
            sealing.await??;
        }
        Ok(())
    }

    async fn merged(&mut self) -> anyhow::Result<()> {
        if let Some(merging) = self.merging.take() {
            merging.await??;
        }
        Ok(())
    }
}

/// The events that were new.
async fn fill(inbox: &Inbox, store: &Store) -> anyhow::Result<u64> {
    let mut input = std::io::stdin().lock();
    let mut pieces: Vec<JoinHandle<anyhow::Result<Parsed>>> = Vec::new();
    let mut keeper = Keeper::new(store);
    let (mut events, mut unsealed, mut newest) = (0, 0, 0);
    loop {
        let piece = tokio::task::block_in_place(|| piece(&mut input))?;
        let last = piece.is_none();
        if let Some(piece) = piece {
            pieces.push(tokio::task::spawn_blocking(move || parse(&piece)));
        }
        while pieces.len() >= PIECES || (last && !pieces.is_empty()) {
            let parsed = pieces.remove(0).await??;
            newest = parsed.newest;
            let stored = append(inbox, store, parsed.packed).await?;
            events += stored;
            unsealed += stored;
        }
        if last {
            break;
        }
        if unsealed >= ROUND {
            unsealed = 0;
            keeper.seal(newest).await?;
        }
    }
    keeper.sealed().await?;
    keeper.merged().await?;
    Ok(events)
}

async fn append(inbox: &Inbox, store: &Store, packed: Packed) -> anyhow::Result<u64> {
    let mut packed = packed;
    loop {
        let origin: Arc<str> = "fill".into();
        let again = packed.clone();
        match inbox.append_packed(origin, packed, Vec::new()).await {
            Ok(appended) => return Ok(appended.stored as u64),
            Err(AppendError::Full { .. }) => {
                packed = again;
                store.seal().await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whole lines.
fn piece(input: &mut impl BufRead) -> anyhow::Result<Option<Bytes>> {
    let mut piece = Vec::with_capacity(PIECE + 8 * 1024);
    input
        .by_ref()
        .take(PIECE as u64)
        .read_to_end(&mut piece)
        .context("cannot read standard input")?;
    if piece.last().is_some_and(|byte| *byte != b'\n') {
        input.read_until(b'\n', &mut piece)?;
    }
    Ok((!piece.is_empty()).then(|| piece.into()))
}

/// A piece, ready to be stored.
struct Parsed {
    packed: Packed,
    /// The time of its last event.
    newest: i64,
}

fn parse(piece: &Bytes) -> anyhow::Result<Parsed> {
    let lines = piece.split(|byte| *byte == b'\n');
    let events = lines
        .filter(|line| !line.is_empty())
        .map(|line| Event::parse(piece.slice_ref(line)))
        .collect::<Result<Vec<_>, _>>()
        .context("a line is no event")?;
    Ok(Parsed {
        newest: events.last().map_or(0, |event| event.time),
        packed: Packed::new(events)?,
    })
}
