//! Small decoders whose output is wiped.
//!
//! Invariant: decoding never fails by panic and never allocates more than the input's length and a few bytes.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

/// Padding or not, and stray bits at the end or not: senders differ, and so do receivers.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Base64 of either alphabet (not mixed), padded or not.
pub(super) fn base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let url_safe = text.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if url_safe { URL_SAFE } else { STANDARD };
    let mut bytes = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
    let len = engine.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

/// Percent-decoding (RFC 3986 section 2.1); what is no valid escape stays as it is.
pub(super) fn percent(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match after {
            [high, low, ..] if first == b'%' => hex_digit(*high).zip(hex_digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}

/// Percent-decoded only if there is something to decode.
pub(super) enum Decoded<'a> {
    Same(&'a [u8]),
    Changed(Zeroizing<Vec<u8>>),
}

impl std::ops::Deref for Decoded<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Same(text) => text,
            Self::Changed(text) => text,
        }
    }
}

/// Percent-decodes `times` times at most: some clients encode what is encoded.
pub(super) fn decoded(text: &[u8], times: usize) -> Decoded<'_> {
    let mut decoded = Decoded::Same(text);
    for _ in 0..times {
        if !decoded.contains(&b'%') {
            break;
        }
        decoded = Decoded::Changed(percent(&decoded));
    }
    decoded
}

/// Percent-decoding of form data, where `+` is a space.
pub(super) fn form(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let spaced: Zeroizing<Vec<u8>> = Zeroizing::new(
        text.iter()
            .map(|&byte| if byte == b'+' { b' ' } else { byte })
            .collect(),
    );
    percent(&spaced)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// The quoted string or token that a parameter's value is (RFC 9110 section 5.6.4), without quotes and escapes.
pub(super) fn unquoted(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let value = value.trim_ascii();
    let Some(inner) = value.strip_prefix(b"\"") else {
        return Zeroizing::new(value.to_vec());
    };
    let inner = inner.strip_suffix(b"\"").unwrap_or(inner);
    let mut plain = Zeroizing::new(Vec::with_capacity(inner.len()));
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next() } else { None };
        plain.push(*escaped.unwrap_or(&byte));
    }
    plain
}

/// A public value as text: valid UTF-8 without control characters, at most `max` bytes, not empty.
pub(super) fn presentable(value: &[u8], max: usize) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let fits = !text.is_empty() && text.len() <= max && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

/// Does `needle` (not empty) occur in `haystack`? In linear time, whatever the two are.
pub(super) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty()
        && needle.len() <= haystack.len()
        && memchr::memmem::find(haystack, needle).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_takes_both_alphabets_with_and_without_padding() {
        for (text, expected) in [
            ("aGk=", Some(&b"hi"[..])),
            ("aGk", Some(b"hi")),
            ("-_8", Some(b"\xfb\xff")),
            ("+/8=", Some(b"\xfb\xff")),
            ("", Some(b"")),
            ("+_8", None),
            ("a", None),
            ("a b=", None),
        ] {
            assert_eq!(
                base64(text.as_bytes()).as_deref().map(Vec::as_slice),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn percent_keeps_what_is_no_escape() {
        for (text, expected) in [
            ("a%2Fb", "a/b"),
            ("%41%4", "A%4"),
            ("%%41", "%A"),
            ("%zz%", "%zz%"),
            ("a+b", "a+b"),
        ] {
            assert_eq!(&*percent(text.as_bytes()), expected.as_bytes());
        }
        assert_eq!(&*form(b"a+b%2B"), b"a b+");
    }

    #[test]
    fn quotes_and_escapes_are_taken_off() {
        for (text, expected) in [
            (" x ", "x"),
            ("\"a b\"", "a b"),
            (r#""a\"b\\""#, r#"a"b\"#),
            ("\"cut", "cut"),
        ] {
            assert_eq!(&*unquoted(text.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn contains_finds_at_every_place() {
        for place in 0..10 {
            let mut text = [b'a'; 12];
            text[place..place + 2].copy_from_slice(b"ab");
            assert!(contains(&text, b"ab"), "{place}");
        }
        assert!(!contains(b"aaa", b"b") && !contains(b"a", b"ab") && !contains(b"a", b""));
    }
}
