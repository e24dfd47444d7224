//! Nothing is lost: pairing, framing, odd but real syntax.

use super::*;

#[test]
fn one_exchange() {
    play([
        sent("GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ])
    .gives_in_any_order(&["Sent GET /a?b=c host=h . => 200 ok."]);
}

#[test]
fn the_observed_process_is_the_server() {
    play([
        received("GET / HTTP/1.0\r\n\r\n"),
        sent("HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    ])
    .gives_in_any_order(&["Received GET / . => 404 ."]);
}

#[test]
fn keep_alive() {
    play([
        sent("POST /1 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        sent("HEAD /3 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        sent("DELETE /4 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 204 No Content\r\n\r\n"),
    ])
    .gives_in_any_order(&[
        "Sent POST /1 abc. => 200 x.",
        "Sent GET /2 . => 304 .",
        "Sent HEAD /3 . => 200 .",
        "Sent DELETE /4 . => 204 .",
    ]);
}

#[test]
fn pipelined() {
    play([
        sent("GET /1 HTTP/1.1\r\n\r\nHEAD /2 HTTP/1.1\r\n\r\nPOST /3 HTTP/1.1\r\nContent-Length: 1\r\n\r\n3"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        received("HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\n3"),
    ])
    .gives_in_any_order(&[
        "Sent GET /1 . => 200 1.",
        "Sent HEAD /2 . => 200 .",
        "Sent POST /3 3. => 201 3.",
    ]);
}

#[test]
fn chunked() {
    play([
        sent("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ])
    .gives_in_any_order(&["Sent POST / abcde. => 200 hello.", "Sent GET /2 . => 200 ."]);
}

#[test]
fn until_close() {
    play([
        sent("GET / HTTP/1.0\r\n\r\n"),
        received("HTTP/1.0 200 OK\r\n\r\nall of it"),
    ])
    .gives_in_any_order(&["Sent GET / . => 200 all of it."]);
    let mut stopped = play([
        sent("GET / HTTP/1.0\r\n\r\n"),
        received("HTTP/1.0 200 OK\r\n\r\nsome"),
    ]);
    stopped.end = Outcome::Unfinished;
    stopped.gives(&["Sent GET / . => 200 some…"]);
}

#[test]
fn until_close_that_was_not() {
    let talk = play([
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\n\r\nbody"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]);
    let got = talk.run(talk.pieces(|_, _| vec![]));
    assert_eq!(
        got,
        ["Sent GET /1 . => 200 body…", "Sent GET /2 . => 200 ."]
    );
}

#[test]
fn interim_responses() {
    play([
        sent("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"),
        received("HTTP/1.1 100 Continue\r\n\r\n"),
        sent("hi"),
        received("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ])
    .gives_in_any_order(&["Sent POST / expect=100-continue hi. => 200 ."]);
}

#[test]
fn answered_before_the_body_ended() {
    play([
        sent("PUT / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"),
        received("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"),
        sent("cd"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ])
    .gives_in_any_order(&["Sent PUT / abcd. => 413 no.", "Sent GET /2 . => 200 ."]);
}

#[test]
fn no_answer() {
    play([sent("GET / HTTP/1.1\r\n\r\n")]).gives(&["Sent GET / . => Closed"]);
    play([sent(
        "GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\n\r\na",
    )])
    .gives(&["Sent GET / . => Closed", "Sent POST / a… => Closed"]);
    play([sent("GET / HTTP/1.1\r\n\r\n"), received("HTTP/1.1 200 O")])
        .gives(&["Sent GET / . => Closed"]);
    play([sent("GET / HTTP/1.1\r\nHos")]).gives(&["unread HeadIncomplete"]);
}

#[test]
fn odd_but_real() {
    // Bare LF, blank lines before the request, folded lines, blanks before the colon, lower case, bytes over 127, blanks
    // in the target, a line that is no field.
    play([
        sent("\r\n\r\nget /a b HTTP/1.1\nHost : h\nX-Fold: a\n  b\n\tc\nnonsense\nX-B: \u{e9} \r\n\r\n"),
        received("HTTP/1.1 200\r\nX: a\r\n b\r\nContent-Length : 1\r\n\r\nx\r\n"),
        sent("\r\nGET /\u{fc} HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 \u{e9}t\u{e9}\r\nContent-Length:0\r\n\r\n"),
    ])
    .gives_in_any_order(&[
        "Sent get /a b host=h x-fold=a b c x-b=\\xc3\\xa9 . => 200 x=a b x.",
        "Sent GET /\\xc3\\xbc . => 200 .",
    ]);
}

#[test]
fn not_utf8() {
    let mut head = b"GET /".to_vec();
    head.extend(b"\xff\xfe HTTP/1.1\r\nX: \xff\r\n\r\n");
    play([sent(head)]).gives(&["Sent GET /\\xff\\xfe x=\\xff . => Closed"]);
}

#[test]
fn body_prefix() {
    let limits = Limits {
        body_prefix: 4,
        ..Limits::default()
    };
    play([
        sent("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n1234"),
        sent(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        ),
        received(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        ),
    ])
    .limits(limits)
    .gives_in_any_order(&[
        "Sent POST / abcd… => 200 1234.",
        "Sent POST / abcd. => 200 abcd…",
    ]);
}

#[test]
fn given_out_as_soon_as_known() {
    // A response of which only the first part will ever be copied: at the limit, not at the end.
    let limits = Limits {
        body_prefix: 4,
        ..Limits::default()
    };
    let talk = play([
        sent("GET / HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n1234"),
        received("5678"),
    ]);
    let mut connection = Connection::new(START, limits);
    let mut counts = Vec::new();
    for (direction, piece) in talk.pieces(|_, _| vec![]) {
        let mut out = Vec::new();
        connection.push(direction, piece, &mut out);
        counts.push(out.len());
    }
    assert_eq!(counts, [0, 1, 0]);
    assert_eq!(connection.request_direction(), Some(Sent));
}

#[test]
fn next_request_ends_the_wait() {
    let talk = play([
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1234"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        gap(Received, 96),
        received("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ]);
    talk.gives(&["Sent GET /1 . => 200 1234…", "Sent GET /2 . => 200 ."]);
}

#[test]
fn a_quiet_connection_is_small() {
    // Ten thousand of them are to stay within some megabytes.
    assert!(
        size_of::<Connection>() <= 768,
        "{}",
        size_of::<Connection>()
    );
    let talk = play([
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"),
    ]);
    let mut connection = Connection::new(START, Limits::default());
    let mut out = Vec::new();
    for (direction, piece) in talk.pieces(|_, len| (1..len).collect()) {
        connection.push(direction, piece, &mut out);
    }
    assert_eq!((connection.held(), out.len()), (0, 1));
}

#[test]
fn flushed_once() {
    let talk = play([
        sent("GET /events HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\n\r\ndata: 1\n"),
        received("data: 2\n"),
    ]);
    let mut connection = Connection::new(START, Limits::default());
    let mut pieces = talk.pieces(|_, _| vec![]).into_iter();
    let mut out = Vec::new();
    for (direction, piece) in pieces.by_ref().take(2) {
        connection.push(direction, piece, &mut out);
    }
    connection.flush(10, 10, &mut out);
    assert!(out.is_empty(), "younger than the age");
    assert_eq!(connection.waiting_since(), Some(1));
    connection.flush(11, 10, &mut out);
    for (direction, piece) in pieces {
        connection.push(direction, piece, &mut out);
    }
    connection.flush(1000, 10, &mut out);
    connection.finish(Outcome::Closed, &mut out);
    assert_eq!(render(out), ["Sent GET /events . => 200 data: 1\\n…"]);
}

#[test]
fn late_answer_is_not_the_next_one() {
    let talk = play([
        sent("GET /slow HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
    ]);
    let mut connection = Connection::new(START, Limits::default());
    let mut out = Vec::new();
    for (at, (direction, piece)) in talk.pieces(|_, _| vec![]).into_iter().enumerate() {
        connection.push(direction, piece, &mut out);
        if at == 0 {
            connection.flush(1000, 10, &mut out);
        }
    }
    assert_eq!(
        render(out),
        ["Sent GET /slow . => Unfinished", "Sent GET /2 . => 404 ."]
    );
}
