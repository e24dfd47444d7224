//! Check digits that some providers put into their tokens.
//!
//! Invariant: a signal only; nothing is refused because of it.

/// Where a form has its check digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    None,
    /// GitHub and npm: the last 6 characters are the CRC-32 of what stands between prefix and them, in base62.
    Base62,
    /// GitLab routable tokens: the last 7 characters are the CRC-32 of everything before them, in base36.
    Base36,
}

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const LOWER_DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

impl Checksum {
    /// Do the check digits of `value`, whose prefix is `prefix` bytes long, agree?
    pub(super) fn agrees(self, value: &[u8], prefix: usize) -> bool {
        let Some(body) = value.get(prefix..) else {
            return false;
        };
        match self {
            Self::None => false,
            Self::Base62 => body
                .split_last_chunk::<6>()
                .is_some_and(|(random, check)| *check == digits(crc32(random), DIGITS)),
            Self::Base36 => value
                .split_last_chunk::<7>()
                .is_some_and(|(rest, check)| *check == digits(crc32(rest), LOWER_DIGITS)),
        }
    }
}

/// Most significant digit first, padded with zeros.
fn digits<const N: usize>(mut number: u32, alphabet: &[u8]) -> [u8; N] {
    let base = alphabet.len() as u32;
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = alphabet[(number % base) as usize];
        number /= base;
    }
    text
}

/// CRC-32 (ISO-HDLC), a nibble at a time: tokens are short, a larger table would only cost cache.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut index = 0;
        while index < 16 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 4 {
                value = if value & 1 == 1 {
                    value >> 1 ^ 0xedb8_8320
                } else {
                    value >> 1
                };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let step = |crc: u32, nibble: u32| crc >> 4 ^ TABLE[((crc ^ nibble) & 15) as usize];
    !bytes.iter().fold(!0, |crc, &byte| {
        step(step(crc, u32::from(byte)), u32::from(byte) >> 4)
    })
}

/// Appends check digits: for tests that need whole tokens.
#[cfg(test)]
pub(in crate::credential) fn base62_of(random: &[u8]) -> String {
    digits::<6>(crc32(random), DIGITS)
        .iter()
        .map(|&byte| char::from(byte))
        .collect()
}

#[cfg(test)]
pub(in crate::credential) fn base36_of(rest: &[u8]) -> String {
    digits::<7>(crc32(rest), LOWER_DIGITS)
        .iter()
        .map(|&byte| char::from(byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_agrees_with_its_published_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    /// The revoked example that GitHub shows around its format (in parts, so that scanners leave this file alone).
    #[test]
    fn github_check_digits() {
        let example = ["gh", "p_", "zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ", "0mLq17"].concat();
        assert!(Checksum::Base62.agrees(example.as_bytes(), 4));
        for place in 4..example.len() {
            let mut wrong = example.clone().into_bytes();
            wrong[place] = if wrong[place] == b'x' { b'y' } else { b'x' };
            assert!(!Checksum::Base62.agrees(&wrong, 4), "changed at {place}");
        }
    }

    #[test]
    fn short_values_have_no_check_digits() {
        for len in 0..7 {
            assert!(!Checksum::Base36.agrees(&b"0000000"[..len], 0));
            assert!(!Checksum::Base62.agrees(&b"0000000"[..len], 4));
        }
    }
}
