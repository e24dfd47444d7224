//! The two head readers against each other, and heads at every cut.

use super::super::gather::{Fed, Gather};
use super::super::parse::Head;
use super::super::{Limits, Reason};
use crate::flow::Origin;
use crate::http::head::{Headers, RequestHead, ResponseHead, Version};
use proptest::prelude::*;

const PLACE: (u64, Origin) = (7, Origin { wire: 3, within: 1 });

fn shown(headers: &Headers) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

/// Version, first line's parts, fields.
type Shown = (Version, String, Vec<u8>, Vec<(String, Vec<u8>)>);

fn request(head: &RequestHead) -> Shown {
    assert_eq!((head.time, head.origin), PLACE);
    (
        head.version,
        head.method.clone(),
        head.target.to_vec(),
        shown(&head.headers),
    )
}

fn response(head: &ResponseHead) -> Shown {
    assert_eq!((head.time, head.origin), PLACE);
    (
        head.version,
        head.status.to_string(),
        vec![],
        shown(&head.headers),
    )
}

/// Feeds a head, followed by other bytes, at every cut and byte by byte: always the same.
#[track_caller]
fn every_cut<H: Head>(head: &[u8], show: fn(&H) -> Shown) -> Result<Shown, Reason> {
    let input = [head, b"\r\nbody"].concat();
    let run = |cuts: &[usize]| -> Result<(Shown, usize), Reason> {
        let (mut gather, mut at) = (Gather::default(), 0);
        for end in cuts.iter().copied().chain([input.len()]) {
            // The place given later must not replace that of the first byte.
            let place = if at == 0 {
                PLACE
            } else {
                (
                    99,
                    Origin {
                        wire: 99,
                        within: 99,
                    },
                )
            };
            match gather.feed::<H>(&input[at..end], place, &Limits::default()) {
                Fed::More => at = end,
                Fed::Head(head, used) => return Ok((show(&head), at + used)),
                Fed::Bad(reason) => return Err(reason),
            }
        }
        panic!("the head has no end");
    };
    let whole = run(&[]);
    if let Ok((_, used)) = &whole {
        assert_eq!(*used, head.len());
    }
    for cut in 1..head.len() {
        assert_eq!(run(&[cut]), whole, "cut at {cut}");
    }
    assert_eq!(
        run(&(1..input.len()).collect::<Vec<_>>()),
        whole,
        "byte by byte"
    );
    whole.map(|(shown, _)| shown)
}

fn field(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

#[test]
fn request_heads() {
    let fine = every_cut(
        b"PUT /x HTTP/1.0\r\nA:1\r\nb:  2 \t\r\nA: 3\r\nc:\r\n\r\n",
        request,
    )
    .unwrap();
    let fields = vec![
        field("a", "1"),
        field("b", "2"),
        field("a", "3"),
        field("c", ""),
    ];
    assert_eq!(
        fine,
        (Version::Http10, "PUT".to_owned(), b"/x".to_vec(), fields)
    );
    let odd = every_cut(
        b"m-x \t a b  HTTP/1.7 \n: no name\nno colon\n\xff: x\nA\t : \rv\r\r\n fold\r\n \r\n\r\n",
        request,
    );
    let fields = vec![field("a", "v fold")];
    assert_eq!(
        odd.unwrap(),
        (Version::Http11, "m-x".to_owned(), b"a b".to_vec(), fields)
    );
    // A fold after what is no field belongs to nothing.
    let folds = every_cut(
        b"GET / HTTP/1.1\r\n first\r\nno colon\r\n secret\r\nA:\r\n b\r\n\r\n",
        request,
    )
    .unwrap();
    assert_eq!(folds.3, [field("a", "b")]);
}

#[test]
fn request_heads_refused() {
    for head in [
        "GET /\r\n\r\n",
        "GET HTTP/1.1\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.\r\n\r\n",
        "(x) / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(
            every_cut(head.as_bytes(), request),
            Err(Reason::Malformed),
            "{head}"
        );
    }
    let long = format!("{} / HTTP/1.1\r\n\r\n", "M".repeat(65));
    assert_eq!(every_cut(long.as_bytes(), request), Err(Reason::Malformed));
    let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(257));
    assert_eq!(
        every_cut(fields.as_bytes(), request),
        Err(Reason::TooManyFields)
    );
    let fields = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(256));
    assert_eq!(every_cut(fields.as_bytes(), request).unwrap().3.len(), 256);
}

#[test]
fn response_heads() {
    let fine = every_cut(b"HTTP/1.1 200 All right\r\nA: b\r\n\r\n", response).unwrap();
    assert_eq!(
        fine,
        (
            Version::Http11,
            "200".to_owned(),
            vec![],
            vec![field("a", "b")]
        )
    );
    assert_eq!(every_cut(b"HTTP/1.0 404\n\n", response).unwrap().1, "404");
    assert_eq!(
        every_cut(b"HTTP/1.1  500\tx\r\nA : b\r\n c\r\n\r\n", response)
            .unwrap()
            .3,
        [field("a", "b c")]
    );
    for head in [
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 2000\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1200\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert_eq!(
            every_cut(head.as_bytes(), response),
            Err(Reason::Malformed),
            "{head}"
        );
    }
}

proptest! {
    /// Where the strict reader accepts, the lenient one says the same.
    #[test]
    fn readers_agree(
        line in "[A-Z-]{1,8} [!-~]{1,20} HTTP/1\\.[01]",
        fields in proptest::collection::vec(("[A-Za-z0-9!#$%&'*+.^_`|~-]{1,9}", "[ \t]{0,2}[ -~\t\u{e9}]{0,12}"), 0..6),
        lf in any::<bool>(),
    ) {
        let end = if lf { "\n" } else { "\r\n" };
        let fields: String = fields.iter().map(|(name, value)| format!("{name}:{value}{end}")).collect();
        let text = format!("{line}{end}{fields}{end}");
        let (strict, len) = RequestHead::strict(text.as_bytes(), PLACE, 64).expect("valid");
        prop_assert_eq!(len, text.len());
        let Ok(lenient) = RequestHead::lenient(text.as_bytes(), PLACE, 64) else { panic!("refused") };
        prop_assert_eq!(request(&strict), request(&lenient));
        let text = format!("HTTP/1.1 200 reason{end}{fields}{end}");
        let (strict, _) = ResponseHead::strict(text.as_bytes(), PLACE, 64).expect("valid");
        let Ok(lenient) = ResponseHead::lenient(text.as_bytes(), PLACE, 64) else { panic!("refused") };
        prop_assert_eq!(response(&strict), response(&lenient));
    }

    /// Any bytes: the cut changes nothing, nothing panics.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(proptest::sample::select(&b"GE /HTP1.0:\r\n\r\n \tab2\0\xff"[..]), 0..60)) {
        let head = [&b"GET / HTTP/1.1\r\n"[..], &bytes, b"\r\n\n"].concat();
        // The blank line may come earlier: only what is before it is the head.
        let end = (1..=head.len()).find(|end| head[..*end].ends_with(b"\n\n") || head[..*end].ends_with(b"\n\r\n"));
        let _ = every_cut(&head[..end.expect("it ends")], request);
    }
}
