//! What came out against what was promised.

use agent_common::event::{Body, Envelope, LossDetail, LossReason, Stage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What one sink has.
pub struct Got {
    /// Sequences by epoch.
    pub events: BTreeMap<u64, BTreeSet<u64>>,
    /// Losses of the delivery by the key of their event.
    pub losses: BTreeMap<(u64, u64), LossDetail>,
    /// Time of each event, in nanoseconds.
    pub times: BTreeMap<(u64, u64), i128>,
    pub twice: usize,
    /// Lines that a kill cut.
    pub cut: usize,
}

impl Got {
    pub fn read(path: &Path) -> Self {
        Self::of(&std::fs::read(path).unwrap())
    }

    /// Of NDJSON.
    pub fn of(bytes: &[u8]) -> Self {
        let mut got = Self {
            events: BTreeMap::new(),
            losses: BTreeMap::new(),
            times: BTreeMap::new(),
            twice: 0,
            cut: 0,
        };
        for line in bytes.split(|byte| *byte == b'\n') {
            if line.is_empty() {
                continue;
            }
            let Ok(event) = serde_json::from_slice::<Envelope>(line) else {
                got.cut += 1;
                continue;
            };
            let (epoch, sequence) = (event.producer.epoch, event.producer.sequence);
            if !got.events.entry(epoch).or_default().insert(sequence) {
                got.twice += 1;
            }
            got.times.insert((epoch, sequence), event.time.unix_nanos());
            if let Body::Loss(loss) = event.body {
                got.losses.insert((epoch, sequence), loss.loss);
            }
        }
        got
    }
}

/// Losses of events of `epoch` that concern `sink`.
fn concerning<'a>(
    losses: &'a BTreeMap<(u64, u64), LossDetail>,
    sink: &'a str,
    epoch: u64,
) -> impl Iterator<Item = &'a LossDetail> {
    losses.values().filter(move |loss| {
        let ours = loss.probe.as_deref().is_none_or(|probe| probe == sink);
        ours && loss
            .events
            .as_ref()
            .is_some_and(|events| events.epoch == epoch)
    })
}

/// Every event of `epoch` is there, or is one of as many as the losses say; nothing else is missing.
pub fn holes_are_losses(
    sink: &str,
    got: &Got,
    losses: &BTreeMap<(u64, u64), LossDetail>,
    epoch: u64,
    durable: u64,
) -> u64 {
    let empty = BTreeSet::new();
    let has = got.events.get(&epoch).unwrap_or(&empty);
    let counted: Vec<&LossDetail> = concerning(losses, sink, epoch)
        .filter(|loss| loss.count.is_some())
        .collect();
    let last = counted
        .iter()
        .filter_map(|loss| loss.events.as_ref()?.last)
        .chain(has.last().copied())
        .chain([durable])
        .max()
        .unwrap_or(0);
    let holes: Vec<u64> = (1..=last)
        .filter(|sequence| !has.contains(sequence))
        .collect();
    let count: u64 = counted.iter().filter_map(|loss| loss.count).sum();
    assert_eq!(
        holes.len() as u64,
        count,
        "{sink}, epoch {epoch}: holes {holes:?}, losses {counted:?}"
    );
    for hole in &holes {
        assert!(
            counted.iter().any(|loss| loss
                .events
                .as_ref()
                .is_some_and(|events| events.first <= *hole && Some(*hole) <= events.last)),
            "{sink}, epoch {epoch}: {hole} is within no loss"
        );
    }
    count
}

/// The losses of unclean ends by their epoch: one each.
pub fn unclean(losses: &BTreeMap<(u64, u64), LossDetail>) -> BTreeMap<u64, LossDetail> {
    let mut found = BTreeMap::new();
    for loss in losses.values() {
        if loss.reason == LossReason::UncleanEnd {
            assert_eq!((loss.stage, loss.count), (Stage::Pipeline, None));
            assert!(loss.from <= loss.to);
            let epoch = loss.events.as_ref().unwrap().epoch;
            let before = found.insert(epoch, loss.clone());
            assert!(before.is_none(), "told of twice: {epoch}");
        }
    }
    found
}
