use super::crypto::Pieces;
use super::packet::Reader;
use super::{Initials, MAX_HELLO, initials};

/// The protected packets of RFC 9001 and RFC 9369, appendix A.2: 1,200 bytes, sent to 8394c8f03e515708.
const PACKETS: [&str; 2] = [
    include_str!("rfc9001-a2.hex"),
    include_str!("rfc9369-a2.hex"),
];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_standards_examples() {
    for hex in PACKETS {
        let datagram = bytes(hex);
        let packets: Vec<_> = initials(&datagram).collect();
        assert_eq!(packets.len(), 1);
        assert_eq!(format!("{:?}", packets[0].destination), "8394c8f03e515708");
        let attempt = Initials::begin(&packets[0]).unwrap();
        let hello = attempt.hello().unwrap();
        assert_eq!(hello.sni.as_deref(), Some("example.com"));
    }
}

#[test]
fn any_changed_byte_is_refused() {
    let datagram = bytes(PACKETS[0]);
    for at in (0..datagram.len()).step_by(7) {
        let mut changed = datagram.clone();
        changed[at] ^= 1;
        let opened = initials(&changed).any(|packet| Initials::begin(&packet).is_some());
        assert!(!opened, "byte {at}");
    }
    for len in 0..datagram.len() {
        assert_eq!(initials(&datagram[..len]).count(), 0, "{len} bytes");
    }
}

#[test]
fn what_follows_in_a_datagram() {
    let one = bytes(PACKETS[0]);
    let two = [&one[..], &[0; 52], &one, &[0; 100]].concat();
    assert_eq!(initials(&two).count(), 2);
    // As many as there may be, and no more.
    assert_eq!(initials(&one.repeat(20)).count(), 8);
}

/// RFC 9000 appendix A.1.
#[test]
fn integers() {
    for (wire, value) in [
        (
            &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
            151_288_809_941_952_652,
        ),
        (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
        (&[0x7b, 0xbd], 15_293),
        (&[0x25], 37),
        (&[0x40, 0x25], 37),
    ] {
        assert_eq!(Reader::new(wire).integer(), Some(value));
        assert_eq!(Reader::new(&wire[..wire.len() - 1]).integer(), None);
    }
}

fn piece(place: u16, text: &[u8]) -> Vec<u8> {
    let place = place | 0x4000;
    [&[6][..], &place.to_be_bytes(), &[text.len() as u8], text].concat()
}

#[test]
fn pieces_in_any_order_over_packets() {
    let mut pieces = Pieces::default();
    // PING, an ACK with two more ranges, padding; then shuffled pieces that overlap.
    let packet = [
        &[1][..],
        &[2, 9, 0, 2, 1, 1, 1, 1, 1],
        &[0, 0],
        &piece(4, b"efgh"),
    ]
    .concat();
    pieces.take(&packet);
    assert_eq!(pieces.begin(), b"");
    pieces.take(&piece(2, b"cdef"));
    pieces.take(&[piece(0, b"ab"), piece(0, b"abc"), piece(0, b"a")].concat());
    assert_eq!(pieces.begin(), b"abcdefgh");
    // Nothing is taken behind a frame that an Initial may not have.
    pieces.take(&[&[0x1e][..], &piece(8, b"i")].concat());
    assert_eq!(pieces.begin(), b"abcdefgh");
}

#[test]
fn no_more_than_the_largest_hello() {
    let mut pieces = Pieces::default();
    for place in (0..0x3fff).step_by(60) {
        pieces.take(&piece(place, &[7; 63]));
    }
    assert!(pieces.begin().len() <= MAX_HELLO);
    pieces.take(&[6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 7]);
    assert!(pieces.begin().len() <= MAX_HELLO);
}
