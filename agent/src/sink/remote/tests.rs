//! What a configuration may hold, and what statuses mean. Real servers are in `tests/receivers`.

use super::Error;
use super::file::Source;
use super::post::{Poster, Settings};
use super::retry::{LONGEST, after, outcome};
use super::tls::{Files, Tls};
use crate::config::{Compression, Http, Otlp};
use crate::sink::batch::{Outcome, Receiver as _};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn write(path: &Path, text: &str, mode: u32) -> PathBuf {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    path.to_owned()
}

fn now() -> Timestamp {
    "2026-11-06T08:49:37Z".parse().unwrap()
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let seconds = Duration::from_secs;
    for (text, expected) in [
        ("0", Some(seconds(0))),
        (" 120 ", Some(seconds(120))),
        ("99999999999999999999", Some(LONGEST)),
        ("Fri, 06 Nov 2026 08:50:07 GMT", Some(seconds(30))),
        ("Thu, 06 Nov 2026 08:50:07 GMT", Some(seconds(30))),
        ("Fri, 06 Nov 2026 08:00:00 GMT", Some(seconds(0))),
        ("Sat, 06 Nov 2027 08:49:37 GMT", Some(LONGEST)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Fri, 06 Nov 2026", None),
    ] {
        assert_eq!(after(text, now()), expected, "{text}");
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let _ = after(&text[..end], now());
        }
    }
}

#[test]
fn statuses_mean_what_otlp_says() {
    for status in 100..=999 {
        let outcome = outcome(status, Some("7"), now(), "why");
        let fits = match status {
            429 | 502 | 503 | 504 => matches!(
                &outcome,
                Outcome::Retry { after: Some(after), .. } if after.as_secs() == 7
            ),
            413 => matches!(outcome, Outcome::TooLarge { .. }),
            _ => matches!(outcome, Outcome::Rejected { .. }),
        };
        assert!(fits, "{status}: {outcome:?}");
    }
    let go = "http: request body too large";
    assert!(matches!(
        outcome(400, None, now(), go),
        Outcome::TooLarge { .. }
    ));
    assert!(matches!(
        outcome(401, None, now(), go),
        Outcome::Rejected { .. }
    ));
}

#[test]
fn secrets_that_others_may_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    for (mode, fits) in [
        (0o600, true),
        (0o400, true),
        (0o640, false),
        (0o604, false),
        (0o620, false),
    ] {
        let path = write(&path, "Bearer synthetic\n", mode);
        let read = Source::disk().secret(&path);
        assert_eq!(read.is_ok(), fits, "{mode:o}");
        if let Err(error) = read {
            let error = error.to_string();
            assert!(error.contains(&format!("(mode {mode:04o})")), "{error}");
            assert!(error.contains("chmod 600"), "{error}");
        }
        let headers = BTreeMap::from([(
            "authorization".to_owned(),
            format!("file:{}", path.display()),
        )]);
        let made = super::super::otlp::from_config(&Otlp {
            endpoint: Some("http://127.0.0.1:1".into()),
            headers,
            ..Otlp::default()
        });
        assert_eq!(made.is_ok(), fits, "{mode:o}");
    }
    write(&path, &"x".repeat(65 * 1024), 0o600);
    assert!(matches!(
        Source::disk().secret(&path),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(
        Source::disk().secret(folder.path()),
        Err(Error::NotAFile { .. })
    ));
    write(&path, "x", 0o666);
    assert!(matches!(
        Source::disk().public(&path),
        Err(Error::Writable { .. })
    ));
}

/// What one process has opened another one reads, as often as it likes, and nothing else.
#[test]
fn opened_files_are_passed_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder.path().join("secret"), "first", 0o600);
    let disk = Source::disk();
    assert_eq!(*disk.secret(&path).unwrap(), b"first");
    assert_eq!(disk.public(&path).unwrap(), b"first");
    let opened = disk.into_opened();
    assert_eq!(opened.len(), 1, "each file once");
    std::fs::remove_file(&path).unwrap();
    write(&path, "second", 0o600);
    let passed = Source::passed(opened);
    for _ in 0..2 {
        assert_eq!(*passed.secret(&path).unwrap(), b"first");
    }
    let other = write(&folder.path().join("other"), "other", 0o600);
    assert!(passed.has(&path) && !passed.has(&other));
    assert!(matches!(passed.secret(&other), Err(Error::Read { .. })));
    // Its owner may have opened it to others meanwhile.
    let kept = Source::disk();
    kept.secret(&other).unwrap();
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644)).unwrap();
    let passed = Source::passed(kept.into_opened());
    assert!(matches!(passed.secret(&other), Err(Error::Readable { .. })));
}

fn poster(endpoint: &str, headers: &[(&str, &str)]) -> Result<Poster, Error> {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Poster::new(
        &Settings {
            endpoint,
            default_path: "/v1/logs",
            compression: Compression::None,
            headers: &headers,
            files: Files {
                ca: None,
                certificate: None,
                key: None,
            },
            connect: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        },
        &Source::disk(),
    )
}

#[test]
fn destinations_are_those_of_the_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, _) = certificate(folder.path(), "ca");
    for (endpoint, host, port) in [
        (
            "https://collector.example:4318/v1/logs",
            "collector.example",
            4318,
        ),
        ("https://collector.example", "collector.example", 443),
        ("http://127.0.0.1/x:9", "127.0.0.1", 80),
        ("https://[::1]:8443/", "::1", 8443),
        ("https://[::1]/", "::1", 443),
    ] {
        let config = Http {
            endpoint: Some(endpoint.to_owned()),
            ca: Some(ca.clone()),
            ..Http::default()
        };
        let http = super::super::http::from_config(&config).unwrap().unwrap();
        assert_eq!(
            http.destination(),
            Some((host.to_owned(), port)),
            "{endpoint}"
        );
    }
}

#[test]
fn endpoints_and_headers_are_looked_at_first() {
    assert!(poster("http://127.0.0.1:4318", &[("x-scope", "a")]).is_ok());
    for wrong in [
        "",
        "collector.example:4318",
        "ftp://collector.example",
        "http://",
        "https://user:synthetic-password@collector.example",
        "http://a b",
    ] {
        let error = poster(wrong, &[]).err().unwrap().to_string();
        assert!(!error.contains("synthetic-password"), "{error}");
    }
    for (name, value) in [
        ("", "x"),
        ("a b", "x"),
        ("Content-Type", "x"),
        ("host", "x"),
        ("tokentrail-agent", "x"),
        ("x", "a\nb"),
    ] {
        let error = poster("http://127.0.0.1:4318", &[(name, value)]).err();
        assert!(
            matches!(
                error,
                Some(Error::HeaderName { .. } | Error::HeaderValue { .. })
            ),
            "{name:?}"
        );
    }
    assert!(
        super::super::http::from_config(&Http::default())
            .unwrap()
            .is_none()
    );
    assert!(
        super::super::otlp::from_config(&Otlp::default())
            .unwrap()
            .is_none()
    );
}

/// Self-signed, in PEM.
fn certificate(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (certificate, key) = (
        folder.join(format!("{name}.pem")),
        folder.join(format!("{name}.key")),
    );
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    (certificate, key)
}

#[test]
fn certificates_and_keys_have_to_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = self::certificate(folder.path(), "a");
    let (_, other_key) = self::certificate(folder.path(), "b");
    let empty = write(&folder.path().join("empty"), "", 0o600);
    let garbage = write(
        &folder.path().join("garbage"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        0o600,
    );
    let load = |ca: Option<&PathBuf>, certificate: Option<&PathBuf>, key: Option<&PathBuf>| {
        Tls::load(
            Files {
                ca,
                certificate,
                key,
            },
            &Source::disk(),
        )
        .err()
    };
    assert!(load(Some(&certificate), Some(&certificate), Some(&key)).is_none());
    assert!(matches!(
        load(Some(&empty), None, None),
        Some(Error::NoCertificate { .. })
    ));
    assert!(matches!(
        load(Some(&garbage), None, None),
        Some(Error::Certificate { .. })
    ));
    assert!(matches!(
        load(Some(&certificate), Some(&certificate), None),
        Some(Error::HalfIdentity)
    ));
    assert!(matches!(
        load(Some(&certificate), Some(&certificate), Some(&empty)),
        Some(Error::NoKey { .. })
    ));
    assert!(matches!(
        load(Some(&certificate), Some(&certificate), Some(&other_key)),
        Some(Error::Key { .. })
    ));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        load(Some(&certificate), Some(&certificate), Some(&key)),
        Some(Error::Readable { mode: 0o640, .. })
    ));
    let missing = folder.path().join("missing");
    assert!(matches!(
        load(Some(&missing), None, None),
        Some(Error::Read { .. })
    ));
}
