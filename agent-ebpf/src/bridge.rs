//! Plaintext of TLS connections that were open before the agent: the classic probes, at entry and return of the
//! functions that send and receive.
//!
//! They are attached for one process at a time, and only while it has such connections (`agent/src/kernel/bridge`).
//! Which connection an `SSL *` is, is told by nesting alone: the socket call that its own call makes on the same
//! thread. It is believed when that socket carries TLS whose begin nobody saw, the bytes that the call moved on it begin
//! with a record's head, and their number has room for the plaintext that the call gave. A memory BIO makes no socket
//! call, so that nothing is tied, and nothing read.
//!
//! Invariant: an object is tied to one socket and a socket to one object. Where two objects are met in calls of one
//! thread at once, an object's call moves another socket, or a socket has two objects, none of them is believed again.
//! Invariant: bytes of an object that is not tied are not copied.
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "statics are handed over where they lie: a copy would take of the 512 bytes of stack"
)]

use crate::{
    copy, emit,
    kernel::{count, current, read},
    maps::{
        BRIDGE_BUSY, BRIDGE_CALLS, BRIDGE_OBJECTS, BRIDGE_TIES, BRIDGES, CONNECTIONS, HEAD, LATE,
        Scratch, offset,
    },
    scope,
    socket::{PLAIN, Sock},
    stream, vector,
};
use agent_common::abi::{
    BridgeCall, BridgeKey, BridgeObject, BridgeTie, Closed, Connection, bridge, class, direction,
    family, flag, kind, probe, reason, tie,
};
use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::{
        bpf_get_current_pid_tgid, bpf_probe_read_user,
        generated::{bpf_get_attach_cookie, bpf_get_smp_processor_id},
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use core::hint::black_box;

/// Application data (RFC 8446 section 5.1).
const APPLICATION_DATA: u8 = 23;
/// Least and most that TLS adds: a record's head and tag, or head, padding and MAC for each record, however small.
const ADDED_LEAST: u64 = 21;
const ADDED_MOST: u64 = 128;
/// The slot of `SCRATCH`.
const SLOT: u8 = 2;

// Statics, since they do not fit on the stack with all else.
// SAFETY: all integers.
static FRESH: BridgeObject = unsafe { core::mem::zeroed() };
static REFUSED: BridgeObject = BridgeObject {
    tie: tie::REFUSED,
    ..FRESH
};
// SAFETY: as above.
static UNTIED: BridgeTie = unsafe { core::mem::zeroed() };

/// The call that is under way on the current thread's connection `object`.
#[inline(always)]
fn key_of(object: u64) -> BridgeKey {
    BridgeKey {
        object,
        process: (bpf_get_current_pid_tgid() >> 32) as u32,
        _pad: 0,
    }
}

#[inline(always)]
fn object_of(key: &BridgeKey) -> Option<&'static mut BridgeObject> {
    let object = BRIDGE_OBJECTS.get_ptr_mut(key)?;
    // SAFETY: a value that is replaced meanwhile is integers all the same.
    Some(unsafe { &mut *object })
}

#[inline(always)]
fn memory() -> u64 {
    read(current(), offset!(task_mm)).unwrap_or(0)
}

/// Entry of `int SSL_read(SSL *, void *, int)`, `SSL_read_ex(SSL *, void *, size_t, size_t *)`,
/// `SSL_write_ex2(SSL *, const void *, size_t, uint64_t, size_t *)`,
/// `ssize_t gnutls_record_recv(gnutls_session_t, void *, size_t)` and the like. The cookie says which.
#[uprobe]
pub fn bridge_enter(ctx: ProbeContext) -> u32 {
    if !scope::holds_current() {
        return 0;
    }
    let (Some(object), Some(buffer)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) else {
        return 0;
    };
    // SAFETY: the context of this program.
    let form = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
    // Both are read first: the verifier allows no choice of where in the context.
    let (fourth, fifth) = (
        black_box(ctx.arg::<u64>(3).unwrap_or(0)),
        black_box(ctx.arg::<u64>(4).unwrap_or(0)),
    );
    let count_at = if form & bridge::COUNT_FOURTH != 0 {
        fourth
    } else {
        fifth
    };
    let thread = bpf_get_current_pid_tgid();
    let key = key_of(object);
    if let Some(under_way) = BRIDGE_CALLS.get_ptr_mut(thread) {
        // SAFETY: only this thread writes its entry.
        let under_way = unsafe { &mut *under_way };
        under_way.depth += 1;
        if under_way.key != key || (under_way.form ^ form) & bridge::SENDS != 0 {
            // TLS within TLS, or a thread with several stacks: which of them moves what is not told by nesting. A
            // function that calls its like for the same object is the library's own affair.
            refuse(&under_way.key);
            refuse(&key);
        }
        return 0;
    }
    let call = BridgeCall {
        key,
        memory: memory(),
        buffer,
        count_at,
        form,
        depth: 1,
        elsewhere: 0,
    };
    if BRIDGE_CALLS.insert(thread, call, 0).is_err() {
        lost(reason::TABLE_FULL);
        // What it moves will be missing.
        forget(&key);
    }
    0
}

/// Their return.
#[uretprobe]
pub fn bridge_return(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    let Some(under_way) = BRIDGE_CALLS.get_ptr_mut(thread) else {
        return 0;
    };
    // SAFETY: only this thread writes its entry.
    let under_way = unsafe { &mut *under_way };
    if under_way.depth > 1 {
        under_way.depth -= 1;
        return 0;
    }
    if scope::holds_current() {
        returned(&ctx, under_way);
    }
    let _ = BRIDGE_CALLS.remove(thread);
    0
}

#[inline(always)]
fn returned(ctx: &RetProbeContext, call: &BridgeCall) {
    let Some(object) = object_of(&call.key) else {
        return;
    };
    if object.tie == tie::REFUSED {
        return;
    }
    if object.memory != call.memory {
        forget(&call.key);
        return;
    }
    match plaintext(ctx, call) {
        None => {
            lost(reason::FAULT);
            forget(&call.key);
        }
        Some(0) => {}
        Some(moved) => give(call, object, moved),
    }
}

/// How many bytes of plaintext the call moved; `None` if that cannot be read.
#[inline(always)]
fn plaintext(ctx: &RetProbeContext, call: &BridgeCall) -> Option<u64> {
    let result: u64 = ctx.ret();
    if call.form & (bridge::COUNT_FOURTH | bridge::COUNT_FIFTH) != 0 {
        if result as u32 != 1 {
            return Some(0);
        }
        // SAFETY: the helper checks the address.
        let moved = unsafe { bpf_probe_read_user(call.count_at as *const u64) }.ok()?;
        return (moved <= i32::MAX as u64).then_some(moved);
    }
    let result = if call.form & bridge::GNUTLS != 0 {
        result as i64
    } else {
        result as i32 as i64
    };
    match result {
        ..=0 => Some(0),
        1..=0x7fff_ffff => Some(result as u64),
        _ => None,
    }
}

/// Ties the object if it is not yet, and reports its plaintext.
#[inline(always)]
fn give(call: &BridgeCall, object: &mut BridgeObject, moved: u64) {
    let of = if call.form & bridge::SENDS != 0 {
        direction::SENT
    } else {
        direction::RECEIVED
    };
    let d = (of & 1) as usize;
    let Some(connection) = CONNECTIONS.get_ptr_mut(object.sock) else {
        forget(&call.key);
        return;
    };
    // SAFETY: a value that is replaced meanwhile is integers all the same.
    let connection = unsafe { &mut *connection };
    if connection.inode != object.inode {
        forget(&call.key);
        return;
    }
    if object.tie == tie::CANDIDATE {
        let agrees =
            object.fresh & (1 << d) != 0 && call.elsewhere == 0 && fits(of, object.moved[d], moved);
        if !agrees {
            object.fresh &= !(1 << d);
            return;
        }
        if !be_tied(call, object) {
            return;
        }
        connection.known |= Connection::TIED;
    }
    object.fresh &= !(1 << d);
    let within = object.within[d];
    object.within[d] = within.wrapping_add(moved as u32);
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if BRIDGE_BUSY.insert(cpu, 1, BPF_NOEXIST as u64).is_err() {
        lost(reason::TABLE_FULL);
        forget(&call.key);
        return;
    }
    if let Some(scratch) = stream::scratch(SLOT) {
        vector::buffer(scratch, call.buffer, moved);
        if call.buffer == 0 {
            // GnuTLS sends what an earlier call was given: a gap.
            scratch.walk.elements = 0;
        }
        scratch.walk.moved = moved;
        scratch.walk.behind = 0;
        scratch.record.wire = object.wire[d];
        scratch.record.within = within;
        scratch.record.generation = object.generation;
        scratch.record.flags = if call.form & bridge::GNUTLS != 0 {
            flag::GNUTLS
        } else {
            0
        };
        let sock = Sock {
            address: object.sock,
            family: read(object.sock, offset!(sk_family)).unwrap_or(family::INET),
            datagram: false,
            plain: true,
            inode: object.inode,
        };
        stream::moved(probe::BRIDGE, of, &sock, scratch);
    }
    let _ = BRIDGE_BUSY.remove(cpu);
}

/// Whether so many bytes on the socket can have carried that plaintext.
#[inline(always)]
fn fits(of: u8, wire: u64, plain: u64) -> bool {
    if wire < plain + ADDED_LEAST {
        return false;
    }
    // A receiver may read ahead, or have a smaller buffer than the record.
    of == direction::RECEIVED || wire - plain <= ADDED_MOST + plain / 4
}

/// The lengths agree: a socket has one object.
#[inline(always)]
fn be_tied(call: &BridgeCall, object: &mut BridgeObject) -> bool {
    if BRIDGE_TIES.get_ptr_mut(object.sock).is_none()
        && BRIDGE_TIES.insert(object.sock, &UNTIED, 0).is_err()
    {
        lost(reason::TABLE_FULL);
        return false;
    }
    let Some(tied) = BRIDGE_TIES.get_ptr_mut(object.sock) else {
        return false;
    };
    // SAFETY: a value that is replaced meanwhile is integers all the same.
    let tied = unsafe { &mut *tied };
    if tied.inode != object.inode {
        tied.inode = object.inode;
        tied.generation = 0;
    } else if tied.key != call.key
        && let Some(first) = object_of(&tied.key)
        && first.tie == tie::TIED
        && first.sock == object.sock
    {
        refuse(&tied.key);
        object.tie = tie::REFUSED;
        return false;
    }
    tied.key = call.key;
    tied.generation += 1;
    object.generation = tied.generation;
    let _ = CONNECTIONS.remove(object.sock | PLAIN);
    object.tie = tie::TIED;
    true
}

/// What [`nested`] will ask of a socket's call, told before the records in it are walked.
#[inline(always)]
pub fn look(connection: &Connection, d: usize, scratch: &mut Scratch) -> u32 {
    // Its begin was seen in neither direction.
    if connection.class != class::TLS || connection.known & 12 != 0 {
        return 0;
    }
    let framing = &connection.framing[d];
    let at_head = framing.known == 1 && framing.next_head == scratch.walk.base;
    if at_head && copy::peek::<1>(scratch, 0) == Some([APPLICATION_DATA]) {
        LATE | HEAD
    } else {
        LATE
    }
}

/// Bytes were moved on a socket: if within a TLS library's call, its object's connection is this one.
#[inline(always)]
pub fn nested(sock: &Sock, of: u8, scratch: &mut Scratch) {
    if BRIDGES.get(0).is_some_and(|bridges| *bridges != 0) {
        in_call(sock, of, scratch);
    }
}

/// A function of its own in the object, because of the verifier's 512 bytes of stack.
#[inline(never)]
fn in_call(sock: &Sock, of: u8, scratch: &mut Scratch) {
    let Some(call) = BRIDGE_CALLS.get_ptr_mut(bpf_get_current_pid_tgid()) else {
        return;
    };
    // SAFETY: only this thread writes its entry.
    let call = unsafe { &mut *call };
    let d = (of & 1) as usize;
    let sends = call.form & bridge::SENDS != 0;
    let own_direction = sends == (of == direction::SENT);
    let late = scratch.walk.bridge & LATE != 0;
    let at_head = scratch.walk.bridge & HEAD != 0;
    if BRIDGE_OBJECTS.get_ptr_mut(call.key).is_none() {
        if !late {
            call.elsewhere = 1;
        }
        if !own_direction || !at_head || call.elsewhere != 0 {
            return;
        }
        if BRIDGE_OBJECTS.insert(call.key, &FRESH, 0).is_err() {
            lost(reason::TABLE_FULL);
            return;
        }
        if let Some(object) = object_of(&call.key) {
            object.sock = sock.address;
            object.inode = sock.inode;
            object.memory = call.memory;
        }
    }
    let Some(object) = object_of(&call.key) else {
        return;
    };
    if object.sock != sock.address || object.inode != sock.inode {
        refuse(&call.key);
        return;
    }
    if !own_direction {
        return;
    }
    if object.fresh & (1 << d) == 0 {
        if object.tie == tie::CANDIDATE && !at_head {
            return;
        }
        object.fresh |= 1 << d;
        object.wire[d] = scratch.walk.base;
        object.within[d] = 0;
        object.moved[d] = 0;
    }
    object.moved[d] += scratch.walk.moved;
}

/// Entry of what ends an object, gives it another socket, or moves plaintext in a way that is not read: `SSL_free(SSL *)`,
/// `SSL_set_bio`, `SSL_sendfile`, `gnutls_deinit(gnutls_session_t)` and the like.
#[uprobe]
pub fn bridge_forget(ctx: ProbeContext) -> u32 {
    if scope::holds_current()
        && let Some(object) = ctx.arg::<u64>(0)
    {
        let key = key_of(object);
        // SAFETY: the context of this program.
        let form = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
        let refused = object_of(&key).is_some_and(|object| object.tie == tie::REFUSED);
        if form & bridge::FREES != 0 || !refused {
            forget(&key);
        }
    }
    0
}

/// It may be tied anew, under another generation.
#[inline(always)]
fn forget(key: &BridgeKey) {
    let _ = BRIDGE_OBJECTS.remove(key);
}

/// It is never believed again, and who was told that it is tied hears of it.
#[inline(always)]
fn refuse(key: &BridgeKey) {
    if let Some(object) = object_of(key) {
        if object.tie == tie::TIED {
            let record = Closed {
                header: emit::header(kind::UNTIED, size_of::<Closed>()),
                sock: object.sock,
                inode: object.inode,
            };
            emit::submit_value(probe::BRIDGE, &record, emit::QUIET);
        }
        object.tie = tie::REFUSED;
        return;
    }
    let _ = BRIDGE_OBJECTS.insert(key, &REFUSED, 0);
}

#[inline(always)]
pub fn thread_ended() {
    if BRIDGES.get(0).is_some_and(|bridges| *bridges != 0) {
        let _ = BRIDGE_CALLS.remove(bpf_get_current_pid_tgid());
    }
}

/// The socket is gone, and its plaintext with it.
#[inline(always)]
pub fn closed(sock: u64) {
    let _ = CONNECTIONS.remove(sock | PLAIN);
    // SAFETY: the value is copied at once.
    if let Some(tied) = unsafe { BRIDGE_TIES.get(sock) }.copied() {
        let _ = BRIDGE_OBJECTS.remove(tied.key);
        let _ = BRIDGE_TIES.remove(sock);
    }
}

#[inline(always)]
fn lost(why: u32) {
    count(probe::BRIDGE, reason::SEEN, 1);
    count(probe::BRIDGE, why, 1);
    count(probe::BRIDGE, reason::LOST, 1);
}
