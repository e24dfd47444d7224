//! The demo's credentials: generated for one run, of the shapes that real ones have, worth nothing anywhere.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fs::File;
use std::io::Read;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

fn random_bytes<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(bytes)
}

/// Letters and digits.
pub fn opaque<const LENGTH: usize>() -> Result<String> {
    Ok(random_bytes::<LENGTH>()?
        .iter()
        .map(|byte| char::from(BASE62[usize::from(*byte) % BASE62.len()]))
        .collect())
}

/// `ghp_`, 30 characters, and their CRC-32 in base 62: the six check characters of GitHub's tokens.
pub fn github(prefix: &str) -> Result<String> {
    let body = opaque::<30>()?;
    let check = base62(crc32(body.as_bytes()));
    Ok(format!("{prefix}{body}{check}"))
}

/// A JWT with public claims and a signature that nobody made.
pub fn jwt() -> Result<String> {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    Ok(format!(
        "{}.{}.{}",
        part(r#"{"alg":"HS256","typ":"JWT"}"#),
        part(
            r#"{"iss":"https://issuer.example","sub":"demo","aud":"orders","scope":"orders.read","exp":4102444800}"#
        ),
        URL_SAFE_NO_PAD.encode(random_bytes::<32>()?)
    ))
}

/// IEEE 802.3, as zlib has it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

fn base62(number: u32) -> String {
    let mut rest = number as usize;
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % BASE62.len()];
        rest /= BASE62.len();
    }
    digits.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_the_usual_ones() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(base62(0), "000000");
        assert_eq!(base62(62), "000010");
        assert_eq!(base62(u32::MAX), "4gfFC3");
    }

    #[test]
    fn shapes() {
        let token = github("ghp_").unwrap();
        assert_eq!(token.len(), 40);
        assert_ne!(token, github("ghp_").unwrap());
        assert_eq!(jwt().unwrap().split('.').count(), 3);
        assert_eq!(opaque::<32>().unwrap().len(), 32);
    }
}
