//! Socket rung 1: fentry and fexit below the system calls, so that io_uring is seen too.
//!
//! The vector is taken at entry (the call moves the iterator), the result and the socket's position at exit. The result
//! is read as the argument after the last one, not by `bpf_get_func_ret`: verifiers before 6.8 take its two results for
//! one value and drop the branch where a call has moved something.

use crate::kernel::{count, read};
use crate::{
    maps::{CALLS, Call, offset},
    quic, scope,
    socket::Sock,
    stream,
    tracepoints::{MSG_ERRQUEUE, MSG_OOB, MSG_PEEK, MSG_TRUNC, mapped},
    vector,
};
use agent_common::abi::{direction, probe, reason};
use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};

const NOTHING: u32 = 0;
const BUFFER: u32 = 1;
const VECTOR: u32 = 2;

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`
#[fentry(function = "tcp_sendmsg")]
pub fn tcp_sendmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), 0)
}

#[fexit(function = "tcp_sendmsg")]
pub fn tcp_sendmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(3), probe::SEND, direction::SENT)
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len)`
#[fentry(function = "tcp_recvmsg")]
pub fn tcp_recvmsg_enter(ctx: FEntryContext) -> i32 {
    enter(ctx.arg(0), ctx.arg(1), ctx.arg(3))
}

#[fexit(function = "tcp_recvmsg")]
pub fn tcp_recvmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(5), probe::RECEIVE, direction::RECEIVED)
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`
#[fentry(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_enter(ctx: FEntryContext) -> i32 {
    enter(
        read(ctx.arg(0), offset!(socket_sk)).unwrap_or(0),
        ctx.arg(1),
        0,
    )
}

#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_stream_sendmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(3), probe::SEND, direction::SENT)
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`
#[fentry(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_enter(ctx: FEntryContext) -> i32 {
    enter(
        read(ctx.arg(0), offset!(socket_sk)).unwrap_or(0),
        ctx.arg(1),
        ctx.arg(3),
    )
}

#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_stream_recvmsg_exit(ctx: FExitContext) -> i32 {
    exit(ctx.arg(4), probe::RECEIVE, direction::RECEIVED)
}

/// `int udp_sendmsg(struct sock *sk, struct msghdr *msg, size_t len)`
#[fentry(function = "udp_sendmsg")]
pub fn udp_sendmsg_enter(ctx: FEntryContext) -> i32 {
    datagram(ctx.arg(0), ctx.arg(1))
}

/// `int udpv6_sendmsg(struct sock *sk, struct msghdr *msg, size_t len)`
#[fentry(function = "udpv6_sendmsg")]
pub fn udpv6_sendmsg_enter(ctx: FEntryContext) -> i32 {
    datagram(ctx.arg(0), ctx.arg(1))
}

#[inline(always)]
fn datagram(sock: u64, message: u64) -> i32 {
    if scope::holds_current()
        && let Some(sock) = Sock::from_sock(sock)
    {
        quic::sent(&sock, quic::kernel_name(message));
    }
    0
}

/// `unsigned long vm_mmap_pgoff(struct file *file, unsigned long addr, unsigned long len, unsigned long prot,
/// unsigned long flag, unsigned long pgoff)`
#[fexit(function = "vm_mmap_pgoff")]
pub fn vm_mmap_pgoff_exit(ctx: FExitContext) -> i32 {
    let file: u64 = ctx.arg(0);
    let protection: u64 = ctx.arg(3);
    if file != 0 && protection & 4 != 0 && scope::holds_current() {
        mapped(file);
    }
    0
}

#[inline(always)]
fn enter(sock: u64, message: u64, flags: u32) -> i32 {
    if sock == 0 || !scope::holds_current() {
        return 0;
    }
    let mut call = Call {
        sock,
        base: 0,
        offset: 0,
        count: 0,
        elements: 0,
        kind: NOTHING,
        flags,
        _pad: 0,
    };
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

#[inline(always)]
fn exit(moved: i32, row: u32, of: u8) -> i32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: only this thread writes its entry.
    let Some(call) = (unsafe { CALLS.get(thread) }).copied() else {
        return 0;
    };
    let _ = CALLS.remove(thread);
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
    if flags & MSG_TRUNC == 0 || of == direction::SENT {
        match call.kind {
            BUFFER => vector::buffer(scratch, call.base + call.offset, call.count),
            VECTOR if !vector::kernel(scratch, call.base, call.elements as u64, call.offset) => {
                count(row, reason::FAULT, 1);
                scratch.walk.elements = 0;
            }
            _ => {}
        }
    }
    scratch.walk.moved = moved as u64;
    scratch.walk.behind = 0;
    stream::moved(row, of, &sock, scratch);
    0
}
