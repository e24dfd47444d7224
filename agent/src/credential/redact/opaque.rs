//! Does a text read like words, numbers and ids, or like something random?
//!
//! A text is split where letters and digits (and `+` and `=`, which base64 has) end. A part counts with its whole
//! length if it is none of: a number; one or a few words, also in camel case; a word with a number on one side (`v2`,
//! `sha256`). The sum is the text's weight; a text that changes between upper case, lower case and digits all the time
//! weighs its length, however it is split: 0 for `resource-groups`, 10 for `api-7d9f8b6c4d`, 32 for an MD5. UUIDs, SHA-1 sums (git) and
//! `sha256:` digests (container images) count nothing: APIs put them into paths as ids everywhere.
//!
//! This cannot tell a random lower-case word from a real one: a secret of 15 lower-case letters in an unknown slot
//! weighs nothing. No shape could tell it either.
//!
//! Invariant: linear; longer than [`LEN_MAX`] weighs its length unread.

use zeroize::Zeroizing;

/// Longer texts are no words.
const LEN_MAX: usize = 512;
/// A longer number is no id.
const NUMBER_MAX: usize = 20;
/// A longer run of letters of one case is no word.
const WORD_MAX: usize = 20;
/// A word with a number at one side is no longer than this.
const NUMBERED_MAX: usize = 12;
/// Shorter texts may mix everything (`iOS17b2`).
const MIXED_MIN: usize = 16;
/// So many one- and two-letter parts, if they are the most, are no words.
const STUBS_MIN: usize = 4;
/// More consonants in a row are in no word.
const CONSONANTS_MAX: usize = 5;

/// How many bytes do not read like words or ordinary ids.
pub(in crate::credential) fn weight(text: &[u8]) -> usize {
    if is_uuid(text) || is_sha1(text) || is_digest(text) {
        0
    } else {
        raw_weight(text)
    }
}

/// The same, without the exception for UUIDs and SHA-1 sums.
pub(in crate::credential) fn raw_weight(text: &[u8]) -> usize {
    if text.len() > LEN_MAX {
        return text.len();
    }
    if !text.is_ascii() {
        // Names in other scripts are fine, binary is not.
        return match std::str::from_utf8(text) {
            Ok(text) if text.chars().all(|character| !character.is_control()) => {
                let bytes = text
                    .bytes()
                    .map(|byte| if byte.is_ascii() { byte } else { b'-' });
                let ascii: Zeroizing<Vec<u8>> = Zeroizing::new(bytes.collect());
                raw_weight(&ascii)
            }
            _ => text.len(),
        };
    }
    // `+` and `=` join: they are part of base64 and of nothing that reads like words.
    let joins = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'=');
    let parts = || {
        text.split(|&byte| !joins(byte))
            .filter(|part| !part.is_empty())
    };
    if mixes_everything(text) {
        return text.len();
    }
    let stubs = parts()
        .filter(|part| part.len() <= 2 && part.iter().any(u8::is_ascii_alphabetic))
        .count();
    if stubs >= STUBS_MIN && stubs * 2 > parts().count() {
        return text.len();
    }
    parts()
        .filter(|part| !reads_like_words(part))
        .map(<[u8]>::len)
        .sum()
}

/// Upper case, lower case and digits, changing at every other character or more: no words do, however they are joined.
fn mixes_everything(text: &[u8]) -> bool {
    let class = |byte: u8| match byte {
        b'a'..=b'z' => 1_u8,
        b'A'..=b'Z' => 2,
        b'0'..=b'9' => 4,
        _ => 0,
    };
    let classes = text.iter().fold(0, |classes, &byte| classes | class(byte));
    let changes = text
        .windows(2)
        .filter(|pair| class(pair[0]) != class(pair[1]))
        .count();
    classes == 7 && text.len() >= MIXED_MIN && changes * 2 >= text.len()
}

/// 8-4-4-4-12 hexadecimal digits.
pub(in crate::credential) fn is_uuid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_sha1(text: &[u8]) -> bool {
    text.len() == 40
        && text
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `sha256:` and 64 hexadecimal digits: the name of a container image's content.
fn is_digest(text: &[u8]) -> bool {
    let digits = text
        .strip_prefix(b"sha256:")
        .filter(|digits| digits.len() == 64);
    digits.is_some_and(|digits| {
        digits
            .iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn reads_like_words(part: &[u8]) -> bool {
    let letters = part
        .iter()
        .filter(|byte| byte.is_ascii_alphabetic())
        .count();
    if part.iter().all(u8::is_ascii_digit) {
        return part.len() <= NUMBER_MAX;
    }
    if letters == part.len() {
        return reads_like_letters(part);
    }
    let changes = part
        .windows(2)
        .filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit());
    changes.count() == 1 && part.len() <= NUMBERED_MAX
}

/// Letters only: real words have vowels, and camel case has words of more than two letters.
fn reads_like_letters(part: &[u8]) -> bool {
    if part.len() <= 3 {
        return true;
    }
    let mut consonants = 0;
    for byte in part {
        let vowel = matches!(
            byte.to_ascii_lowercase(),
            b'a' | b'e' | b'i' | b'o' | b'u' | b'y'
        );
        consonants = if vowel { 0 } else { consonants + 1 };
        if consonants > CONSONANTS_MAX {
            return false;
        }
    }
    let (mut words, mut stubs, mut start) = (0, 0, 0);
    for end in 1..=part.len() {
        let begins = end < part.len() && {
            let next_is_lower = part.get(end + 1).is_some_and(u8::is_ascii_lowercase);
            part[end].is_ascii_uppercase() && (part[end - 1].is_ascii_lowercase() || next_is_lower)
        };
        if end == part.len() || begins {
            words += 1;
            stubs += usize::from(end - start <= 2);
            if end - start > WORD_MAX {
                return false;
            }
            start = end;
        }
    }
    words <= 2 || stubs * 3 < words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_ids_weigh_nothing() {
        for text in [
            "",
            "users",
            "v2",
            "v1beta1",
            "resource-groups",
            "Microsoft.Compute",
            "getUserByEmailAddress",
            "2026-10-05",
            "index.html",
            "oauth2",
            "sha256",
            "HTTPServer",
            "chat.postMessage",
            "repos",
            "1234567890123",
            "internationalization",
            "550e8400-e29b-41d4-a716-446655440000",
            "da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "my_long-article.title-part-2",
            "système",
            "公司",
        ] {
            assert_eq!(
                weight(text.as_bytes()),
                usize::from(text == "v1beta1") * 7,
                "{text}"
            );
        }
    }

    #[test]
    fn random_texts_weigh_their_length() {
        for (text, at_least) in [
            ("d41d8cd98f00b204e9800998ecf8427e", 32),
            ("aB3dE6gH9jK2mN5pQ8sT", 20),
            ("QWxhZGRpbjpvcGVuIHNlc2FtZQ", 20),
            ("qrTbxKdLmWzPcVnHgFjS", 20),
            ("abcdefghijklmnopqrstuvwxyz", 26),
            ("xkcdqwrtzpsd", 12),
            ("AAAA1-BBB2B-CC3CC", 5),
            ("000000000000000000000", 21),
        ] {
            assert!(
                weight(text.as_bytes()) >= at_least,
                "{text} {}",
                weight(text.as_bytes())
            );
        }
        assert_eq!(weight(b"api-7d9f8b6c4d-x2x9z"), 15);
        assert_eq!(weight(&[0xff; 20]), 20);
        assert_eq!(weight(&[b'a'; 600]), 600);
    }

    /// How much of random texts goes unnoticed: the rule's known limit, measured.
    #[test]
    fn few_random_texts_of_20_characters_pass() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut passed = 0;
        for _ in 0..10_000 {
            let text: Vec<u8> = (0..20)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    alphabet[(state >> 33) as usize % alphabet.len()]
                })
                .collect();
            passed += usize::from(weight(&text) < 16);
        }
        assert!(passed < 100, "{passed} of 10000");
    }
}
