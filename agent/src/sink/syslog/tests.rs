//! Messages by RFC 5424, addresses, and sockets of this process at the other end.

use super::super::batch::{Batch, Outcome, Receiver};
use super::super::samples;
use super::address::Address;
use super::frame::{Framing, Separation};
use super::from_config;
use crate::config;
use bytes::Bytes;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener};

const FRAMING: Framing = Framing {
    facility: 13,
    enterprise: 32_473,
    datagram_bytes: None,
    separation: Separation::None,
};

fn jsons(batch: &Batch) -> Vec<Bytes> {
    batch
        .events
        .iter()
        .map(|event| event.json.clone())
        .collect()
}

fn messages(framing: Framing, batch: &Batch) -> Vec<String> {
    let messages = framing.messages(batch, &jsons(batch)).unwrap();
    messages
        .into_iter()
        .map(|message| String::from_utf8(message).unwrap())
        .collect()
}

fn receiver(address: String) -> impl Receiver {
    from_config(&config::Syslog {
        address: Some(address),
        timeout_seconds: config::Ranged::new(5),
        ..config::Syslog::default()
    })
    .unwrap()
    .unwrap()
}

fn accepted(outcome: &Outcome) {
    assert!(
        matches!(outcome, Outcome::Accepted { rejected: 0, .. }),
        "{outcome:?}"
    );
}

#[test]
fn a_message_has_its_head_and_its_key() {
    let batch = samples::batch(7, 1);
    let messages = messages(FRAMING, &batch);
    let expected = format!(
        "<110>1 2026-09-21T14:13:20.000000Z build-1 tokentrail-agent 1790000000000 usage \
         [tokentrail@32473 agent=\"{}\" epoch=\"1790000000000\" sequence=\"7\" first=\"7\" last=\"22\"] {}",
        samples::AGENT,
        String::from_utf8_lossy(&batch.events[0].json)
    );
    assert_eq!(messages[0], expected);
    // A loss is a warning: 13 * 8 + 4.
    assert!(messages[3].starts_with("<108>1 "), "{}", messages[3]);
    // A host's name with other characters than US-ASCII's.
    assert!(
        messages[15].contains(" h_st_1 tokentrail-agent "),
        "{}",
        messages[15]
    );
    assert!(messages.iter().all(|message| !message.contains('\n')));
}

#[test]
fn what_could_end_a_parameter_is_escaped() {
    let mut batch = samples::batch(1, 1);
    batch.agent = "a\"b]c\\d\n\u{e9}".into();
    let message = &messages(FRAMING, &batch)[0];
    assert!(
        message.contains("agent=\"a\\\"b\\]c\\\\d\u{e9}\" epoch"),
        "{message}"
    );
}

#[test]
fn messages_are_separated_as_the_transport_needs_it() {
    let batch = samples::batch(1, 1);
    let plain = messages(FRAMING, &batch);
    for (separation, first) in [
        (Separation::Newline, format!("{}\n", plain[0])),
        (
            Separation::Counted,
            format!("{} {}", plain[0].len(), plain[0]),
        ),
    ] {
        let framing = Framing {
            separation,
            ..FRAMING
        };
        assert_eq!(messages(framing, &batch)[0], first);
    }
}

#[test]
fn what_is_too_large_for_a_datagram_is_said_before_anything_is_sent() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut syslog = receiver(format!("udp://{}", socket.local_addr().unwrap()));
    let mut batch = samples::small(1, 3);
    batch.events.extend(samples::large(9, 9_000).events);
    let Outcome::TooLarge { reason } = syslog.send(&batch) else {
        panic!("it was taken");
    };
    assert!(reason.contains("event 9 makes a datagram of "), "{reason}");
    assert!(socket.recv(&mut [0; 16]).is_err());
    batch.events.truncate(3);
    accepted(&syslog.send(&batch));
    assert!(socket.recv(&mut [0; 65_536]).is_ok());
}

#[test]
fn datagrams_and_streams_carry_what_was_framed() {
    let batch = samples::small(1, 5);
    let expected = messages(FRAMING, &batch);

    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    accepted(&receiver(format!("udp://{}", udp.local_addr().unwrap())).send(&batch));
    let mut buffer = [0; 65_536];
    for message in &expected {
        let count = udp.recv(&mut buffer).unwrap();
        assert_eq!(&String::from_utf8_lossy(&buffer[..count]), message);
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let datagram = UnixDatagram::bind(&path).unwrap();
    accepted(&receiver(format!("unix:{}", path.display())).send(&batch));
    for message in &expected {
        let count = datagram.recv(&mut buffer).unwrap();
        assert_eq!(&String::from_utf8_lossy(&buffer[..count]), message);
    }

    let path = folder.path().join("stream");
    let listener = UnixListener::bind(&path).unwrap();
    accepted(&receiver(format!("unix-stream:{}", path.display())).send(&batch));
    let mut text = String::new();
    listener
        .accept()
        .unwrap()
        .0
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(
        text,
        expected
            .iter()
            .map(|each| format!("{each}\n"))
            .collect::<String>()
    );

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tcp = receiver(format!("tcp://{}", listener.local_addr().unwrap()));
    accepted(&tcp.send(&batch));
    accepted(&tcp.send(&batch));
    let mut stream = listener.accept().unwrap().0;
    drop(tcp);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let once: String = expected
        .iter()
        .map(|each| format!("{} {each}", each.len()))
        .collect();
    assert_eq!(text, once.repeat(2));
}

#[test]
fn a_closed_connection_is_seen_before_it_is_used_again() {
    let batch = samples::small(1, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut syslog = receiver(format!("tcp://{}", listener.local_addr().unwrap()));
    for _ in 0..3 {
        accepted(&syslog.send(&batch));
        let (mut stream, _) = listener.accept().unwrap();
        let mut one = [0; 1];
        stream.read_exact(&mut one).unwrap();
        // Everything is read, so that it is closed and not reset.
        stream.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
}

#[test]
fn nobody_there_is_tried_again() {
    let batch = samples::small(1, 2);
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for address in [
        format!("tcp://{gone}"),
        format!("tls://{gone}"),
        // That a datagram met nobody is known afterwards.
        format!("udp://{gone}"),
        "unix:/nonexistent/log".to_owned(),
        "unix-stream:/nonexistent/log".to_owned(),
    ] {
        let outcome = receiver(address).send(&batch);
        assert!(
            matches!(outcome, Outcome::Retry { after: None, .. }),
            "{outcome:?}"
        );
    }
}

#[test]
fn addresses_are_read_or_refused() {
    for (text, expected) in [
        (
            "udp://log.example:514",
            Address::Udp {
                host: "log.example".into(),
                port: 514,
            },
        ),
        (
            "tcp://192.0.2.1:601",
            Address::Tcp {
                host: "192.0.2.1".into(),
                port: 601,
            },
        ),
        (
            "tls://[2001:db8::1]:6514",
            Address::Tls {
                host: "2001:db8::1".into(),
                port: 6514,
            },
        ),
        (
            "unix:/dev/log",
            Address::UnixDatagram {
                path: "/dev/log".into(),
            },
        ),
        (
            "unix-stream:/run/s",
            Address::UnixStream {
                path: "/run/s".into(),
            },
        ),
    ] {
        assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
        assert_eq!(expected.to_string(), text);
        for end in 0..text.len() {
            let _ = text[..end].parse::<Address>();
        }
    }
    for wrong in [
        "",
        "log.example:514",
        "udp://",
        "udp://log.example",
        "udp://:514",
        "udp://a:0",
        "udp://a:65536",
        "udp://a b:514",
        "udp://[::1:514",
        "udp://[x]:514",
        "udp://::1:514",
        "http://a:1",
        "unix:",
        "unix:relative",
        "udp://u@a:514",
        "tls://a/b:514",
    ] {
        assert_eq!(wrong.parse::<Address>(), Err(()), "{wrong}");
        let error = from_config(&config::Syslog {
            address: Some(wrong.to_owned()),
            ..config::Syslog::default()
        });
        assert!(error.is_err());
    }
}

#[test]
fn destinations_are_those_of_the_address() {
    for (address, destination) in [
        ("udp://siem:514", Some(("siem", 514))),
        ("tcp://[::1]:601", Some(("::1", 601))),
        ("unix:/dev/log", None),
        ("unix-stream:/run/x", None),
    ] {
        let expected = destination.map(|(host, port)| (host.to_owned(), port));
        assert_eq!(
            receiver(address.to_owned()).destination(),
            expected,
            "{address}"
        );
    }
}
