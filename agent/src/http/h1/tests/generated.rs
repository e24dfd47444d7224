//! Random valid conversations come back as they were said, however they are cut and in whatever order the directions
//! are pushed.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[derive(Clone, Debug)]
struct Said {
    method: &'static str,
    request_body: Body,
    status: u16,
    interim: bool,
    response_body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
}

impl Body {
    fn content(&self) -> Vec<u8> {
        match self {
            Self::None => vec![],
            Self::Length(bytes) => bytes.clone(),
            Self::Chunked(chunks) => chunks.concat(),
        }
    }

    /// Header field, blank line, body on the wire.
    fn on_wire(&self, without_body: bool) -> Vec<u8> {
        let (field, body) = match self {
            Self::None => (String::new(), vec![]),
            Self::Length(bytes) => (
                format!("Content-Length: {}\r\n", bytes.len()),
                bytes.clone(),
            ),
            Self::Chunked(chunks) => {
                let mut wire = Vec::new();
                for chunk in chunks {
                    wire.extend(format!("{:X};e=1\r\n", chunk.len()).bytes());
                    wire.extend(chunk);
                    wire.extend(b"\r\n");
                }
                wire.extend(b"0\r\nTrailer: x\r\n\r\n");
                ("Transfer-Encoding: chunked\r\n".to_owned(), wire)
            }
        };
        let body = if without_body { vec![] } else { body };
        [field.into_bytes(), b"\r\n".to_vec(), body].concat()
    }
}

fn body(none: bool) -> impl Strategy<Value = Body> {
    // Bodies that look like heads are the hard ones.
    let bytes = prop_oneof![
        vec(any::<u8>(), 1..20),
        Just(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        Just(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
    ];
    let length = prop_oneof![Just(vec![]), bytes.clone()].prop_map(Body::Length);
    let chunked = vec(bytes, 0..4).prop_map(Body::Chunked);
    if none {
        prop_oneof![Just(Body::None), length, chunked].boxed()
    } else {
        prop_oneof![length, chunked].boxed()
    }
}

fn said() -> impl Strategy<Value = Said> {
    let method = proptest::sample::select(&["GET", "POST", "HEAD", "FROB", "DELETE"][..]);
    let status = proptest::sample::select(&[200_u16, 201, 204, 304, 404, 500][..]);
    (method, body(true), status, any::<bool>(), body(false)).prop_map(
        |(method, request_body, status, interim, response_body)| Said {
            method,
            request_body,
            status,
            interim,
            response_body,
        },
    )
}

impl Said {
    fn has_response_body(&self) -> bool {
        self.method != "HEAD" && self.status != 204 && self.status != 304
    }

    fn request(&self, at: usize) -> Vec<u8> {
        let head = format!("{} /{at} HTTP/1.1\r\nHost: h\r\n", self.method);
        [head.into_bytes(), self.request_body.on_wire(false)].concat()
    }

    fn response(&self) -> Vec<u8> {
        let interim = if self.interim {
            "HTTP/1.1 100 Continue\r\n\r\n"
        } else {
            ""
        };
        let head = format!("{interim}HTTP/1.1 {} Reason\r\n", self.status);
        [
            head.into_bytes(),
            self.response_body.on_wire(!self.has_response_body()),
        ]
        .concat()
    }

    fn expected(&self, at: usize) -> String {
        let response = if self.has_response_body() {
            self.response_body.content()
        } else {
            vec![]
        };
        let request = self.request_body.content();
        let (request, response) = (request.escape_ascii(), response.escape_ascii());
        format!(
            "Sent {} /{at} host=h {request}. => {} {response}.",
            self.method, self.status
        )
    }
}

/// Cuts a direction's pieces at random places, and interleaves the directions so that each request's first byte still
/// comes before its response's.
fn shuffled(talk: &Play, cuts: &[Index], order: &[bool]) -> Vec<(Direction, Piece)> {
    let pieces = talk.pieces(|part, len| {
        let mut places: Vec<usize> = cuts
            .iter()
            .skip(part % cuts.len())
            .step_by(3)
            .map(|cut| cut.index(len.max(1)))
            .filter(|at| *at > 0)
            .collect();
        places.sort_unstable();
        places.dedup();
        places
    });
    let (requests, responses): (Vec<_>, Vec<_>) = pieces
        .into_iter()
        .partition(|(direction, _)| *direction == Sent);
    let (mut requests, mut responses) = (
        requests.into_iter().peekable(),
        responses.into_iter().peekable(),
    );
    let mut order = order.iter().cycle();
    let mut merged = Vec::new();
    while requests.peek().is_some() || responses.peek().is_some() {
        let first = if *order.next().unwrap() {
            &mut requests
        } else {
            &mut responses
        };
        merged.extend(first.next());
    }
    merged
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn round_trip(
        talk in vec(said(), 1..6),
        pipelined in any::<bool>(),
        cuts in vec(any::<Index>(), 1..12),
        order in vec(any::<bool>(), 1..12),
    ) {
        let mut parts = Vec::new();
        for (at, said) in talk.iter().enumerate() {
            parts.push(sent(said.request(at)));
            if !pipelined {
                parts.push(received(said.response()));
            }
        }
        if pipelined {
            parts.push(received(talk.iter().map(Said::response).collect::<Vec<_>>().concat()));
        }
        let expected: Vec<String> = talk.iter().enumerate().map(|(at, said)| said.expected(at)).collect();
        let play = play(parts);
        prop_assert_eq!(&play.run(play.pieces(|_, len| (1..len).collect())), &expected, "byte by byte");
        let order = if order.contains(&true) && order.contains(&false) { order } else { vec![true, false] };
        let got = play.run(shuffled(&play, &cuts, &order));
        if pipelined {
            prop_assert_eq!(&got, &expected, "shuffled");
        } else {
            // Pushed out of order, the next request may cut the wait for a body short; nothing else may differ.
            prop_assert_eq!(got.len(), expected.len());
            for (got, expected) in got.iter().zip(&expected) {
                let cut_short = got.strip_suffix('…').is_some_and(|start| expected.starts_with(start));
                prop_assert!(got == expected || cut_short, "shuffled: {} for {}", got, expected);
            }
        }
    }
}

proptest! {
    /// Any bytes and gaps in any order: nothing panics, nothing comes after the end, memory stays bounded.
    #[test]
    fn any_pieces(bytes in vec(any::<u8>(), 0..400)) {
        crate::http::fuzz::connection(&bytes);
    }
}
