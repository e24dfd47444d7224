//! Gaps, late beginnings, limits, garbage: what is given out, what is counted, and how it gets back in step.

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const NO: &str = "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n";

/// One request or response to a part: `cut` parts cannot begin anything while out of step, so these run whole.
#[track_caller]
fn whole(talk: Play, expected: &[&str]) {
    assert_eq!(talk.run(talk.pieces(|_, _| vec![])), expected);
}

#[test]
fn gap_in_a_body_of_known_length() {
    play([
        sent("POST /1 HTTP/1.1\r\nContent-Length: 8\r\n\r\nab"),
        gap(Sent, 4),
        sent("gh"),
        received("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nx"),
        gap(Received, 5),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received(OK),
    ])
    .gives_in_any_order(&["Sent POST /1 ab… => 200 x…", "Sent GET /2 . => 200 ."]);
}

#[test]
fn gap_within_a_chunk() {
    play([
        sent("POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nab"),
        gap(Sent, 4),
        sent("gh\r\n0\r\n\r\n"),
        received(OK),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received(NO),
    ])
    .gives_in_any_order(&["Sent POST /1 ab… => 200 .", "Sent GET /2 . => 404 ."]);
}

#[test]
fn gap_over_chunks() {
    let talk = play([
        sent("POST /1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab"),
        gap(Sent, 40),
        // Within the body: not to be taken for a request.
        sent("GET /evil HTTP/1.1\r\n\r\n"),
        received("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab"),
        gap(Received, 40),
        received("HTTP/1.1 500 Evil\r\n\r\n"),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received(NO),
    ]);
    let expected = [
        "unread FramingLost",
        "unread FramingLost",
        "Sent POST /1 ab… => 200 ab…",
        "unread ResponseWithoutRequest",
        "Sent GET /2 . => 404 .",
    ];
    whole(talk, &expected);
}

#[test]
fn gap_in_a_response_head() {
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            received("HTTP/1.1 200 OK\r\nContent-"),
            gap(Received, 50),
            received("body"),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received(NO),
        ]),
        &["Sent GET /1 . => ResponseLost", "Sent GET /2 . => 404 ."],
    );
}

#[test]
fn gap_instead_of_a_response() {
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            gap(Received, 50),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received(NO),
        ]),
        &["Sent GET /1 . => ResponseLost", "Sent GET /2 . => 404 ."],
    );
}

#[test]
fn pipelined_responses_after_a_gap_are_not_guessed() {
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\n"),
            gap(Received, 50),
            received(NO),
            sent("GET /4 HTTP/1.1\r\n\r\n"),
            received(OK),
        ]),
        &[
            "Sent GET /1 . => ResponseLost",
            "Sent GET /2 . => ResponseLost",
            "Sent GET /3 . => ResponseLost",
            "Sent GET /4 . => 200 .",
        ],
    );
}

#[test]
fn gap_in_a_request_head() {
    whole(
        play([
            sent("GET /1 HT"),
            gap(Sent, 40),
            received(OK),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received(NO),
            sent("GET /3 HTTP/1.1\r\n\r\n"),
            received(OK),
        ]),
        &[
            "unread RequestLost",
            "Sent GET /2 . => 404 .",
            "Sent GET /3 . => 200 .",
        ],
    );
}

#[test]
fn gap_instead_of_a_request() {
    let parts = [
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received(OK),
        received(NO),
        gap(Sent, 40),
        sent("GET /3 HTTP/1.1\r\n\r\n"),
        received(OK),
    ];
    // The lost request's answer came before the gap was found, as it does when the next chunk shows it.
    let expected = [
        "Sent GET /1 . => 200 .",
        "unread RequestLost",
        "Sent GET /3 . => 200 .",
    ];
    whole(play(parts), &expected);
}

#[test]
fn pipelined_request_after_a_gap_is_not_guessed() {
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            received(OK),
            gap(Sent, 40),
            sent("GET /3 HTTP/1.1\r\n\r\n"),
            received(NO),
            received(OK),
        ]),
        &[
            "Sent GET /1 . => 200 .",
            "unread RequestLost",
            "Sent GET /3 . => ResponseLost",
            "unread ResponseWithoutRequest",
        ],
    );
}

#[test]
fn joined_late() {
    whole(
        play([
            received("end of a body"),
            received(OK),
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            received(NO),
            sent("POST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"),
            received(OK),
        ])
        .late(),
        &[
            "unread ResponseWithoutRequest",
            "Sent GET /1 . => 404 .",
            "Sent POST /2 hi. => 200 .",
        ],
    );
}

#[test]
fn joined_late_byte_by_byte() {
    let talk = play([
        sent("}GPOST /2 HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"),
        received(OK),
        sent("GET /3 HTTP/1.1\r\n\r\n"),
        received(NO),
    ])
    .late();
    let got = talk.run(talk.pieces(|_, len| (1..len).collect()));
    assert_eq!(got, ["Sent POST /2 hi. => 200 .", "Sent GET /3 . => 404 ."]);
}

#[test]
fn joined_before_the_first_bytes() {
    whole(
        play([gap(Sent, 10), sent("GET / HTTP/1.1\r\n\r\n"), received(OK)]),
        &["unread RequestLost", "Sent GET / . => 200 ."],
    );
}

#[test]
fn joined_late_and_never_http() {
    whole(
        play([sent("abc"), received("def"), sent("ghi")]).late(),
        &["unread OpaqueProtocol"],
    );
    whole(play([]).late(), &[]);
}

#[test]
fn jumps_and_overlaps() {
    let data = |offset: u64, bytes: &str| Piece::Data {
        offset,
        time: 1,
        origin: Origin {
            wire: offset,
            within: 0,
        },
        bytes: Payload::copy_from(bytes.as_bytes()),
    };
    let run = |pieces: Vec<(Direction, Piece)>| {
        let mut connection = Connection::new(START, Limits::default());
        let mut out = Vec::new();
        for (direction, piece) in pieces {
            connection.push(direction, piece, &mut out);
        }
        connection.finish(Outcome::Closed, &mut out);
        render(out)
    };
    let overlapping = vec![
        (
            Sent,
            data(0, "POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nab"),
        ),
        (Sent, data(0, "POST / ")),
        (Sent, data(38, "abcd")),
        (Sent, data(42, "ef")),
        (Received, data(0, OK)),
    ];
    assert_eq!(run(overlapping), ["Sent POST / abcdef. => 200 ."]);
    let jumping = vec![
        (
            Sent,
            data(0, "POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\nab"),
        ),
        (Sent, data(43, "f")),
        (Received, data(0, OK)),
    ];
    assert_eq!(run(jumping), ["Sent POST / ab… => 200 ."]);
}

#[test]
fn heads_over_the_limits() {
    let limits = Limits {
        head: 100,
        fields: 3,
        ..Limits::default()
    };
    let long = format!("GET /1 HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100));
    let many = "GET /2 HTTP/1.1\r\na: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\n\r\n";
    let next = [received(OK), sent("GET /3 HTTP/1.1\r\n\r\n"), received(NO)];
    for (head, reason) in [(long.as_str(), "HeadTooLong"), (many, "TooManyFields")] {
        let talk = play([vec![sent(head)], next.to_vec()].concat()).limits(limits);
        let expected = [
            format!("unread {reason}"),
            "Sent GET /3 . => 404 .".to_owned(),
        ];
        for cut in [0, 1, head.len() / 2, head.len() - 1] {
            let got = talk.run(talk.pieces(|part, _| {
                if part == 0 && cut > 0 {
                    vec![cut]
                } else {
                    vec![]
                }
            }));
            assert_eq!(got, expected, "cut at {cut}");
        }
    }
    let lost = play([
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100))),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received(NO),
    ]);
    whole(
        lost.limits(limits),
        &[
            "unread HeadTooLong",
            "Sent GET /1 . => ResponseLost",
            "Sent GET /2 . => 404 .",
        ],
    );
}

#[test]
fn exactly_at_the_limits() {
    let head = format!("GET /1 HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(76));
    let limits = Limits {
        head: head.len(),
        fields: 1,
        ..Limits::default()
    };
    let expected = format!("Sent GET /1 a={} . => Closed", "x".repeat(76));
    play([sent(&head)]).limits(limits).gives(&[&expected]);
    let under = Limits {
        head: head.len() - 1,
        ..limits
    };
    play([sent(&head)])
        .limits(under)
        .gives(&["unread HeadTooLong"]);
}

#[test]
fn a_head_of_64_kib_in_single_bytes() {
    let mut head = b"GET /1 HTTP/1.1\r\n".to_vec();
    while head.len() < 64 * 1024 - 100 {
        head.extend(
            b"Cookie: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
        );
    }
    head.extend(b"\r\n");
    let talk = play([sent(&head), received(OK)]).limits(Limits {
        fields: 2000,
        ..Limits::default()
    });
    let got = talk.run(talk.pieces(|_, len| (1..len).collect()));
    assert!(
        got.len() == 1 && got[0].ends_with(" . => 200 ."),
        "{} outputs",
        got.len()
    );
}

#[test]
fn too_many_outstanding() {
    let limits = Limits {
        outstanding: 2,
        ..Limits::default()
    };
    play([
        sent("GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\n\r\nGET /4 HTTP/1.1\r\n\r\n"),
        received(OK),
        sent("POST /5 HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"),
        received(OK),
    ])
    .limits(limits)
    .gives(&[
        "unread TooManyOutstanding",
        "Sent GET /1 . => Unfinished",
        "Sent GET /2 . => Unfinished",
        "Sent GET /3 . => Unfinished",
        "Sent GET /4 . => Unfinished",
        "Sent POST /5 x. => Unfinished",
    ]);
}

#[test]
fn over_the_queued_bytes_the_oldest_go_first() {
    let big = format!(
        "POST /1 HTTP/1.1\r\nContent-Length: 9000\r\n\r\n{}",
        "x".repeat(9000)
    );
    let talk = play([
        sent(&big),
        sent("GET /2 HTTP/1.1\r\n\r\n"),
        received(OK),
        received(NO),
    ]);
    let talk = talk.limits(Limits {
        queued: 9000,
        ..Limits::default()
    });
    let got = talk.run(talk.pieces(|_, _| vec![]));
    assert_eq!(got.len(), 2);
    assert!(got[0].starts_with("Sent POST /1 x") && got[0].ends_with("=> Unfinished"));
    assert_eq!(got[1], "Sent GET /2 . => 404 .");
}

#[test]
fn responses_without_end_before_any_request() {
    let limits = Limits {
        held: 1000,
        ..Limits::default()
    };
    let mut connection = Connection::new(START, limits);
    let mut out = Vec::new();
    for at in 0..100 {
        let origin = Origin {
            wire: at * 38,
            within: 0,
        };
        let piece = Piece::Data {
            offset: at * 38,
            time: 1,
            origin,
            bytes: Payload::copy_from(OK.as_bytes()),
        };
        connection.push(Received, piece, &mut out);
    }
    connection.finish(Outcome::Closed, &mut out);
    assert!(render(out).iter().all(|line| line.starts_with("unread")));
}

#[test]
fn contradictory_lengths() {
    whole(
        play([
            sent("POST /1 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
            received(OK),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received("HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\nyy"),
            sent("GET /3 HTTP/1.1\r\n\r\n"),
            received(NO),
        ]),
        &[
            "unread FramingLost",
            "Sent POST /1 … => 200 .",
            "unread FramingLost",
            "Sent GET /2 . => 200 …",
            "Sent GET /3 . => 404 .",
        ],
    );
}

#[test]
fn garbage() {
    play([sent("\0\x01\x02"), received("whatever")]).gives(&["unread OpaqueProtocol"]);
    play([received("220 mail.example ESMTP\r\n"), sent("EHLO x\r\n")])
        .gives(&["unread OpaqueProtocol"]);
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            received("nonsense"),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received(NO),
        ]),
        &[
            "unread Malformed",
            "Sent GET /1 . => ResponseLost",
            "Sent GET /2 . => 404 .",
        ],
    );
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            received(OK),
            sent("{garbage}"),
            received(NO),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received(OK),
        ]),
        &[
            "Sent GET /1 . => 200 .",
            "unread Malformed",
            "Sent GET /2 . => 200 .",
        ],
    );
}

#[test]
fn left_over_after_a_body() {
    whole(
        play([
            sent("GET /1 HTTP/1.1\r\n\r\n"),
            received(format!("{OK}more than was said")),
            sent("GET /2 HTTP/1.1\r\n\r\n"),
            received(NO),
        ]),
        &[
            "Sent GET /1 . => 200 .",
            "unread Malformed",
            "Sent GET /2 . => 404 .",
        ],
    );
}

/// The answer to a request whose own is lost, as that to the next one, which was not seen.
#[test]
fn an_answer_behind_a_gap_is_not_another_requests() {
    let talk = play([
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received(OK),
        gap(Sent, 40),
        received(OK),
        sent("GET /3 HTTP/1.1\r\n\r\n"),
        gap(Received, 40),
        // Of the fourth.
        received(NO),
        gap(Sent, 40),
        sent("GET /5 HTTP/1.1\r\n\r\n"),
        // Of the fourth or the fifth.
        received(OK),
        sent("GET /6 HTTP/1.1\r\n\r\n"),
        received(NO),
    ]);
    let expected = [
        "Sent GET /1 . => 200 .",
        "unread RequestLost",
        "Sent GET /3 . => ResponseLost",
        "unread RequestLost",
        "Sent GET /5 . => ResponseLost",
        "Sent GET /6 . => 404 .",
    ];
    whole(talk, &expected);
}

/// Both directions begin with a hole, and the answer is known before its request.
#[test]
fn an_answer_that_was_dropped_is_not_replaced_by_the_next() {
    let talk = play([
        gap(Sent, 40),
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        gap(Received, 40),
        received(OK),
        // Of the second request, which is lost.
        received(NO),
    ]);
    let mut pieces = talk.pieces(|_, _| vec![]);
    pieces[..4].rotate_left(2);
    let expected = [
        "unread ResponseWithoutRequest",
        "unread RequestLost",
        "Sent GET /1 . => ResponseLost",
    ];
    assert_eq!(talk.run(pieces), expected);
}

/// What is taken for a lost request's answer may be that of the next one, which comes out of its hole later.
#[test]
fn an_answer_to_a_lost_request_may_be_that_of_the_next() {
    let talk = play([
        sent("GET /1 HTTP/1.1\r\n\r\n"),
        received(OK),
        gap(Sent, 40),
        sent("GET /3 HTTP/1.1\r\n\r\n"),
        gap(Received, 80),
        // Of the fourth, which is lost, and so on.
        received(OK),
        gap(Sent, 40),
        sent("GET /5 HTTP/1.1\r\n\r\n"),
        received(OK),
        sent("GET /6 HTTP/1.1\r\n\r\n"),
        received(NO),
        sent("GET /7 HTTP/1.1\r\n\r\n"),
        received(OK),
        sent("GET /8 HTTP/1.1\r\n\r\n"),
        received(NO),
    ]);
    let mut pieces = talk.pieces(|_, _| vec![]);
    // The hole is given up when all three answers are there.
    let (waiting, answers): (Vec<_>, Vec<_>) = pieces
        .splice(6..11, [])
        .partition(|(direction, _)| *direction == Sent);
    pieces.splice(6..6, answers.into_iter().chain(waiting));
    let expected = [
        "Sent GET /1 . => 200 .",
        "unread RequestLost",
        "Sent GET /3 . => ResponseLost",
        "unread RequestLost",
        "Sent GET /5 . => ResponseLost",
        "Sent GET /6 . => ResponseLost",
        "Sent GET /7 . => ResponseLost",
        "Sent GET /8 . => 404 .",
    ];
    assert_eq!(talk.run(pieces), expected);
}
