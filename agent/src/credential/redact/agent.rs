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
    let mut out = String::new();
    let delimiter = |byte: &u8| {
        matches!(
            byte,
            b' ' | b'/' | b';' | b'(' | b')' | b',' | b'"' | b'=' | b'#'
        )
    };
    let mut rest = agent;
    while !rest.is_empty() {
        let end = rest.iter().position(delimiter).unwrap_or(rest.len());
        let word = &rest[..end];
        if out.len() + word.len() > LEN_MAX {
            out.push_str(CUT);
            return out;
        }
        if known.secret(word) {
            out.push_str(SECRET);
        } else if opaque::weight(word) >= OPAQUE_MIN {
            out.push_str(OPAQUE);
        } else {
            out.extend(word.iter().map(|&byte| {
                if byte.is_ascii_graphic() {
                    char::from(byte)
                } else {
                    '?'
                }
            }));
        }
        if let Some(&byte) = rest.get(end) {
            out.push(char::from(byte));
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    out
}
