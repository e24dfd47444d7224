//! What an index stands for: the static table (RFC 7541 appendix A), then what was inserted, the newest first.
//!
//! Because the newest comes first, an entry's index depends only on what was inserted after it. So a connection that is
//! joined late is read as soon as its entries were seen, and an older one is known to be unknown. Nothing is evicted as
//! the encoder would: a reference to what it has evicted does not occur, and one entry too many does no harm.
//!
//! Invariant: memory is at most [`MOST`] bytes as HPACK counts them.

use crate::flow::Payload;
use std::collections::VecDeque;

/// RFC 7541 section 4.1: what an entry counts beside its name and value.
const ENTRY: usize = 32;
/// What is kept; the default size of a table is 4,096, and few programs have more than 64 KiB.
const MOST: usize = 64 * 1024;

/// A name or a value that may be unknown.
pub(super) type Text = Option<Payload>;

#[derive(Default)]
pub(super) struct Table {
    /// The newest first.
    entries: VecDeque<(Text, Text)>,
    size: usize,
    /// Entries older than the last are unknown, and may be there.
    forgot: bool,
}

/// What an index stands for.
pub(super) enum Found<'a> {
    Static(&'static str, &'static str),
    Dynamic(&'a (Text, Text)),
    /// It was inserted before we looked.
    Unresolved,
    /// Nothing can be there.
    Nothing,
}

impl Table {
    /// What was inserted so far is not known.
    pub fn forget(&mut self) {
        *self = Self {
            forgot: true,
            ..Self::default()
        };
    }

    pub fn insert(&mut self, name: Text, value: Text) {
        self.size += size(&name, &value);
        self.entries.push_front((name, value));
        while self.size > MOST {
            let Some((name, value)) = self.entries.pop_back() else {
                break;
            };
            self.size -= size(&name, &value);
            self.forgot = true;
        }
    }

    pub fn get(&self, index: usize) -> Found<'_> {
        let Some(place) = index.checked_sub(1) else {
            return Found::Nothing;
        };
        if let Some((name, value)) = STATIC.get(place) {
            return Found::Static(name, value);
        }
        match self.entries.get(place - STATIC.len()) {
            Some(entry) => Found::Dynamic(entry),
            None if self.forgot => Found::Unresolved,
            None => Found::Nothing,
        }
    }
}

fn size(name: &Text, value: &Text) -> usize {
    let len = |text: &Text| text.as_ref().map_or(0, |text| text.len());
    ENTRY + len(name) + len(value)
}

const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Text {
        Some(Payload::copy_from(text.as_bytes()))
    }

    #[test]
    fn the_newest_is_first_and_memory_is_bounded() {
        let mut table = Table::default();
        assert!(matches!(table.get(0), Found::Nothing));
        assert!(matches!(
            table.get(61),
            Found::Static("www-authenticate", "")
        ));
        assert!(matches!(table.get(62), Found::Nothing));
        table.insert(text("a"), text("1"));
        table.insert(text("b"), None);
        let Found::Dynamic((Some(name), None)) = table.get(62) else {
            panic!("not the newest");
        };
        assert!(**name == *b"b");
        assert!(matches!(table.get(63), Found::Dynamic(_)));
        assert!(matches!(table.get(64), Found::Nothing));
        for _ in 0..3 {
            table.insert(text("big"), text(&"x".repeat(MOST / 2)));
        }
        assert_eq!(table.entries.len(), 1);
        assert!(matches!(table.get(63), Found::Unresolved));
        table.forget();
        assert!(matches!(table.get(62), Found::Unresolved));
    }
}
