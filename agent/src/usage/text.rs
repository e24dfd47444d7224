//! Bounds for text that comes out of traffic.

use std::collections::BTreeMap;

/// Bytes of a path or a query.
pub(super) const LONG: usize = 8 * 1024;
/// Bytes of a name, an agent, an id.
pub(super) const SHORT: usize = 1024;
/// Entries of a map.
const ENTRIES: usize = 32;

/// At most `limit` bytes; what was cut ends with `…`.
pub(super) fn bounded(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = text.floor_char_boundary(limit.saturating_sub('…'.len_utf8()));
        text.truncate(end);
        text.push('…');
    }
    text
}

pub(super) fn bounded_map(map: BTreeMap<String, String>) -> BTreeMap<String, String> {
    map.into_iter()
        .take(ENTRIES)
        .map(|(name, value)| (bounded(name, SHORT), bounded(value, SHORT)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let text = "aé漢🙂".repeat(5);
        for limit in 3..text.len() + 3 {
            let cut = bounded(text.clone(), limit);
            assert!(cut.len() <= limit, "{limit}: {}", cut.len());
            assert_eq!(cut == text, limit >= text.len());
            assert!(text.starts_with(cut.trim_end_matches('…')));
        }
        assert_eq!(bounded(String::new(), 0), "");
    }

    #[test]
    fn maps_are_cut() {
        let map = (0..100)
            .map(|number| (format!("{number:03}"), "v".repeat(5000)))
            .collect();
        let map = bounded_map(map);
        assert_eq!(map.len(), ENTRIES);
        assert!(map.values().all(|value| value.len() <= SHORT));
    }
}
