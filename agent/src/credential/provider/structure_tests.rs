use super::super::{credential_shaped, recognise};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A macaroon of version 2 (libmacaroons' `doc/format.txt`): location, identifier, one caveat, signature.
fn macaroon_v2() -> Vec<u8> {
    let mut bytes = vec![2, 1, 4];
    bytes.extend(b"here");
    bytes.extend([2, 3]);
    bytes.extend(b"id1");
    bytes.extend([0, 2, 5]);
    bytes.extend(b"x = 1");
    bytes.extend([0, 0, 6, 32]);
    bytes.extend([0xab; 32]);
    bytes
}

fn macaroon_v1() -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in ["location here\n", "identifier id1\n", "cid x = 1\n"] {
        bytes.extend(format!("{:04x}{field}", field.len() + 4).into_bytes());
    }
    bytes.extend(b"002fsignature ");
    bytes.extend([0xcd; 32]);
    bytes.push(b'\n');
    bytes
}

fn biscuit() -> Vec<u8> {
    let mut bytes = vec![0x12, 60];
    bytes.extend([7; 60]);
    bytes.extend([0x22, 34, 10, 32]);
    bytes.extend([9; 32]);
    bytes
}

#[test]
fn structures_are_recognised_whole_and_at_no_cut() {
    let header = base64url(r#"{"alg":"ES256","typ":"JWT"}"#);
    let encrypted = base64url(r#"{"alg":"dir","enc":"A256GCM"}"#);
    let payload = base64url(r#"{"sub":"x"}"#);
    let with_root_key = [&[0x08, 1][..], &biscuit()].concat();
    for (token, provider) in [
        (format!("{header}.{payload}.c2ln"), "jwt"),
        (format!("{encrypted}..aXY.dGV4dA.dGFn"), "jwe"),
        (format!("v4.public.{}", "a".repeat(40)), "paseto"),
        (format!("v2.local.{}.{}", "B".repeat(40), "foot"), "paseto"),
        (format!("{}:{}", 123_456_789, "aB-_5".repeat(7)), "telegram"),
        (
            format!("{}.{}.{}", "M".repeat(24), "GabcdE", "x-_9".repeat(7)),
            "discord",
        ),
        (
            format!("pat{}.{}", "aB3".repeat(5).split_at(14).0, "0f".repeat(32)),
            "airtable",
        ),
        (
            format!("{}.atlasv1.{}", "aB".repeat(7), "x0".repeat(30)),
            "terraform",
        ),
        (
            format!("sk-{}T3BlbkFJ{}", "aB3x".repeat(5), "aB3x".repeat(5)),
            "openai",
        ),
        (base64url(macaroon_v2()), "macaroon"),
        (STANDARD.encode(macaroon_v1()), "macaroon"),
        (base64url(biscuit()), "biscuit"),
        (base64url(with_root_key), "biscuit"),
        (format!("biscuit:{}", base64url(biscuit())), "biscuit"),
    ] {
        let found = recognise(token.as_bytes());
        assert_eq!(found.map(|found| found.provider), Some(provider), "{token}");
        assert!(credential_shaped(token.as_bytes()));
        for cut in 0..token.len() {
            // A shorter signature, ciphertext or footer is still of the form; nothing may turn into another form.
            let found = recognise(&token.as_bytes()[..cut]).map(|found| found.provider);
            assert!(
                found.is_none() || found == Some(provider),
                "{token} cut at {cut}"
            );
        }
        for around in [" ", "\"", "(", ","] {
            assert_eq!(recognise(format!("{around}{token}").as_bytes()), None);
            assert_eq!(recognise(format!("{token}{around}").as_bytes()), None);
        }
    }
}

#[test]
fn ordinary_values_are_no_credentials() {
    for value in [
        "en-US,en;q=0.5",
        "application/json",
        "550e8400-e29b-41d4-a716-446655440000",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "eyebrows.are.nice",
        "1234567890:short",
        "v1.public.short",
        "skeleton-key-of-the-house",
        "github_pat_is_a_prefix",
        "Mozilla/5.0",
        "AKIA-is-not-followed-by",
        "ghp_too_short",
        "MDAwMDAwMDAwMDAwMDAwMDAwMDA=",
        "AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(recognise(value.as_bytes()), None, "{value}");
    }
}
