//! One call's bytes: their place in the stream, what of them is copied, and the records that tell of it.
//!
//! The policy (`capture.md`): after each change of direction the next `SETTINGS.copy_bytes` of the stream are copied
//! whole; then only what keeps the count, which is nothing in cleartext and, of TLS, each record's five-byte head
//! with the last 32 bytes of the record before it. On a multiplexed connection (HTTP/2) a head may follow a body in the
//! same direction, and the direction changes with every update of a window: there `SETTINGS.multiplexed_bytes` are
//! copied of each direction in a second, and a small head of each turn. In cleartext HTTP/2's preface tells; in TLS the
//! agent does, after the first bytes have passed, so each TLS connection has a part of that once. What was left out is
//! told by the next record's `skipped`.

use crate::{
    bridge, copy,
    emit::{self, QUIET},
    kernel::{count, describe_current},
    kernel_tls,
    maps::{CONNECTIONS, MULTIPLEXED, SCRATCH, Scratch, setting},
    socket::Sock,
};
use agent_common::abi::{
    Closed, Connection, PAYLOAD_MAX, PERIOD, Socket, VECTOR_MAX, class, direction, family, flag,
    kind, multiplexed, reason,
};
use aya_ebpf::helpers::generated::bpf_loop;
use core::ffi::c_void;

/// A TLS record's head (RFC 8446 section 5.1).
const HEAD: u64 = 5;
/// A TLS record's tail that is kept: the AEAD tag, and before it where TLS 1.3 hides the content type.
const TAIL: u64 = 32;
/// Longest TLS record body: 2^14 + 2048 (RFC 5246 section 6.2.3).
const BODY_MAX: u64 = 16_384 + 2_048;
/// What of a turn of a multiplexed connection is copied though its budget is used up: a small head.
const HEAD_OF_TURN: u32 = 512;
/// TLS records that one call may hold; beyond it the framing is lost, which is counted.
const RECORDS_MAX: u32 = 256;

/// A static, since it does not fit on the stack with all else.
// SAFETY: all integers.
static FRESH: Connection = unsafe { core::mem::zeroed() };

#[inline(always)]
pub fn scratch(of: u8) -> Option<&'static mut Scratch> {
    let slot = SCRATCH.get_ptr_mut(of as u32)?;
    // SAFETY: a per-CPU slot of this direction's probe.
    Some(unsafe { &mut *slot })
}

/// What the first bytes of a message look like.
#[inline(always)]
fn classify(scratch: &mut Scratch) -> u8 {
    if let Some(head) = copy::peek::<5>(scratch, 0) {
        return match head {
            // TLS: content type, 3.x, a length in range.
            [20..=23, 3, 0..=4, high, low]
                if ((high as u64) << 8 | low as u64) <= BODY_MAX
                    && (high as u64) << 8 | low as u64 != 0 =>
            {
                class::TLS
            }
            // HTTP methods, HTTP/1.x, PRI, PROXY: three capital letters. PROXY protocol 2: CR LF CR LF NUL.
            [b'A'..=b'Z', b'A'..=b'Z', b'A'..=b'Z', ..] | [b'\r', b'\n', b'\r', b'\n', 0] => {
                class::TEXT
            }
            _ => class::OPAQUE,
        };
    }
    match copy::peek::<1>(scratch, 0) {
        // Too short to say: a reader that takes little bites.
        Some([b'A'..=b'Z' | b'\r']) => class::TEXT,
        Some([20..=23]) => class::TLS,
        _ => class::OPAQUE,
    }
}

/// Reports what a call moved. `scratch.vector` and `.walk.elements` are set; `scratch.walk.moved` > 0.
/// A function of its own in the object, since two programs' frames would pass the verifier's 512 bytes.
#[inline(never)]
pub fn moved(probe: u32, of: u8, sock: &Sock, scratch: &mut Scratch) {
    count(probe, reason::SEEN, 1);
    count(probe, reason::BYTES_SEEN, scratch.walk.moved);
    scratch.walk.bridge = 0;
    let Some(connection) = connection(probe, sock, scratch) else {
        count(probe, reason::TABLE_FULL, 1);
        count(probe, reason::LOST, 1);
        return;
    };
    let d = (of & 1) as usize;
    let first_sight = connection.time == 0;
    scratch.record.direction = of;
    scratch.walk.by_kernel = kernel_tls::is_on(sock, of == direction::SENT) as u32;
    if scratch.walk.by_kernel != 0 && scratch.walk.control != 0 {
        if let Some(end) = sock.position(of == direction::SENT) {
            connection.sequence[d] = end;
        }
        count(probe, reason::COUNTED_ONLY, 1);
        return;
    }
    place(connection, sock, of, scratch);
    if sock.plain {
        connection.class = class::PLAIN;
    }
    if connection.direction != of || first_sight {
        connection.direction = of;
        connection.left = setting!(copy_bytes);
        let seen = if sock.plain {
            class::PLAIN
        } else {
            classify(scratch)
        };
        if connection.multiplexed != multiplexed::YES
            && (is_multiplexed(sock)
                || first_sight && copy::peek::<5>(scratch, 0) == Some(*b"PRI *"))
        {
            connection.multiplexed = multiplexed::YES;
        }
        if connection.multiplexed == multiplexed::YES {
            connection.left = HEAD_OF_TURN;
        }
        if seen == class::TLS {
            let framing = &mut connection.framing[d];
            if connection.class != class::TLS || framing.known == 0 {
                framing.known = 1;
                framing.next_head = scratch.walk.base;
            }
            connection.class = class::TLS;
        } else if connection.class != class::TLS
            && (seen == class::TEXT || connection.class != class::TEXT)
        {
            connection.class = seen;
        }
    }
    scratch.record.header = emit::header(kind::SOCKET, 0);
    if sock.plain {
        scratch.record.header.kind = kind::PLAIN;
    } else {
        scratch.record.wire = 0;
        scratch.record.within = 0;
        scratch.record.generation = 0;
        scratch.walk.bridge = bridge::look(connection, d, scratch);
    }
    connection.time = scratch.record.header.time;

    let walk = &mut scratch.walk;
    walk.probe = probe;
    walk.cursor = 0;
    walk.records = 0;
    walk.failed = 0;
    walk.skipped = connection.skipped[d];
    walk.next_head = connection.framing[d].next_head;
    walk.known = (connection.class == class::TLS && walk.by_kernel == 0) as u32
        & connection.framing[d].known;
    walk.whole = if connection.class == class::OPAQUE {
        0
    } else if connection.multiplexed == multiplexed::YES {
        of_period(probe, connection, d, walk.moved)
    } else if walk.moved <= connection.left as u64 {
        connection.left -= walk.moved as u32;
        walk.moved
    } else {
        beyond_turn(probe, sock, connection, d, walk.moved)
    };
    if walk.whole == 0 && walk.known == 0 && !first_sight {
        connection.skipped[d] = walk.skipped + walk.moved;
        count(probe, reason::COUNTED_ONLY, 1);
        return;
    }

    describe_current(&mut scratch.record.task);
    sock.describe(&mut scratch.record);
    scratch.record.peer_inode = connection.peer_inode;
    if !sock.plain {
        scratch.record.flags = if connection.known & (4 << d) != 0 {
            flag::FROM_START
        } else {
            0
        } | if scratch.walk.by_kernel != 0 {
            flag::KERNEL_TLS
        } else {
            0
        };
    }

    if scratch.walk.whole == 0 && scratch.walk.known == 0 {
        announce(probe, scratch);
        connection.skipped[d] = 0;
        return;
    }
    let mut context: *mut Scratch = scratch;
    // SAFETY: the callbacks have the signature that `bpf_loop` documents; the context is a pointer in this frame to what
    // they change, which also tells the compiler that they do.
    unsafe {
        if scratch.walk.whole > 0 {
            let pieces = scratch.walk.whole.div_ceil(PAYLOAD_MAX as u64) as u32;
            bpf_loop(
                pieces,
                copy_whole as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
        }
        if scratch.walk.known == 1 {
            bpf_loop(
                RECORDS_MAX,
                follow_records as *mut c_void,
                (&raw mut context).cast(),
                0,
            );
        }
    }
    let walk = &scratch.walk;
    connection.skipped[d] = walk.skipped + (walk.moved - walk.cursor);
    connection.framing[d].next_head = walk.next_head;
    connection.framing[d].known = walk.known;
    let outcome = match (walk.records, walk.failed) {
        (1.., _) => reason::REPORTED,
        (0, 0) => reason::COUNTED_ONLY,
        (0, _) => reason::LOST,
    };
    count(probe, outcome, 1);
}

/// The agent has told so.
#[inline(always)]
fn is_multiplexed(sock: &Sock) -> bool {
    // SAFETY: a value that is replaced meanwhile is a number all the same.
    let told = unsafe { MULTIPLEXED.get(sock.address) };
    told.is_some_and(|inode| *inode == sock.inode)
}

/// How many of a call's bytes are copied that are more than what is left of the turn.
#[inline(always)]
fn beyond_turn(probe: u32, sock: &Sock, connection: &mut Connection, d: usize, moved: u64) -> u64 {
    if is_multiplexed(sock) {
        connection.multiplexed = multiplexed::YES;
        return of_period(probe, connection, d, moved);
    }
    let turn = connection.left as u64;
    connection.left = 0;
    if connection.class != class::TLS && connection.class != class::PLAIN {
        return turn;
    }
    if connection.multiplexed == multiplexed::UNKNOWN {
        connection.multiplexed = multiplexed::TRIED;
        connection.multiplexed_left = [setting!(multiplexed_bytes) / 4; 2];
    }
    let left = connection.multiplexed_left[d] as u64;
    let more = if moved - turn < left {
        moved - turn
    } else {
        left
    };
    connection.multiplexed_left[d] -= more as u32;
    turn + more
}

/// How many of a call's bytes are copied of a multiplexed connection.
#[inline(always)]
fn of_period(probe: u32, connection: &mut Connection, d: usize, moved: u64) -> u64 {
    let period = (connection.time >> PERIOD) as u32;
    if connection.period != period {
        connection.period = period;
        connection.multiplexed_left = [setting!(multiplexed_bytes); 2];
    }
    let left = connection.multiplexed_left[d] as u64;
    if moved <= left {
        connection.multiplexed_left[d] -= moved as u32;
        return moved;
    }
    connection.multiplexed_left[d] = 0;
    // What answers a request begins a turn, most often.
    let turn = connection.left as u64;
    let most = if turn > left { turn } else { left };
    if moved <= most {
        connection.left -= moved as u32;
        return moved;
    }
    connection.left = 0;
    count(probe, reason::OVER_BUDGET, 1);
    most
}

/// Tells of a connection of which nothing is copied, so that it can be listed as unread.
#[inline(always)]
fn announce(probe: u32, scratch: &mut Scratch) {
    let record = &mut scratch.record;
    record.header.len = size_of::<Socket>() as u32;
    record.offset = scratch.walk.base.wrapping_add(scratch.walk.moved);
    record.sequence = scratch
        .walk
        .sequence
        .wrapping_add(scratch.walk.moved as u32);
    record.skipped = scratch.walk.moved;
    record.copied = 0;
    emit::report(probe, record, QUIET);
}

/// A read that returned 0: the peer has closed its direction.
#[inline(always)]
pub fn ended(probe: u32, sock: Sock, scratch: &mut Scratch) {
    // SAFETY: entries are only removed when their socket closes.
    let Some(connection) = (unsafe { CONNECTIONS.get(sock.address) }) else {
        return;
    };
    if connection.inode != sock.inode {
        return;
    }
    scratch.record.header = emit::header(kind::SOCKET, size_of::<Socket>());
    describe_current(&mut scratch.record.task);
    sock.describe(&mut scratch.record);
    scratch.record.peer_inode = connection.peer_inode;
    scratch.record.direction = direction::RECEIVED;
    scratch.record.flags = flag::END
        | if connection.known & 8 != 0 {
            flag::FROM_START
        } else {
            0
        };
    scratch.record.offset = connection.next[1];
    scratch.record.skipped = 0;
    scratch.record.sequence = connection.sequence[1];
    scratch.record.copied = 0;
    emit::submit_value(probe, &scratch.record, QUIET);
}

/// The connection's state, made at first sight; a reused `struct sock` is told by its inode number.
#[inline(always)]
fn connection(probe: u32, sock: &Sock, scratch: &mut Scratch) -> Option<&'static mut Connection> {
    if let Some(known) = CONNECTIONS.get_ptr_mut(sock.key()) {
        // SAFETY: entries are only removed when their socket closes.
        let known = unsafe { &mut *known };
        if known.inode == sock.inode {
            return Some(known);
        }
        if !sock.plain {
            // Not on the stack, which old verifiers bound to 512 bytes for all that call one another.
            scratch.closed.header = emit::header(kind::CLOSED, size_of::<Closed>());
            scratch.closed.sock = sock.address;
            scratch.closed.inode = known.inode;
            emit::submit_value(probe, &scratch.closed, QUIET);
        }
    }
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value it would be copied onto the stack"
    )]
    CONNECTIONS.insert(sock.key(), &FRESH, 0).ok()?;
    // SAFETY: as above.
    let fresh = unsafe { &mut *CONNECTIONS.get_ptr_mut(sock.key())? };
    fresh.inode = sock.inode;
    if sock.family == family::UNIX {
        fresh.peer_inode = sock.unix_peer_inode();
        sock.report_unix_path(probe);
    }
    Some(fresh)
}

#[inline(always)]
pub fn closed(probe: u32, sock: u64, inode: u64) {
    let record = Closed {
        header: emit::header(kind::CLOSED, size_of::<Closed>()),
        sock,
        inode,
    };
    emit::submit_value(probe, &record, QUIET);
}

/// Finds the call's place in the stream, from the socket's own counters where it has them.
#[inline(always)]
fn place(connection: &mut Connection, sock: &Sock, of: u8, scratch: &mut Scratch) {
    let d = (of & 1) as usize;
    let moved = scratch.walk.moved;
    let seen_before = connection.known & (1 << d) != 0;
    let mut base = connection.next[d];
    let mut sequence = 0;
    if sock.plain {
        // The library's own results are all that counts it, and its record says where it lies on the socket.
        sequence = scratch.record.within;
    } else if sock.family == family::UNIX {
        if !seen_before {
            // No counter tells what a Unix socket moved before: the first byte seen is where the stream begins.
            connection.known |= 4 << d;
        }
    } else if let Some(end) = sock.position(of == direction::SENT) {
        let mut end = end.wrapping_sub(scratch.walk.behind as u32);
        sequence = end.wrapping_sub(moved as u32);
        let before = if seen_before {
            0
        } else {
            sock.before(of == direction::SENT, sequence)
                .unwrap_or(u64::MAX)
        };
        // At most 1: an active opener's SYN is counted, and so is a FIN.
        if !seen_before && before <= 1 {
            connection.known |= 4 << d;
        }
        let ahead = if seen_before {
            sequence.wrapping_sub(connection.sequence[d])
        } else {
            before as u32
        };
        if of == direction::RECEIVED && ahead == 1 && sock.met_fin() {
            sequence = sequence.wrapping_sub(1);
            end = end.wrapping_sub(1);
        }
        if scratch.walk.by_kernel != 0 {
            // The counters count records: their bytes go on where the last record before them ended.
            if seen_before {
                sequence = connection.sequence[d];
            }
        } else if seen_before {
            base = base
                .wrapping_add(sequence.wrapping_sub(connection.sequence[d]) as i32 as i64 as u64);
        }
        connection.sequence[d] = end;
    }
    connection.known |= 1 << d;
    connection.next[d] = base.wrapping_add(moved);
    // Bytes that no call of ours moved: where the records' heads lie among them is not known.
    if connection.framing[d].next_head < base {
        connection.framing[d].known = 0;
    }
    scratch.walk.base = base;
    scratch.walk.sequence = sequence;
}

/// Copies bytes `from..from + len` of the call and submits them, with what was left out before them.
#[inline(always)]
fn report(scratch: &mut Scratch, from: u64, len: u64) -> bool {
    if len == 0 || len > PAYLOAD_MAX as u64 || from < scratch.walk.cursor {
        return false;
    }
    let left_out = from - scratch.walk.cursor;
    scratch.walk.cursor = from + len;
    scratch.walk.skipped += left_out;
    let probe = scratch.walk.probe;
    if !copy::range(scratch, from, len) {
        scratch.walk.failed = 1;
        count(
            probe,
            if scratch.walk.elements >= VECTOR_MAX as u32 {
                reason::OVERSIZE
            } else {
                reason::FAULT
            },
            1,
        );
        return false;
    }
    let record = &mut scratch.record;
    let size = size_of::<Socket>() as u64 + len;
    record.header.len = size as u32;
    record.offset = scratch.walk.base.wrapping_add(from);
    let place = scratch.walk.sequence.wrapping_add(from as u32);
    if record.header.kind == kind::PLAIN {
        record.sequence = 0;
        record.within = place;
    } else {
        record.sequence = if record.family == family::UNIX {
            0
        } else {
            place
        };
    }
    record.skipped = scratch.walk.skipped;
    record.copied = len as u32;
    let start = (&raw const *record).cast();
    if !emit::submit(probe, start, size as usize, QUIET) {
        scratch.walk.failed = 1;
        return false;
    }
    count(probe, reason::BYTES_COPIED, len);
    scratch.walk.skipped = 0;
    scratch.walk.records += 1;
    true
}

/// `bpf_loop` callback: the next piece of what is copied whole.
extern "C" fn copy_whole(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `moved` passes a pointer to its scratch.
    let scratch = unsafe { &mut **(context as *mut *mut Scratch) };
    let from = scratch.walk.cursor;
    if from >= scratch.walk.whole {
        return 1;
    }
    let mut len = scratch.walk.whole - from;
    if len > PAYLOAD_MAX as u64 {
        len = PAYLOAD_MAX as u64;
    }
    if report(scratch, from, len) { 0 } else { 1 }
}

/// `bpf_loop` callback: the next TLS record head of this call; what lies beyond `whole` is reported with the tail of
/// the record before it.
extern "C" fn follow_records(_: u32, context: *mut c_void) -> i64 {
    // SAFETY: `moved` passes a pointer to its scratch.
    let scratch = unsafe { &mut **(context as *mut *mut Scratch) };
    let end = scratch.walk.base + scratch.walk.moved;
    let head = scratch.walk.next_head;
    if head < scratch.walk.base || head > end {
        // The next head is in a later call; this call's last bytes are the middle of a record.
        return 1;
    }
    let at = head - scratch.walk.base;
    let tail = at.saturating_sub(TAIL);
    let from = if tail > scratch.walk.cursor {
        tail
    } else {
        scratch.walk.cursor
    };
    if head == end {
        if at > from {
            report(scratch, from, at - from);
        }
        return 1;
    }
    let Some([of_type, major, _, high, low]) = copy::peek::<5>(scratch, at) else {
        // A head cut by the call's or an element's end: copied as it is, the agent reads on; here the count is lost.
        if scratch.walk.moved > from {
            report(scratch, from, scratch.walk.moved - from);
        }
        scratch.walk.known = 0;
        return 1;
    };
    let body = (high as u64) << 8 | low as u64;
    if major != 3 || !(20..=24).contains(&of_type) || body > BODY_MAX {
        scratch.walk.known = 0;
        return 1;
    }
    if at + HEAD > from && !report(scratch, from, at + HEAD - from) {
        scratch.walk.known = 0;
        return 1;
    }
    scratch.walk.next_head = head + HEAD + body;
    0
}
