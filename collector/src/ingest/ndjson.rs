//! NDJSON: an event a line. Empty lines are none, and a line may end as on Windows.

use super::answer::Failure;
use super::decoded::Decoded;
use super::stated::{Span, Stated};
use bytes::Bytes;

/// All lines of a body.
pub(super) fn decode(
    body: &Bytes,
    stated: Option<&Stated>,
    decoded: &mut Decoded,
) -> Result<(), Failure> {
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.trim_ascii().is_empty() {
            decoded.take(body.slice_ref(line))?;
        }
    }
    let Some(stated) = stated else {
        return Ok(());
    };
    let mut span = Span::default();
    for event in decoded.events() {
        span.add(stated, &event.key);
    }
    decoded.disagree(u64::from(!span.agrees(stated)));
    Ok(())
}
