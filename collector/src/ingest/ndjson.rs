//! NDJSON: an event a line. Empty lines are none, and a line may end as on Windows.

use super::answer::Failure;
use super::decoded::Decoded;
use super::stated::{Span, Stated};

/// All lines of a body.
pub(super) fn decode(
    body: &[u8],
    stated: Option<&Stated>,
    decoded: &mut Decoded,
) -> Result<(), Failure> {
    let mut span = Span::default();
    for line in body.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if !line.trim_ascii().is_empty() {
            let key = decoded.take(line)?;
            if let (Some(key), Some(stated)) = (key, stated) {
                span.add(stated, key);
            }
        }
    }
    if let Some(stated) = stated {
        decoded.disagree(u64::from(!span.agrees(stated)));
    }
    Ok(())
}
