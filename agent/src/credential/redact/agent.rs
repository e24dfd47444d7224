//! The User-Agent, word by word.
//!
//! Invariant: printable ASCII, at most [`LEN_MAX`] bytes and a mark.

use super::{CUT, Known, OPAQUE, SECRET, opaque};

const LEN_MAX: usize = 256;
/// A word of this weight is no product or version.
const OPAQUE_MIN: usize = 16;

pub(super) fn sanitize(agent: &[u8], known: &Known<'_>) -> String {
    let agent = agent.trim_ascii();
    // A secret with spaces or slashes in it is no word.
    if known.everything() || known.known(agent) {
        return SECRET.to_owned();
    }
    let mut out = String::with_capacity(agent.len().min(LEN_MAX) + CUT.len());
    for run in runs(agent) {
        if out.len() + run.len() > LEN_MAX {
            out.push_str(CUT);
            break;
        }
        // `+` and `/` are part of base64: what weighs too much as a whole is not looked at word by word.
        if run.len() >= OPAQUE_MIN && opaque::raw_weight(run) >= OPAQUE_MIN && !known.secret(run) {
            let slash = run
                .iter()
                .position(|&byte| byte == b'/')
                .map_or(0, |slash| slash + 1);
            let (product, _) = run.split_at(slash);
            if opaque::raw_weight(product) < OPAQUE_MIN && !known.secret(product) {
                push_plain(product, &mut out);
            }
            out.push_str(OPAQUE);
        } else {
            run.split_inclusive(|&byte| is_inner(byte))
                .for_each(|word| push_word(word, known, &mut out));
        }
    }
    out
}

/// Between products and comments.
fn is_outer(byte: u8) -> bool {
    matches!(byte, b' ' | b';' | b'(' | b')' | b',' | b'"')
}

/// Within a product.
fn is_inner(byte: u8) -> bool {
    matches!(byte, b'/' | b'=' | b'#')
}

/// Maximal runs of delimiters and of other bytes, in turn.
fn runs(agent: &[u8]) -> impl Iterator<Item = &[u8]> {
    agent.chunk_by(|&a, &b| is_outer(a) == is_outer(b))
}

/// A word, with the delimiter after it, if there is one.
fn push_word(word: &[u8], known: &Known<'_>, out: &mut String) {
    let (text, delimiter) = match word.split_last() {
        Some((&last, text)) if is_inner(last) => (text, &word[text.len()..]),
        _ => (word, &b""[..]),
    };
    if known.secret(text) {
        out.push_str(SECRET);
    } else {
        push_plain(text, out);
    }
    push_plain(delimiter, out);
}

fn push_plain(text: &[u8], out: &mut String) {
    let shown = |&byte: &u8| {
        if byte == b' ' || byte.is_ascii_graphic() {
            char::from(byte)
        } else {
            '?'
        }
    };
    out.extend(text.iter().map(shown));
}
