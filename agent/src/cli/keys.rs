//! `fingerprint` and `keygen`.

use super::{FingerprintArguments, KeygenArguments};
use agent_common::fingerprint::{Keyring, Secret};
use anyhow::Context as _;
use std::{io::Read as _, process::ExitCode};
use zeroize::Zeroizing;

/// Longest secret that is read.
const SECRET_BYTES: u64 = 64 * 1024;

pub fn now_unix() -> i64 {
    jiff::Timestamp::now().as_second()
}

pub fn fingerprint(arguments: &FingerprintArguments) -> anyhow::Result<ExitCode> {
    let keyring = Keyring::load(&arguments.fingerprint_key)?;
    let mut text = Zeroizing::new(Vec::with_capacity(SECRET_BYTES as usize + 1));
    std::io::stdin()
        .lock()
        .take(SECRET_BYTES + 1)
        .read_to_end(&mut text)
        .context("cannot read standard input")?;
    anyhow::ensure!(
        text.len() as u64 <= SECRET_BYTES,
        "the secret is longer than {SECRET_BYTES} bytes"
    );
    // What `echo` and editors add is not part of a secret.
    let secret = text.strip_suffix(b"\n").unwrap_or(&text);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    anyhow::ensure!(
        !secret.is_empty(),
        "nothing on standard input: give the secret there, never as an argument"
    );
    let fingerprints = keyring.fingerprints_ever(&Secret::copy_from(secret));
    super::print(
        &fingerprints
            .iter()
            .map(|fingerprint| format!("{fingerprint}\n"))
            .collect::<String>(),
    )
}

pub fn keygen(arguments: &KeygenArguments) -> anyhow::Result<ExitCode> {
    let keyring = if arguments.rotate {
        Keyring::rotate(
            &arguments.file,
            now_unix(),
            u64::from(arguments.overlap) * 86_400,
        )?
        .0
    } else {
        Keyring::create(&arguments.file, now_unix())?
    };
    let mut text = format!("{}\n", arguments.file.display());
    for (kid, validity) in keyring.keys() {
        let day = |unix: i64| {
            jiff::Timestamp::from_second(unix)
                .map_or_else(|_| unix.to_string(), |time| time.to_string())
        };
        let until = validity.not_after.map_or("no end".into(), day);
        text += &format!(
            "  {kid}: valid from {} until {until}\n",
            day(validity.not_before)
        );
    }
    super::print(&text)
}
