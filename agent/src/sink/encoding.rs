//! The forms in which an event leaves: tokentrail's own, or OCSF.

use super::batch::{Batch, Outcome};
use super::ocsf;
use crate::config::Encoding;
use bytes::Bytes;

/// An event's JSON in that form, without a newline.
///
/// # Errors
/// If it is not an event that this version reads; only where it has to be read.
pub fn event(encoding: Encoding, json: &Bytes) -> Result<Bytes, ocsf::Error> {
    match encoding {
        Encoding::Event => Ok(json.clone()),
        Encoding::Ocsf => ocsf::encode(json).map(Bytes::from),
    }
}

/// All of a batch. An event that cannot be read is never taken; the others are told apart from it by halving.
pub(super) fn events(encoding: Encoding, batch: &Batch) -> Result<Vec<Bytes>, Outcome> {
    let mut events = Vec::with_capacity(batch.events.len());
    for encoded in &batch.events {
        match event(encoding, &encoded.json) {
            Ok(event) => events.push(event),
            Err(error) => {
                let reason = format!("event {} cannot be encoded: {error}", encoded.sequence);
                return Err(if batch.events.len() > 1 {
                    Outcome::TooLarge { reason }
                } else {
                    Outcome::Rejected { reason }
                });
            }
        }
    }
    Ok(events)
}
