//! Socket rung 1: fentry and fexit below the system calls, so that io_uring is seen too.
//!
//! The vector is taken at entry (the call moves the iterator), the result and the socket's position at exit. The result
//! is read as the argument after the last one, not by `bpf_get_func_ret`: verifiers before 6.8 take its two results for
//! one value and drop the branch where a call has moved something.

use crate::kernel::{count, read};
use crate::{
    bridge, files, kernel_tls,
    maps::{CALLS, Call, Scratch, offset},
    quic, scope,
    socket::Sock,
    stream,
    tracepoints::{MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC},
    vector,
};
use agent_common::abi::{direction, probe, reason};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

const ERROR_FREE: u64 = -4096i64 as u64;
const PAGE_SHIFT: u64 = 12;

const NOTHING: u32 = 0;
const BUFFER: u32 = 1;
const VECTOR: u32 = 2;

/// `int inet_sendmsg(struct socket *sock, struct msghdr *msg, size_t size)`
#[fentry(function = "inet_sendmsg")]
pub fn inet_sendmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), 0)
}

#[fexit(function = "inet_sendmsg")]
pub fn inet_sendmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(1), ctx.arg(3), probe::SEND, direction::SENT)
}

/// `int inet6_sendmsg(struct socket *sock, struct msghdr *msg, size_t size)`
#[fentry(function = "inet6_sendmsg")]
pub fn inet6_sendmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), 0)
}

#[fexit(function = "inet6_sendmsg")]
pub fn inet6_sendmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(1), ctx.arg(3), probe::SEND, direction::SENT)
}

/// `int inet_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fentry(function = "inet_recvmsg")]
pub fn inet_recvmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), ctx.arg(3))
}

#[fexit(function = "inet_recvmsg")]
pub fn inet_recvmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(1), ctx.arg(4), probe::RECEIVE, direction::RECEIVED)
}

/// `int inet6_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fentry(function = "inet6_recvmsg")]
pub fn inet6_recvmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), ctx.arg(3))
}

#[fexit(function = "inet6_recvmsg")]
pub fn inet6_recvmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(1), ctx.arg(4), probe::RECEIVE, direction::RECEIVED)
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`
#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), 0)
}

#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(1), ctx.arg(3), probe::SEND, direction::SENT)
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fentry(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), ctx.arg(3))
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(1), ctx.arg(4), probe::RECEIVE, direction::RECEIVED)
}

/// `unsigned long vm_mmap_pgoff(struct file *file, unsigned long addr, unsigned long len, unsigned long prot,
/// unsigned long flag, unsigned long pgoff)`
#[fexit(function = "vm_mmap_pgoff")]
pub fn vm_mmap_pgoff_exit(ctx: FExitContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let protection: u64 = ctx.arg(3);
    let address: u64 = ctx.arg(6);
    // An error is within the last page (`IS_ERR_VALUE`).
    if file != 0 && protection & 4 != 0 && address <= ERROR_FREE && scope::holds_current() {
        let pages: u64 = ctx.arg(5);
        files::mapped(file, address, ctx.arg(2), pages << PAGE_SHIFT);
    }
    0
}

#[inline(always)]
fn enter(socket: u64, message: u64, flags: u32) -> i32 {
    if !scope::holds_current() {
        return 0;
    }
    let mut call = Call {
        sock: read(socket, offset!(socket_sk)).unwrap_or(0),
        base: 0,
        offset: 0,
        count: 0,
        control: 0,
        elements: 0,
        kind: NOTHING,
        flags,
        _pad: 0,
    };
    if read::<u64>(message, offset!(msghdr_controllen)).unwrap_or(0) >= kernel_tls::CONTROL_LEN {
        call.control = read(message, offset!(msghdr_control)).unwrap_or(0);
    }
    let iterator = message + offset!(msghdr_iter) as u64;
    let kind = read::<u8>(iterator, offset!(iter_type)).unwrap_or(u8::MAX) as u32;
    call.offset = read(iterator, offset!(iter_iov_offset)).unwrap_or(0);
    call.count = read(iterator, offset!(iter_count)).unwrap_or(0);
    if kind == offset!(value_iter_ubuf) {
        call.kind = BUFFER;
        call.base = read(iterator, offset!(iter_ubuf)).unwrap_or(0);
    } else if kind == offset!(value_iter_iovec) {
        call.kind = VECTOR;
        call.base = read(iterator, offset!(iter_iov)).unwrap_or(0);
        call.elements = read::<u64>(iterator, offset!(iter_nr_segs)).unwrap_or(0) as u32;
    }
    // A full LRU map evicts a call that never returned.
    let _ = CALLS.insert(bpf_get_current_pid_tgid(), call, 0);
    0
}

/// What this thread's call was to move.
#[inline(always)]
fn returned() -> Option<Call> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes its entry.
    let call = unsafe { CALLS.get(thread) }.copied()?;
    let _ = CALLS.remove(thread);
    Some(call)
}

/// Says in `scratch` where the call's bytes lie. False if that cannot be read.
#[inline(always)]
fn vector_of(call: &Call, scratch: &mut Scratch) -> bool {
    scratch.walk.elements = 0;
    match call.kind {
        BUFFER => vector::buffer(scratch, call.base + call.offset, call.count),
        VECTOR if !vector::kernel(scratch, call.base, call.elements as u64, call.offset) => {
            scratch.walk.elements = 0;
            return false;
        }
        _ => {}
    }
    true
}

#[inline(always)]
fn exit(message: u64, moved: i32, row: u32, of: u8) -> i32 {
    let Some(call) = returned() else {
        return 0;
    };
    let flags = call.flags as u64;
    if moved < 0 || flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    let Some(sock) = Sock::from_sock(call.sock) else {
        return 0;
    };
    let Some(scratch) = stream::scratch(of) else {
        return 0;
    };
    if moved == 0 {
        if of == direction::RECEIVED && call.count != 0 {
            stream::ended(row, sock, scratch);
        }
        return 0;
    }
    scratch.walk.elements = 0;
    if (flags & MSG_TRUNC == 0 || of == direction::SENT) && !vector_of(&call, scratch) {
        count(row, reason::FAULT, 1);
    }
    scratch.walk.moved = moved as u64;
    if sock.datagram {
        quic::moved(of, &sock, quic::KERNEL, quic::kernel_name(message), scratch);
        return 0;
    }
    let control = if of == direction::SENT {
        kernel_tls::Control::Kernel(call.control)
    } else {
        kernel_tls::Control::User(call.control)
    };
    scratch.walk.control = kernel_tls::is_control(control) as u32;
    scratch.walk.behind = 0;
    stream::moved(row, of, &sock, scratch);
    bridge::nested(&sock, of, scratch);
    0
}
