//! Several byte strings looked for in one walk over a window.
//!
//! What is compared at speed are *keys*: of strings that begin alike only the shortest. Each place where a key stands is
//! then compared with every string that begins with it, and the search goes on one byte further. So strings may overlap
//! and begin with one another, which the vectorised searchers by themselves do not report.
//!
//! Invariant: every place at which a string stands is reported, in ascending order for each string.

use super::finder::LookError;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Span, packed};
use memchr::memmem;
use std::io;

pub(super) struct Needles {
    texts: Vec<Vec<u8>>,
    keys: Vec<Key>,
    engine: Engine,
}

struct Key {
    bytes: Vec<u8>,
    /// Numbers of the strings that begin with it.
    texts: Vec<usize>,
}

enum Engine {
    Nothing,
    One(Box<memmem::Finder<'static>>),
    /// Vectorised ("Teddy"), where the processor has what it takes and the keys are not too many.
    Few(packed::Searcher),
    Many(AhoCorasick),
}

impl Needles {
    pub fn new(texts: &[&[u8]]) -> Result<Self, LookError> {
        let mut keys: Vec<Key> = Vec::new();
        let numbered = texts.iter().enumerate();
        let mut sorted: Vec<(&[u8], usize)> = numbered
            .filter(|(_, text)| !text.is_empty())
            .map(|(number, text)| (*text, number))
            .collect();
        // What begins with another comes directly behind it, or behind what does so too.
        sorted.sort_unstable();
        for (bytes, number) in sorted {
            match keys.last_mut() {
                Some(last) if bytes.starts_with(&last.bytes) => last.texts.push(number),
                _ => keys.push(Key {
                    bytes: bytes.to_vec(),
                    texts: vec![number],
                }),
            }
        }
        Ok(Self {
            texts: texts.iter().map(|text| text.to_vec()).collect(),
            engine: Engine::new(&keys)?,
            keys,
        })
    }

    /// Calls `visit(number of the string, where it begins)` for each place in `bytes` at which one stands whole.
    pub fn each(&self, bytes: &[u8], mut visit: impl FnMut(usize, usize)) {
        let mut at_key = |key: usize, at: usize| {
            for &number in &self.keys[key].texts {
                if bytes[at..].starts_with(&self.texts[number]) {
                    visit(number, at);
                }
            }
        };
        match &self.engine {
            Engine::Nothing => {}
            Engine::One(finder) => {
                let mut from = 0;
                while let Some(hit) = finder.find(&bytes[from..]) {
                    at_key(0, from + hit);
                    from += hit + 1;
                }
            }
            Engine::Few(searcher) => {
                let mut from = 0;
                while let Some(hit) = searcher.find_in(bytes, Span::from(from..bytes.len())) {
                    at_key(hit.pattern().as_usize(), hit.start());
                    from = hit.start() + 1;
                }
            }
            Engine::Many(all) => {
                for hit in all.find_overlapping_iter(bytes) {
                    at_key(hit.pattern().as_usize(), hit.start());
                }
            }
        }
    }
}

impl Engine {
    fn new(keys: &[Key]) -> Result<Self, LookError> {
        let bytes = keys.iter().map(|key| key.bytes.as_slice());
        Ok(match keys {
            [] => Self::Nothing,
            [one] => Self::One(Box::new(memmem::Finder::new(&one.bytes).into_owned())),
            _ => match packed::Searcher::new(bytes.clone()) {
                Some(searcher) => Self::Few(searcher),
                None => Self::Many(
                    AhoCorasick::builder()
                        .kind(Some(AhoCorasickKind::DFA))
                        .build(bytes)
                        .map_err(io::Error::other)?,
                ),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `windows` would say it.
    fn slowly(bytes: &[u8], text: &[u8]) -> Vec<usize> {
        let mut hits = Vec::new();
        for (at, window) in bytes.windows(text.len()).enumerate() {
            if window == text {
                hits.push(at);
            }
        }
        hits
    }

    fn check(texts: &[&[u8]], bytes: &[u8]) {
        let mut hits = vec![Vec::new(); texts.len()];
        Needles::new(texts)
            .unwrap()
            .each(bytes, |number, at| hits[number].push(at));
        for (text, hits) in texts.iter().zip(hits) {
            assert_eq!(hits, slowly(bytes, text), "{:?}", text.escape_ascii());
        }
    }

    #[test]
    fn every_place_is_found_however_strings_overlap() {
        let bytes = b"\0abc\0abcd\0\0abcab\0cabcabc\0xx\0\0\0aaaa\0";
        check(&[b"abc"], bytes);
        check(&[b"aa"], bytes);
        check(
            &[b"\0abc\0", b"\0abcd\0", b"abc", b"abca", b"cab", b"\0\0"],
            bytes,
        );
        check(&[b"aa", b"aaa", b"a", b"\0a"], bytes);
        check(&[], bytes);
        check(&[b"abc", b"abc"], bytes);
        check(
            &[b"longer than all of the bytes that are looked through"],
            bytes,
        );
    }

    #[test]
    fn many_strings_over_a_long_text() {
        let texts: Vec<Vec<u8>> = (0..300_u32)
            .map(|n| format!("<{n}>").into_bytes())
            .collect();
        let bytes: Vec<u8> = (0..5000_u32)
            .flat_map(|n| format!("<{}>", n.wrapping_mul(2_654_435_761) % 400).into_bytes())
            .collect();
        for count in [2, 20, 60, 300] {
            let texts: Vec<&[u8]> = texts.iter().take(count).map(Vec::as_slice).collect();
            check(&texts, &bytes);
        }
    }
}
