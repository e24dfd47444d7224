//! Socket rung 2: raw tracepoint `sys_exit`. Everything is read at exit, when the registers still hold the arguments
//! and the call's result is known; sendfile, splice and io_uring are not looked at here, positions tell of them (but
//! on kTLS, whose positions count what was seen).

use crate::{
    bridge, files,
    kernel::{count, current, read},
    kernel_tls, made,
    maps::{Element, offset},
    quic, scope,
    socket::Sock,
    stream, vector,
};
use agent_common::abi::{direction, probe, reason};
use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::bpf_probe_read_user,
    helpers::generated::{self, bpf_loop},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

/// x86-64 system call numbers (arch/x86/entry/syscalls/syscall_64.tbl).
mod nr {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const MMAP: u64 = 9;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const RECVMMSG: u64 = 299;
    pub const SENDMMSG: u64 = 307;
    pub const PREADV2: u64 = 327;
    pub const PWRITEV2: u64 = 328;
    pub const IO_URING_ENTER: u64 = 426;
}

/// `recv` flags that move nothing out of the stream, or not into the caller's memory.
pub const MSG_PEEK: u64 = 0x2;
pub const MSG_OOB: u64 = 0x1;
pub const MSG_TRUNC: u64 = 0x20;
pub const MSG_ERRQUEUE: u64 = 0x2000;

const PROT_EXEC: u64 = 4;
const MAP_ANONYMOUS: u64 = 0x20;
/// `thread_info.status`
const TS_COMPAT: u32 = 2;
/// `sizeof(struct mmsghdr)`: `user_msghdr` (56 bytes), `msg_len`.
const MESSAGE_SIZE: u64 = 64;
/// Messages of one recvmmsg or sendmmsg that are walked.
const MESSAGES_MAX: u64 = 8;

/// The part of `pt_regs` that holds a system call's arguments.
#[repr(C)]
pub struct Arguments {
    pub r10: u64,
    r9: u64,
    r8: u64,
    _rax: u64,
    _rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
}

/// Of `struct pt_regs *`.
#[inline(always)]
pub fn arguments(regs: u64) -> Option<Arguments> {
    read(regs, core::mem::offset_of!(pt_regs, r10) as u32)
}

/// `TP_PROTO(struct pt_regs *regs, long ret)`
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn sys_exit(ctx: RawTracePointContext) -> i32 {
    let regs: u64 = ctx.arg(0);
    let ret: i64 = ctx.arg(1);
    if ret < 0 {
        return 0;
    }
    let Some(call) = read::<u64>(regs, core::mem::offset_of!(pt_regs, orig_rax) as u32) else {
        return 0;
    };
    match call {
        nr::READ
        | nr::WRITE
        | nr::READV
        | nr::WRITEV
        | nr::SENDTO
        | nr::RECVFROM
        | nr::SENDMSG
        | nr::RECVMSG
        | nr::RECVMMSG
        | nr::SENDMMSG
        | nr::PREADV2
        | nr::PWRITEV2
        | nr::MMAP
        | nr::IO_URING_ENTER => {}
        call if made::is_told(call) => {}
        _ => return 0,
    }
    if !scope::holds_current() {
        return 0;
    }
    if made::is_told(call) {
        made::exited(call, regs, ret as u64);
        return 0;
    }
    if let Some(regs) = arguments(regs) {
        crate::diagnose!(debug, &ctx, "system call {} in scope gave {}", call, ret);
        finished(call, &regs, ret as u64);
    } else {
        crate::diagnose!(
            warn,
            &ctx,
            "the registers of system call {} could not be read",
            call
        );
    }
    0
}

#[inline(always)]
fn finished(call: u64, regs: &Arguments, ret: u64) {
    let sends = matches!(
        call,
        nr::WRITE | nr::WRITEV | nr::SENDTO | nr::SENDMSG | nr::SENDMMSG | nr::PWRITEV2
    );
    let (of, row) = if sends {
        (direction::SENT, probe::SEND)
    } else {
        (direction::RECEIVED, probe::RECEIVE)
    };
    if is_32_bit() {
        count(row, reason::COMPAT, 1);
        return;
    }
    if call == nr::IO_URING_ENTER {
        count(row, reason::IO_URING, 1);
        return;
    }
    if call == nr::MMAP {
        if regs.rdx & PROT_EXEC != 0
            && regs.r10 & MAP_ANONYMOUS == 0
            && let Some(file) = file(regs.r8)
        {
            files::mapped(file, ret, regs.rsi, regs.r9);
        }
        return;
    }
    let Some(sock) = file(regs.rdi).and_then(Sock::from_file) else {
        return;
    };
    let Some(scratch) = stream::scratch(of) else {
        return;
    };
    let mut moved = ret;
    let mut flags = 0;
    scratch.walk.control = 0;
    let found = match call {
        nr::READ | nr::WRITE => {
            vector::buffer(scratch, regs.rsi, regs.rdx);
            true
        }
        nr::SENDTO | nr::RECVFROM => {
            flags = regs.r10;
            vector::buffer(scratch, regs.rsi, regs.rdx);
            true
        }
        nr::READV | nr::WRITEV => vector::user(scratch, regs.rsi, regs.rdx),
        nr::PREADV2 | nr::PWRITEV2 => vector::user(scratch, regs.rsi, regs.rdx),
        nr::SENDMSG | nr::RECVMSG => {
            flags = regs.rdx;
            // struct user_msghdr: msg_iov at 16, msg_iovlen at 24.
            scratch.walk.control = kernel_tls::is_user_control(regs.rsi);
            message(scratch, regs.rsi)
        }
        _ => {
            flags = regs.r10;
            messages(row, of, sock, regs.rsi, ret, flags);
            return;
        }
    };
    if flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0 {
        return;
    }
    if sock.datagram {
        if found {
            let name = match call {
                nr::SENDTO | nr::RECVFROM => regs.r8,
                nr::SENDMSG | nr::RECVMSG => quic::user_name(regs.rsi),
                _ => 0,
            };
            scratch.walk.moved = moved;
            quic::moved(of, &sock, quic::USER, name, scratch);
        }
        return;
    }
    if moved == 0 {
        if of == direction::RECEIVED && regs.rdx != 0 {
            stream::ended(row, sock, scratch);
        }
        return;
    }
    if !found {
        count(row, reason::FAULT, 1);
        scratch.walk.elements = 0;
    }
    if of == direction::RECEIVED && flags & MSG_TRUNC != 0 {
        scratch.walk.elements = 0;
    }
    if moved > i32::MAX as u64 {
        moved = i32::MAX as u64;
    }
    scratch.walk.moved = moved;
    scratch.walk.behind = 0;
    stream::moved(row, of, &sock, scratch);
    bridge::nested(&sock, of, scratch);
}

/// The current system call is one of the 32-bit table, whose numbers mean others.
#[inline(always)]
pub fn is_32_bit() -> bool {
    read::<u32>(current(), offset!(task_thread_status)).unwrap_or(0) & TS_COMPAT != 0
}

#[inline(always)]
fn message(scratch: &mut crate::maps::Scratch, header: u64) -> bool {
    // Place and number of the elements, for a moment where the first element will be: not on the stack, which old
    // verifiers bound to 512 bytes for all that call one another.
    // SAFETY: 16 bytes into an element of 16; the helper checks the address.
    let failed = unsafe {
        generated::bpf_probe_read_user(
            (&raw mut scratch.vector[0]).cast(),
            16,
            (header + 16) as *const _,
        )
    };
    let Element { base, len } = scratch.vector[0];
    failed == 0 && vector::user(scratch, base, len)
}

/// One recvmmsg or sendmmsg on its way through its messages.
#[repr(C)]
struct Messages {
    sock: Sock,
    base: u64,
    /// Bytes of the messages that were not looked at yet.
    left: u64,
    row: u32,
    of: u32,
}

/// recvmmsg and sendmmsg: the socket's position is that after the last message, so what later messages moved is
/// taken off for the earlier ones. Datagrams have no position, and the kernel takes 1,024 of them at most (`UIO_MAXIOV`).
#[inline(always)]
fn messages(row: u32, of: u8, sock: Sock, base: u64, n: u64, flags: u64) {
    if flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE) != 0 {
        return;
    }
    let mut state = Messages {
        sock,
        base,
        left: 0,
        row,
        of: of as u32,
    };
    for i in 0..MESSAGES_MAX {
        if i >= n || sock.datagram {
            break;
        }
        state.left += message_len(base + i * MESSAGE_SIZE);
    }
    if n > MESSAGES_MAX && !sock.datagram {
        // A gap of known size.
        count(row, reason::OVERSIZE, 1);
        return;
    }
    // SAFETY: the callback has the signature that `bpf_loop` documents; the context is a local of this frame.
    unsafe {
        bpf_loop(
            n as u32,
            one_message as *mut c_void,
            (&raw mut state).cast(),
            0,
        );
    }
}

/// `mmsghdr.msg_len`
#[inline(always)]
fn message_len(header: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user((header + 56) as *const u32) }.unwrap_or(0) as u64
}

/// `bpf_loop` callback: the message of this number.
extern "C" fn one_message(i: u32, state: *mut c_void) -> i64 {
    // SAFETY: `messages` passes its own local.
    let state = unsafe { &mut *(state as *mut Messages) };
    let header = state.base + i as u64 * MESSAGE_SIZE;
    let moved = message_len(header);
    state.left = state.left.wrapping_sub(moved);
    let of = state.of as u8 & 1;
    let Some(scratch) = stream::scratch(of) else {
        return 1;
    };
    scratch.walk.control = kernel_tls::is_user_control(header);
    if moved == 0 || !message(scratch, header) {
        return 0;
    }
    scratch.walk.moved = moved;
    scratch.walk.behind = state.left;
    if state.sock.datagram {
        quic::moved(
            of,
            &state.sock,
            quic::USER,
            quic::user_name(header),
            scratch,
        );
    } else {
        stream::moved(state.row, of, &state.sock, scratch);
        bridge::nested(&state.sock, of, scratch);
    }
    0
}

/// `current->files->fdt->fd[descriptor]`
#[inline(always)]
fn file(descriptor: u64) -> Option<u64> {
    let descriptor = descriptor as u32;
    let files: u64 = read(current(), offset!(task_files))?;
    let table: u64 = read(files, offset!(files_fdt))?;
    let size: u32 = read(table, offset!(fdtable_max_fds))?;
    if descriptor >= size {
        return None;
    }
    let array: u64 = read(table, offset!(fdtable_fd))?;
    read::<u64>(array + descriptor as u64 * 8, 0).filter(|file| *file != 0)
}
