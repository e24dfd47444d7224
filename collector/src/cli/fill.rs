//! `fill`: NDJSON of standard input into a data folder, without HTTP and with no collector running.
//!
//! For measuring questions at sizes that would take long to send (`cargo xtask bench collector`). Events go the way of
//! all others, from the inbox on: parsed, appended durably, sealed, and at the end merged.
//!
//! Invariant: what it leaves behind is what a collector would have made of the same events.

use crate::config::{self, Config};
use crate::event::Event;
use crate::inbox::{AppendError, Inbox, Packed};
use crate::serve;
use crate::store::Store;
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

/// The events that were new.
async fn fill(inbox: &Inbox, store: &Store) -> anyhow::Result<u64> {
    let mut input = std::io::stdin().lock();
    let mut pieces: Vec<JoinHandle<anyhow::Result<Packed>>> = Vec::new();
    let mut sealing: Option<JoinHandle<crate::store::Result<()>>> = None;
    let (mut events, mut unsealed) = (0, 0);
    loop {
        let piece = tokio::task::block_in_place(|| piece(&mut input))?;
        let last = piece.is_none();
        if let Some(piece) = piece {
            pieces.push(tokio::task::spawn_blocking(move || parse(&piece)));
        }
        while pieces.len() >= PIECES || (last && !pieces.is_empty()) {
            let stored = append(inbox, store, pieces.remove(0).await??).await?;
            events += stored;
            unsealed += stored;
        }
        if last {
            break;
        }
        if unsealed >= ROUND {
            unsealed = 0;
            if let Some(sealing) = sealing.take() {
                sealing.await??;
            }
            let store = store.clone();
            sealing = Some(tokio::spawn(async move { store.seal().await.map(drop) }));
        }
    }
    if let Some(sealing) = sealing {
        sealing.await??;
    }
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

fn parse(piece: &Bytes) -> anyhow::Result<Packed> {
    let lines = piece.split(|byte| *byte == b'\n');
    let events = lines
        .filter(|line| !line.is_empty())
        .map(|line| Event::parse(piece.slice_ref(line)))
        .collect::<Result<Vec<_>, _>>()
        .context("a line is no event")?;
    Ok(Packed::new(events)?)
}
