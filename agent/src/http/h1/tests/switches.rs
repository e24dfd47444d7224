//! Where HTTP/1 ends or never was: tunnels, upgrades, TLS, HTTP/2, PROXY headers.

use super::*;

#[test]
fn connect() {
    play([
        sent("CONNECT a.example:443 HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n"),
        received("HTTP/1.1 200 Connection established\r\nContent-Length: 5\r\n\r\n"),
        sent("\x16\x03\x01hello"),
        received("\x16\x03\x03there"),
        gap(Sent, 7),
        sent("x"),
    ])
    .gives_in_any_order(&[
        "Sent CONNECT a.example:443 proxy-authorization=Basic eDp5 . => 200 .",
        "switched Tunnel",
        "inner Sent \\x16\\x03\\x01hello<7>x",
        "inner Received \\x16\\x03\\x03there",
    ]);
}

#[test]
fn connect_at_once_with_what_follows() {
    play([
        sent("CONNECT a:1 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    ])
    .gives_in_any_order(&[
        "Sent CONNECT a:1 . => 200 .",
        "switched Tunnel",
        "inner Sent GET / HTTP/1.1\\r\\n\\r\\n",
        "inner Received HTTP/1.1 200 OK\\r\\n\\r\\n",
    ]);
}

#[test]
fn connect_refused_once() {
    play([
        sent("CONNECT a:1 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 407 Auth\r\nContent-Length: 2\r\n\r\nno"),
        sent("CONNECT a:1 HTTP/1.1\r\nProxy-Authorization: Basic eDp5\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\n\r\n"),
        sent("x"),
    ])
    .gives_in_any_order(&[
        "Sent CONNECT a:1 . => 407 no.",
        "Sent CONNECT a:1 proxy-authorization=Basic eDp5 . => 200 .",
        "switched Tunnel",
        "inner Sent x",
    ]);
}

#[test]
fn upgrades() {
    for (name, switch) in [
        ("h2c", "H2c(Sent)"),
        ("WebSocket", "WebSocket"),
        ("TLS/1.0", "OtherUpgrade"),
    ] {
        let talk = play([
            sent(format!("GET / HTTP/1.1\r\nUpgrade: {name}\r\n\r\n")),
            received(format!(
                "HTTP/1.1 101 Switching\r\nUpgrade: {name}\r\n\r\n\0\x01"
            )),
            sent("\x02\x03"),
        ]);
        let expected = [
            format!("Sent GET / upgrade={name} . => 101 upgrade={name} ."),
            format!("switched {switch}"),
            "inner Sent \\x02\\x03".to_owned(),
            "inner Received \\x00\\x01".to_owned(),
        ];
        talk.gives_in_any_order(&expected.each_ref().map(String::as_str));
    }
}

#[test]
fn upgrade_declined() {
    play([
        sent("POST /1 HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ny"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ])
    .gives_in_any_order(&[
        "Sent POST /1 upgrade=h2c x. => 200 y.",
        "Sent GET /2 . => 200 .",
    ]);
}

#[test]
fn switched_before_the_request_ended() {
    play([
        sent("POST / HTTP/1.1\r\nUpgrade: x\r\nContent-Length: 4\r\n\r\nab"),
        received("HTTP/1.1 101 Switching\r\n\r\n"),
        sent("cdinner"),
    ])
    .gives(&[
        "Sent POST / upgrade=x ab… => 101 .",
        "switched OtherUpgrade",
        "inner Sent inner",
    ]);
}

#[test]
fn unanswered_connect_holds_a_bounded_amount() {
    let limits = Limits {
        held: 4000,
        ..Limits::default()
    };
    let talk = play([
        sent("CONNECT a:1 HTTP/1.1\r\n\r\n"),
        sent([0; 3000]),
        sent([0; 3000]),
    ])
    .limits(limits);
    talk.gives(&["unread OverLimit", "Sent CONNECT a:1 . => Unfinished"]);
}

#[test]
fn lost_answer_to_connect() {
    let talk = play([
        sent("CONNECT a:1 HTTP/1.1\r\n\r\n"),
        gap(Received, 100),
        sent("\x16\x03\x01\0\x05hello"),
    ]);
    talk.gives(&["unread FramingLost", "Sent CONNECT a:1 . => ResponseLost"]);
}

#[test]
fn tls_from_the_start() {
    play([
        sent("\x16\x03\x01\x02\0hello"),
        received("\x16\x03\x03\0\0there"),
    ])
    .gives(&[
        "switched Tls",
        "inner Sent \\x16\\x03\\x01\\x02\\x00hello",
        "inner Received \\x16\\x03\\x03\\x00\\x00there",
    ]);
}

#[test]
fn tls_joined_late() {
    let talk = play([
        received("\x17\x03\x03\0\x05there"),
        sent("\x17\x03\x03\0\x05hello"),
    ])
    .late();
    let got = talk.run(talk.pieces(|_, _| vec![]));
    assert_eq!(
        got,
        [
            "switched Tls",
            "inner Sent \\x17\\x03\\x03\\x00\\x05hello",
            "inner Received \\x17\\x03\\x03\\x00\\x05there"
        ]
    );
}

#[test]
fn http2() {
    play([
        sent("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        received("\0\0\0\x04\0\0\0\0\0"),
    ])
    .gives(&[
        "switched Http2 { client: Sent, from_start: [true, true] }",
        r"inner Sent PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        r"inner Received \x00\x00\x00\x04\x00\x00\x00\x00\x00",
    ]);
}

#[test]
fn proxy_header() {
    play([
        sent("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET / HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 204 No\r\n\r\n"),
    ])
    .gives_in_any_order(&["Sent GET / . => 204 . for 192.0.2.1:56324 v1"]);
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x01\xc6\x33\x64\x07\xdc\x04\x01\xbb\x04\0\x01\0".to_vec();
    v2.extend(b"GET / HTTP/1.1\r\n\r\n");
    play([sent(v2), received("HTTP/1.1 204 No\r\n\r\n")])
        .gives_in_any_order(&["Sent GET / . => 204 . for 192.0.2.1:56324 v2"]);
}

#[test]
fn proxy_header_before_tls() {
    play([
        sent("PROXY UNKNOWN\r\n\x16\x03\x01\0\x05hello"),
        received("\x16\x03\x03\0\x05there"),
    ])
    .gives(&[
        "switched Tls",
        "inner Sent \\x16\\x03\\x01\\x00\\x05hello",
        "inner Received \\x16\\x03\\x03\\x00\\x05there",
    ]);
    play([sent("PROXY TCP4 nonsense\r\n")]).gives(&["unread OpaqueProtocol"]);
    play([sent("PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n")]).gives(&["unread OpaqueProtocol"]);
}

#[test]
fn origins_within_records() {
    let start = Start {
        layer: Layer::Record,
        from_start: true,
        claim: None,
    };
    let mut connection = Connection::new(start, Limits::default());
    let mut out = Vec::new();
    let bytes = Payload::copy_from(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    let origin = Origin {
        wire: 700,
        within: 0,
    };
    connection.push(
        Sent,
        Piece::Data {
            offset: 0,
            time: 1,
            origin,
            bytes,
        },
        &mut out,
    );
    connection.finish(Outcome::Closed, &mut out);
    let origins: Vec<_> = out
        .iter()
        .map(|output| match output {
            Output::Exchange(exchange) => exchange.request.origin,
            _ => panic!("only exchanges"),
        })
        .collect();
    assert_eq!(
        origins,
        [
            origin,
            Origin {
                wire: 700,
                within: 19
            }
        ]
    );
}
