//! `quarantine`: what receivers refused for good.

use super::{QuarantineArguments, QuarantineCommand};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{fmt::Write as _, process::ExitCode};
use tokentrail_agent::{
    config,
    spool::{Quarantine, Record, Refused},
};

pub fn quarantine(arguments: &QuarantineArguments) -> anyhow::Result<ExitCode> {
    let config = config::load(&arguments.config)?;
    let path = config.spool.path.with_context(|| {
        format!(
            "{} names no spool: without one nothing is put aside",
            arguments.config.display()
        )
    })?;
    let quarantine = Quarantine::open(&path)?;
    let text = match arguments.command {
        None | Some(QuarantineCommand::List) => {
            let batches = quarantine.list()?;
            if arguments.json {
                format!("{:#}\n", Value::from_iter(batches.iter().map(facts)))
            } else {
                table(&batches)
            }
        }
        Some(QuarantineCommand::Show { id }) => {
            let (batch, records) = quarantine
                .batch(id)?
                .with_context(|| format!("there is no batch {id} in the quarantine"))?;
            if arguments.json {
                let mut facts = facts(&batch);
                facts["events"] = records.iter().map(event).collect();
                format!("{facts:#}\n")
            } else {
                whole(&batch, &records)
            }
        }
    };
    super::print(&text)
}

/// Names as in the event contract, where it has them.
fn facts(batch: &Refused) -> Value {
    json!({
        "id": batch.id,
        "sink": batch.consumer,
        "time": batch.time,
        "reason": batch.reason,
        "producer": { "id": batch.agent, "epoch": batch.epoch },
        "first_sequence": batch.first,
        "last_sequence": batch.last,
        "events_count": batch.records,
        "refused_count": batch.rejected,
        "bytes": batch.bytes,
    })
}

/// As it was put aside; what is no JSON, as text.
fn event(record: &Record) -> Value {
    serde_json::from_slice(&record.bytes)
        .unwrap_or_else(|_| String::from_utf8_lossy(&record.bytes).into())
}

fn table(batches: &[Refused]) -> String {
    if batches.is_empty() {
        return "nothing was refused for good\n".to_owned();
    }
    let mut text = format!(
        "{:>5}  {:20}  {:6}  {:13}  {:>17}  {:>6}  {:>7}  reason\n",
        "id", "time", "output", "epoch", "events", "count", "refused"
    );
    for batch in batches {
        let time: String = batch.time.to_string().chars().take(19).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:>5}  {:20}  {:6}  {:13}  {:>17}  {:>6}  {:>7}  {}",
            batch.id,
            time + "Z",
            batch.consumer,
            batch.epoch,
            format!("{}-{}", batch.first, batch.last),
            batch.records,
            batch.rejected,
            line(&batch.reason),
        );
    }
    text
}

fn whole(batch: &Refused, records: &[Record]) -> String {
    let mut text = format!(
        "batch {} of {}, refused {}: {}\n{} events of {}, epoch {}, {} to {}; {} of them refused\n\n",
        batch.id,
        batch.consumer,
        batch.time,
        line(&batch.reason),
        batch.records,
        batch.agent,
        batch.epoch,
        batch.first,
        batch.last,
        batch.rejected,
    );
    for record in records {
        text.push_str(&line(&String::from_utf8_lossy(&record.bytes)));
        text.push('\n');
    }
    text
}

/// A receiver's words: nothing in them steers a terminal.
fn line(text: &str) -> String {
    text.replace(char::is_control, " ")
}
