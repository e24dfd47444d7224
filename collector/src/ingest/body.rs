//! A request's body: read, decompressed, or read to be forgotten.
//!
//! Invariant: no more than the limit is ever in memory, and all of that is held of the budget.

use super::answer::Failure;
use super::budget::Held;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use std::io::Read;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Between two pieces of a body, and for all of it.
const PIECE: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(120);
/// How long and how much a sender that was refused is still listened to.
const DRAIN: Duration = Duration::from_secs(5);
const DRAIN_BYTES: usize = 256 * 1024 * 1024;
/// Decompressed at once.
const STEP: usize = 64 * 1024;
/// RFC 9659: a content encoding of zstd has windows of at most 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 23;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

/// How the body is encoded.
pub(super) fn encoding(headers: &HeaderMap) -> Result<Encoding, Failure> {
    let mut said = headers.get_all(CONTENT_ENCODING).iter();
    let Some(first) = said.next() else {
        return Ok(Encoding::Identity);
    };
    let name = String::from_utf8_lossy(first.as_bytes()).to_ascii_lowercase();
    match name.trim() {
        _ if said.next().is_some() => {}
        "" | "identity" => return Ok(Encoding::Identity),
        "gzip" | "x-gzip" => return Ok(Encoding::Gzip),
        "zstd" => return Ok(Encoding::Zstd),
        _ => {}
    }
    let name: String = name.chars().take(80).collect();
    Err(Failure::Unsupported(format!(
        "the content encoding is {name:?}, not gzip, zstd or identity"
    )))
}

/// The whole body, as it was sent.
pub(super) async fn read(
    body: &mut Body,
    headers: &HeaderMap,
    limit: usize,
    held: &mut Held,
) -> Result<Bytes, Failure> {
    let too_large = || Failure::TooLarge(format!("the body has more than {limit} bytes"));
    let length = headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let end = Instant::now() + WHOLE;
    let mut whole: Vec<u8> = Vec::new();
    let taken = std::mem::take(body);
    let mut pieces = taken.into_data_stream();
    loop {
        let until = end.min(Instant::now() + PIECE);
        let Ok(piece) = timeout_at(until, pieces.next()).await else {
            return Err(Failure::Slow);
        };
        let Some(piece) = piece else {
            break;
        };
        let piece =
            piece.map_err(|error| Failure::Unreadable(format!("the body ended early: {error}")))?;
        let failed = if whole.len() + piece.len() > limit {
            Some(too_large())
        } else {
            held.grow(piece.len()).err()
        };
        if let Some(failure) = failed {
            *body = Body::from_stream(pieces);
            return Err(failure);
        }
        if whole.is_empty() {
            // At most the limit, and only what the budget has already: the rest grows.
            whole.reserve(length.unwrap_or(0).min(STEP).max(piece.len()));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.into())
}

/// Reads on for a while and forgets it.
pub(super) async fn drain(body: Body) {
    let mut pieces = body.into_data_stream();
    let drained = async {
        let mut bytes = 0;
        while let Some(Ok(piece)) = pieces.next().await {
            bytes += piece.len();
            if bytes > DRAIN_BYTES {
                return;
            }
        }
    };
    // Who has not ended then is closed upon.
    let _ = timeout(DRAIN, drained).await;
}

/// The body as it was before it was encoded.
pub(super) fn decompress(
    encoding: Encoding,
    body: Bytes,
    limit: usize,
    held: &mut Held,
) -> Result<Bytes, Failure> {
    let decompressed = match encoding {
        Encoding::Identity if body.len() > limit => return Err(too_large(limit)),
        Encoding::Identity => return Ok(body),
        Encoding::Gzip => read_all(MultiGzDecoder::new(&body[..]), limit, held)?,
        Encoding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&body[..]);
            let decoder = decoder.and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(decoder)
            });
            read_all(decoder.map_err(|error| undone(&error))?, limit, held)?
        }
    };
    held.shrink(body.len());
    Ok(decompressed.into())
}

fn read_all(mut from: impl Read, limit: usize, held: &mut Held) -> Result<Vec<u8>, Failure> {
    let mut all: Vec<u8> = Vec::new();
    loop {
        if all.len() > limit {
            return Err(too_large(limit));
        }
        let step = all.len().clamp(STEP, 16 * STEP);
        held.grow(step)?;
        let read = from
            .by_ref()
            .take(step as u64)
            .read_to_end(&mut all)
            .map_err(|error| undone(&error))?;
        held.shrink(step - read);
        if read < step {
            return if all.len() > limit {
                Err(too_large(limit))
            } else {
                Ok(all)
            };
        }
    }
}

fn too_large(limit: usize) -> Failure {
    Failure::TooLarge(format!("decompressed the body has more than {limit} bytes"))
}

fn undone(error: &std::io::Error) -> Failure {
    Failure::Unreadable(format!("the body cannot be decompressed: {error}"))
}
