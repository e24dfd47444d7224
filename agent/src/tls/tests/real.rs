//! Real handshakes: every suite and version, the ways to resume, to retry, to change keys.

use super::peers::*;
use super::replay::{Read, Replay, read};
use crate::flow::Direction;
use std::sync::OnceLock;

const LINES: [&str; 3] = [
    "GET /one HTTP/1.1 alpha",
    "second line",
    "the last one of three",
];

fn lines() -> Vec<Say<'static>> {
    LINES.iter().map(|line| Say::Line(line)).collect()
}

fn reversed(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.chars().rev().collect::<String>() + "\n")
        .collect()
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub fn check_lines(read: &Read) {
    assert_eq!(read.sent(), joined(&LINES), "{:?}", read.unread);
    assert_eq!(read.received(), reversed(&LINES), "{:?}", read.unread);
    assert_eq!(read.unread, Vec::<String>::new());
    assert!(read.facts.proven);
}

pub const SUITES_13: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

pub const SUITES_12: [&str; 5] = [
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "AES128-GCM-SHA256",
    "DHE-RSA-AES256-GCM-SHA384",
];

pub fn openssl_13(suite: &str) -> Recording {
    openssl(
        &["-tls1_3"],
        &[
            "-tls1_3",
            "-ciphersuites",
            suite,
            "-servername",
            "a.example",
            "-alpn",
            "h2,http/1.1",
        ],
        &lines(),
    )
}

pub fn openssl_12(suite: &str) -> Recording {
    openssl(
        &["-tls1_2", "-alpn", "http/1.1"],
        &["-tls1_2", "-cipher", suite, "-alpn", "h2,http/1.1"],
        &lines(),
    )
}

#[test]
fn openssl_tls13_suites() {
    for suite in SUITES_13 {
        let read = read(&openssl_13(suite));
        check_lines(&read);
        assert_eq!(read.facts.suite.unwrap().to_string(), suite);
        assert_eq!(read.facts.sni.as_deref(), Some("a.example"));
        assert_eq!(read.facts.alpn_offered, ["h2", "http/1.1"]);
        assert_eq!(read.proved.len(), 4, "{:?}", read.proved);
    }
}

#[test]
fn openssl_tls12_suites() {
    for suite in SUITES_12 {
        let read = read(&openssl_12(suite));
        check_lines(&read);
        assert_eq!(read.facts.version, Some(0x0303));
        assert_eq!(read.facts.alpn.as_deref(), Some("http/1.1"));
        assert_eq!(read.proved, ["CLIENT_RANDOM"]);
    }
}

#[test]
fn gnutls_suites() {
    let rows = [
        (
            "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM",
            0x1301,
        ),
        (
            "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-256-GCM",
            0x1302,
        ),
        (
            "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305",
            0x1303,
        ),
        (
            "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM",
            0xc02f,
        ),
        (
            "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-256-GCM",
            0xc030,
        ),
        (
            "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+CHACHA20-POLY1305",
            0xcca8,
        ),
    ];
    for (priority, suite) in rows {
        let read = read(&gnutls(priority, &[], &LINES)[0]);
        assert_eq!(read.facts.suite.unwrap().0, suite);
        assert_eq!(read.sent(), joined(&LINES), "{priority} {:?}", read.unread);
        assert_eq!(
            read.received(),
            joined(&LINES),
            "{priority} {:?}",
            read.unread
        );
        assert_eq!(read.unread, Vec::<String>::new());
    }
}

#[test]
fn gnutls_resumes_and_changes_keys() {
    for (version, updates) in [("TLS1.3", 2), ("TLS1.2", 0)] {
        let priority = format!("NORMAL:-VERS-ALL:+VERS-{version}");
        let rekey: &[&str] = if updates > 0 { &["^rekey^"] } else { &[] };
        let recordings = gnutls(
            &priority,
            &["-r"],
            &[&LINES[..1], rekey, &LINES[1..]].concat(),
        );
        assert_eq!(recordings.len(), 2);
        let len = |number: usize| recordings[number].stream(Direction::Received).len();
        assert!(len(1) < len(0), "no certificate: it did resume");
        // Both connections' secrets are candidates for both.
        let mut replay = Replay::new();
        replay.learn(&recordings[0]);
        let mut pool = replay.pool;
        for recording in &recordings {
            let mut replay = Replay::new();
            std::mem::swap(&mut replay.pool, &mut pool);
            replay.all(recording);
            std::mem::swap(&mut replay.pool, &mut pool);
            let read = replay.close();
            assert_eq!(read.unread, Vec::<String>::new());
            if recording.stream(Direction::Sent) == recordings[1].stream(Direction::Sent) {
                assert_eq!(read.sent(), joined(&LINES));
                assert_eq!(read.received(), joined(&LINES));
                assert_eq!(read.facts.key_updates, updates);
            }
        }
    }
}

#[test]
fn a_hello_retry_request_is_followed() {
    let recording = openssl(
        &["-tls1_3", "-groups", "P-384"],
        &["-tls1_3", "-groups", "X25519:P-384"],
        &lines(),
    );
    let read = read(&recording);
    check_lines(&read);
    assert!(read.facts.retried);
    assert_eq!(read.proved.len(), 4);
}

#[test]
fn key_updates_of_either_side_are_followed() {
    for suite in SUITES_13 {
        let conversation = [
            Say::Line(LINES[0]),
            Say::Command("k", "KEYUPDATE"),
            Say::Line(LINES[1]),
            Say::Command("K", "KEYUPDATE"),
            Say::Line(LINES[2]),
        ];
        let read = read(&openssl(
            &["-tls1_3"],
            &["-tls1_3", "-ciphersuites", suite],
            &conversation,
        ));
        check_lines(&read);
        assert_eq!(
            read.facts.key_updates, 3,
            "two of the client, one that it asked the server for"
        );
    }
}

#[test]
fn client_certificates_and_fragmented_handshakes_are_followed() {
    let client = [
        "-cert",
        "cert.pem",
        "-key",
        "key.pem",
        "-max_send_frag",
        "512",
    ];
    for version in ["-tls1_3", "-tls1_2"] {
        let server = [version, "-Verify", "1", "-max_send_frag", "512"];
        check_lines(&read(&openssl(
            &server,
            &[&client[..], &[version]].concat(),
            &lines(),
        )));
    }
}

#[test]
fn padding_is_taken_off() {
    for padding in ["64", "512", "16384"] {
        let arguments = ["-tls1_3", "-record_padding", padding];
        check_lines(&read(&openssl(&arguments, &arguments, &lines())));
    }
}

/// First connection and the one that resumes it.
fn resumed(version: &str, more: &[&str]) -> (Recording, Recording) {
    let (_server, address) = openssl_server(&[version]);
    let proxy = Proxy::to(address);
    let session = fresh("session");
    let session = session.to_str().unwrap();
    let first = openssl_client(
        &proxy,
        &[&[version, "-sess_out", session][..], more].concat(),
        &lines(),
    );
    let second = openssl_client(
        &proxy,
        &[&[version, "-sess_in", session][..], more].concat(),
        &lines(),
    );
    let of = |number: usize, secrets| Recording {
        chunks: proxy.chunks(number),
        secrets,
    };
    (of(0, first), of(1, second))
}

#[test]
fn resumption_in_tls13() {
    let (first, second) = resumed("-tls1_3", &[]);
    check_lines(&read(&first));
    check_lines(&read(&second));
    let len = |recording: &Recording| recording.stream(Direction::Received).len();
    assert!(len(&second) < len(&first), "no certificate: it did resume");
}

#[test]
fn resumption_in_tls12_shares_the_proven_master_secret() {
    for more in [&[][..], &["-no_ticket"]] {
        let (first, second) = resumed("-tls1_2", more);
        let mut replay = Replay::new();
        replay.learn(&first);
        replay.all(&first);
        let pool = std::mem::replace(&mut replay.pool, crate::tls::Pool::new(Default::default()));
        check_lines(&replay.close());
        let mut replay = Replay::new();
        replay.pool = pool;
        replay.now += 1_000_000_000_000;
        replay.pool.expire(replay.now);
        replay.all(&second);
        check_lines(&replay.close());
        assert_ne!(
            first.secrets[0].1, second.secrets[0].1,
            "another connection"
        );
        assert_eq!(
            first.secrets[0].2, second.secrets[0].2,
            "the same master secret"
        );
    }
}

const EARLY: &str = "GET /early HTTP/1.1\r\n\r\n";

/// A connection of `server` to which the client sends early data, on a ticket of another server.
fn early(server: &[&str]) -> Recording {
    let (session, early) = (fresh("session"), fresh("early"));
    std::fs::write(&early, EARLY).unwrap();
    let [session, early] = [&session, &early].map(|path| path.to_str().unwrap());
    let client = ["-tls1_3", "-groups", "X25519:P-384"];
    let (first_server, address, output) = openssl_server_with(&["-tls1_3", "-early_data"]);
    let told = || {
        LINES
            .iter()
            .map(|line| Say::Told(line, &output))
            .collect::<Vec<_>>()
    };
    openssl_client(
        &Proxy::to(address),
        &[&client[..], &["-sess_out", session]].concat(),
        &told(),
    );
    let client = [&client[..], &["-sess_in", session, "-early_data", early]].concat();
    if server.is_empty() {
        let proxy = Proxy::to(address);
        let secrets = openssl_client(&proxy, &client, &told());
        return Recording {
            chunks: proxy.chunks(0),
            secrets,
        };
    }
    drop(first_server);
    let (_server, address) = openssl_server(server);
    let proxy = Proxy::to(address);
    let secrets = openssl_client(&proxy, &client, &lines());
    Recording {
        chunks: proxy.chunks(0),
        secrets,
    }
}

#[test]
fn early_data_is_counted_as_unread() {
    let recording = early(&[]);
    let accepted = read(&recording);
    assert_eq!(accepted.unread, ["Sent early_data"]);
    assert_eq!(accepted.sent(), "?".repeat(EARLY.len()) + &joined(&LINES));
    assert_eq!(accepted.facts.counts[0].early, 1);
    assert!(accepted.facts.early_data);

    // Without the handshake's secrets the application's are found all the same.
    let mut bare = recording;
    bare.secrets
        .retain(|(label, ..)| !label.contains("HANDSHAKE"));
    let bare = read(&bare);
    assert_eq!(
        (bare.sent(), bare.unread),
        (joined(&LINES), vec!["Sent early_data".to_owned()])
    );
}

#[test]
fn refused_early_data_is_skipped() {
    // Another server does not know the ticket; one with another group asks for another hello first.
    for (server, retried) in [
        (&["-tls1_3"][..], false),
        (&["-tls1_3", "-groups", "P-384"], true),
    ] {
        let recording = early(server);
        for first in [Direction::Sent, Direction::Received] {
            let mut replay = Replay::new();
            replay.learn(&recording);
            for direction in [first, first.opposite()] {
                replay.data(direction, &recording.stream(direction));
            }
            let read = replay.close();
            check_lines(&read);
            assert_eq!(
                (read.facts.counts[0].early, read.facts.retried),
                (1, retried)
            );
        }
    }
}

#[test]
fn suites_and_versions_that_are_not_read_are_named() {
    let low = ["-cipher", "ALL:@SECLEVEL=0"];
    let rows: [(&[&str], &[&str], &str); 4] = [
        (
            &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"],
            &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"],
            "suite_unsupported (TLS_AES_128_CCM_SHA256)",
        ),
        (
            &["-tls1_2"],
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"],
            "suite_unsupported (TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA)",
        ),
        (
            &[&["-tls1_1"][..], &low].concat(),
            &[&["-tls1_1"][..], &low].concat(),
            "version_unsupported (0x0302)",
        ),
        (
            &[&["-tls1"][..], &low].concat(),
            &[&["-tls1"][..], &low].concat(),
            "version_unsupported (0x0301)",
        ),
    ];
    for (server, client, expected) in rows {
        let read = read(&openssl(server, client, &lines()));
        assert_eq!(
            (read.unread, read.text),
            (vec![expected.to_owned()], [vec![], vec![]])
        );
    }
}

#[test]
fn renegotiation_is_reported() {
    let arguments = ["-tls1_2"];
    let conversation = [
        Say::Line(LINES[0]),
        Say::Command("R", "RENEGOTIATING"),
        Say::Line(LINES[1]),
    ];
    let read = read(&openssl(
        &["-tls1_2", "-client_renegotiation"],
        &arguments,
        &conversation,
    ));
    assert_eq!(read.sent(), joined(&LINES[..1]));
    assert_eq!(read.received(), reversed(&LINES[..1]));
    assert_eq!(read.unread.len(), 2, "{:?}", read.unread);
    assert!(
        read.unread
            .iter()
            .all(|reason| reason.ends_with("renegotiation")),
        "{:?}",
        read.unread
    );
}

/// A recording for tests that only need some connection: made once each.
pub fn sample(number: usize) -> &'static Recording {
    static SAMPLES: [OnceLock<Recording>; 6] = [const { OnceLock::new() }; 6];
    SAMPLES[number].get_or_init(|| match number {
        0..3 => openssl_13(SUITES_13[number]),
        _ => openssl_12(SUITES_12[number - 3]),
    })
}

#[test]
fn every_split_gives_the_same() {
    for number in 0..6 {
        let recording = sample(number);
        let longest = Direction::Received;
        // One of each version at every byte, the others at some.
        let step = if number % 3 == 0 { 1 } else { 7 };
        for split in (0..recording
            .stream(longest)
            .len()
            .max(recording.stream(Direction::Sent).len()))
            .step_by(step)
        {
            let mut replay = Replay::new();
            replay.learn(recording);
            for direction in [Direction::Sent, Direction::Received] {
                let stream = recording.stream(direction);
                let (left, right) = stream.split_at(split.min(stream.len()));
                replay.data(direction, left);
                replay.data(direction, right);
            }
            check_lines(&replay.close());
        }
    }
}

#[test]
fn byte_by_byte_and_either_direction_first() {
    for number in 0..6 {
        let recording = sample(number);
        for order in [
            [Direction::Sent, Direction::Received],
            [Direction::Received, Direction::Sent],
        ] {
            let mut replay = Replay::new();
            replay.learn(recording);
            for direction in order {
                for byte in recording.stream(direction) {
                    replay.data(direction, &[byte]);
                }
            }
            check_lines(&replay.close());
        }
    }
}

/// A server and its client in one program; the client sends a large body twice on one connection.
const UPLOAD: &str = r#"
import socket, ssl, sys, threading
log, version = sys.argv[1], getattr(ssl.TLSVersion, sys.argv[2])
body = bytes(97 + i // 5 % 26 for i in range(300_000))
def context(purpose):
    made = ssl.SSLContext(purpose)
    made.minimum_version = made.maximum_version = version
    made.set_alpn_protocols(["http/1.1"])
    return made
def serve(listener, made):
    plain, _ = listener.accept()
    with made.wrap_socket(plain, server_side=True) as peer:
        for _ in range(2):
            left = len(body)
            while left:
                left -= len(peer.recv(left))
            peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
        peer.recv(1)
server, client = context(ssl.PROTOCOL_TLS_SERVER), context(ssl.PROTOCOL_TLS_CLIENT)
server.load_cert_chain("cert.pem", "key.pem")
client.load_verify_locations("cert.pem")
client.keylog_filename = log
client.check_hostname = False
listener = socket.create_server(("127.0.0.1", 0))
thread = threading.Thread(target=serve, args=(listener, server))
thread.start()
print("port", listener.getsockname()[1], flush=True)
with socket.create_connection(("127.0.0.1", int(sys.stdin.readline()))) as plain:
    with client.wrap_socket(plain, server_hostname="upload.example") as peer:
        for _ in range(2):
            peer.sendall(body)
            assert peer.recv(100).startswith(b"HTTP/1.1 204")
thread.join()
"#;

#[test]
fn python_uploads_are_read() {
    for (version, wire) in [("TLSv1_3", 0x0304), ("TLSv1_2", 0x0303)] {
        let read = read(&python(UPLOAD, &[version]));
        let body: Vec<u8> = (0..300_000).map(|at| b'a' + (at / 5 % 26) as u8).collect();
        assert_eq!(read.unread, Vec::<String>::new());
        assert!(read.text[0] == [&body[..], &body].concat());
        assert_eq!(read.received(), "HTTP/1.1 204 No Content\r\n\r\n".repeat(2));
        let facts = read.facts;
        assert_eq!(
            (facts.version, facts.alpn.as_deref()),
            (Some(wire), Some("http/1.1"))
        );
        assert_eq!(facts.sni.as_deref(), Some("upload.example"));
    }
}
