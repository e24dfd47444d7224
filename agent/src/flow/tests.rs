use super::{Budget, Flow, FlowLimits, Payload, Piece};
use proptest::prelude::*;

const WAIT: u64 = 100;

fn limits() -> FlowLimits {
    FlowLimits {
        bytes: 64,
        segments: 8,
        wait: WAIT,
    }
}

fn flow(base: Option<u64>) -> Flow {
    Flow::new(limits(), &Budget::new(1 << 20), base)
}

/// `3"abc"` for bytes, `6~4P` for a gap: offset, length, reason's first letter.
fn show(piece: &Piece) -> String {
    match piece {
        Piece::Data { offset, bytes, .. } => {
            format!("{offset}\"{}\"", String::from_utf8_lossy(bytes))
        }
        Piece::Gap {
            offset,
            len,
            reason,
            ..
        } => format!("{offset}~{len}{}", &format!("{reason:?}")[..1]),
    }
}

fn drain(flow: &mut Flow, now: u64) -> String {
    std::iter::from_fn(|| flow.pop(now))
        .map(|piece| show(&piece))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Pushes (offset, covers, bytes), then closes, then takes everything out.
fn check(base: Option<u64>, chunks: &[(u64, u64, &str)], expected: &str) {
    let mut flow = flow(base);
    for (offset, covers, bytes) in chunks {
        flow.push(*offset, *covers, Payload::copy_from(bytes.as_bytes()), 7);
    }
    flow.close();
    assert_eq!(drain(&mut flow, 7), expected, "{chunks:?}");
    assert_eq!(flow.held(), 0);
}

#[test]
fn chunks_come_out_in_order() {
    check(Some(0), &[(0, 3, "abc"), (3, 2, "de")], "0\"abc\" 3\"de\"");
    check(Some(0), &[(3, 2, "de"), (0, 3, "abc")], "0\"abc\" 3\"de\"");
    check(None, &[(13, 2, "de"), (10, 3, "abc")], "10\"abc\" 13\"de\"");
    check(None, &[(10, 0, "")], "");
}

#[test]
fn what_was_left_out_is_a_policy_gap_and_neighbours_merge() {
    check(
        Some(0),
        &[(0, 10, "abc"), (10, 5, ""), (15, 2, "xy")],
        "0\"abc\" 3~12P 15\"xy\"",
    );
}

#[test]
fn a_hole_is_unseen() {
    check(
        Some(0),
        &[(4, 2, "ef"), (8, 1, "i")],
        "0~4U 4\"ef\" 6~2U 8\"i\"",
    );
}

#[test]
fn overlaps_are_trimmed_and_the_first_bytes_win() {
    check(
        Some(0),
        &[(0, 3, "abc"), (1, 4, "BCDE")],
        "0\"abc\" 3\"DE\"",
    );
    check(
        Some(0),
        &[(2, 2, "cd"), (0, 6, "ABCDEF")],
        "0\"AB\" 2\"cd\" 4\"EF\"",
    );
    check(Some(0), &[(0, 3, "abc"), (0, 3, "ABC")], "0\"abc\"");
    check(Some(5), &[(3, 4, "defg")], "5\"fg\"");
}

#[test]
fn bytes_win_over_a_policy_gap() {
    check(
        Some(0),
        &[(0, 9, "a"), (3, 2, "de")],
        "0\"a\" 1~2P 3\"de\" 5~4P",
    );
    check(
        Some(0),
        &[(3, 2, "de"), (0, 9, "a")],
        "0\"a\" 1~2P 3\"de\" 5~4P",
    );
}

#[test]
fn what_was_handed_out_does_not_come_again() {
    let mut flow = flow(Some(0));
    flow.push(0, 4, Payload::copy_from(b"abcd"), 1);
    assert_eq!(drain(&mut flow, 1), "0\"abcd\"");
    flow.push(0, 6, Payload::copy_from(b"abcdef"), 2);
    assert_eq!(drain(&mut flow, 2), "4\"ef\"");
    assert_eq!(flow.counts().trimmed, 4);
}

#[test]
fn a_hole_is_waited_for_by_time() {
    let mut flow = flow(Some(0));
    flow.push(2, 2, Payload::copy_from(b"cd"), 1000);
    assert_eq!(drain(&mut flow, 1000), "");
    assert_eq!(flow.deadline(), Some(1000 + WAIT));
    assert_eq!(drain(&mut flow, 1000 + WAIT - 1), "");
    assert_eq!(drain(&mut flow, 1000 + WAIT), "0~2U 2\"cd\"");
    assert_eq!(flow.deadline(), None);
    assert_eq!(flow.counts().unseen, 2);
}

#[test]
fn a_hole_is_waited_for_by_bytes() {
    let mut flow = flow(Some(0));
    flow.push(2, 32, Payload::from(vec![b'x'; 32]), 0);
    assert_eq!(drain(&mut flow, 0), "");
    flow.push(34, 1, Payload::copy_from(b"y"), 0);
    assert_eq!(flow.pop(0).map(|piece| show(&piece)).unwrap(), "0~2U");
}

#[test]
fn a_hole_is_waited_for_by_count() {
    let mut flow = flow(Some(0));
    for place in 0..4 {
        flow.push(1 + place * 2, 1, Payload::copy_from(b"x"), 0);
    }
    assert_eq!(drain(&mut flow, 0), "");
    flow.push(9, 1, Payload::copy_from(b"x"), 0);
    assert!(drain(&mut flow, 0).starts_with("0~1U 1\"x\""));
}

#[test]
fn bytes_past_the_limit_are_evicted_and_counted() {
    let mut flow = flow(Some(0));
    flow.push(0, 60, Payload::from(vec![b'x'; 60]), 0);
    flow.push(60, 5, Payload::from(vec![b'y'; 5]), 0);
    assert_eq!(flow.held(), 60);
    assert!(drain(&mut flow, 0).ends_with("60~5E"));
    assert_eq!(flow.counts().evicted, 5);
}

#[test]
fn the_shared_budget_binds_every_flow_and_is_given_back() {
    let budget = Budget::new(10);
    let mut one = Flow::new(limits(), &budget, Some(0));
    let mut two = Flow::new(limits(), &budget, Some(0));
    one.push(0, 8, Payload::copy_from(b"abcdefgh"), 0);
    two.push(0, 3, Payload::copy_from(b"abc"), 0);
    assert_eq!(drain(&mut two, 0), "0~3E");
    drop(one);
    assert_eq!(budget.used(), 0);
    two.push(3, 3, Payload::copy_from(b"def"), 0);
    assert_eq!(drain(&mut two, 0), "3\"def\"");
}

#[test]
fn segments_past_the_limit_become_one_gap() {
    let mut flow = flow(Some(0));
    for place in 0..12 {
        flow.push(place * 2 + 1, 1, Payload::copy_from(b"x"), 0);
    }
    flow.close();
    assert_eq!(
        drain(&mut flow, 0),
        "0~1U 1\"x\" 2~1U 3\"x\" 4~1U 5\"x\" 6~1U 7\"x\" 8~1U 9\"x\" 10~1U 11\"x\" 12~1U 13\"x\" 14~1U 15~9E"
    );
}

#[test]
fn the_end_is_reached_when_all_before_it_is_known() {
    let mut flow = flow(Some(0));
    flow.end(4, 5);
    assert!(!flow.ended());
    flow.push(0, 2, Payload::copy_from(b"ab"), 5);
    assert_eq!(drain(&mut flow, 5), "0\"ab\"");
    assert!(!flow.ended());
    assert_eq!(drain(&mut flow, 5 + WAIT), "2~2U");
    assert!(flow.ended());
}

#[test]
fn offsets_at_the_end_of_the_number_space_are_refused() {
    let mut flow = flow(Some(0));
    flow.push(u64::MAX - 1, 2, Payload::copy_from(b"ab"), 0);
    flow.push(u64::MAX, 1, Payload::copy_from(b"a"), 0);
    flow.close();
    assert_eq!(drain(&mut flow, 0), "");
    assert_eq!(flow.counts().trimmed, 3);
}

proptest! {
    #[test]
    fn any_order_keeps_the_invariants(data in proptest::collection::vec(any::<u8>(), 0..1500)) {
        super::fuzz::flow(&data);
    }

    /// Every order of the same chunks gives the same stream.
    #[test]
    fn order_does_not_matter(
        cuts in proptest::collection::vec(1usize..9, 1..7),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 7),
    ) {
        let text = b"the quick brown fox jumps over the lazy dog, twice or thrice";
        let mut chunks = Vec::new();
        let mut at = 0;
        for cut in cuts {
            chunks.push((at as u64, &text[at..at + cut]));
            at += cut;
        }
        for (place, index) in order.iter().enumerate().take(chunks.len()) {
            let other = index.index(chunks.len());
            chunks.swap(place, other);
        }
        let mut flow = Flow::new(FlowLimits::default(), &Budget::new(1 << 20), Some(0));
        let mut out = Vec::new();
        for (offset, bytes) in chunks {
            flow.push(offset, 0, Payload::copy_from(bytes), 0);
            while let Some(Piece::Data { bytes, .. }) = flow.pop(0) {
                out.extend_from_slice(&bytes);
            }
        }
        prop_assert_eq!(&out[..], &text[..at]);
    }
}
