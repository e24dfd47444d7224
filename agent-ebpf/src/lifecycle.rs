//! Processes and sockets that come and go; cgroups that come back.

use crate::{
    bridge, emit, files,
    kernel::{cgroup_id, count, describe_current, leader, read},
    maps::{BREAKPOINTS, CONNECTIONS, PROCESS_SCRATCH, PROCESSES, offset, setting},
    scope, stream,
};
use agent_common::abi::{
    self, ARGUMENTS_MAX, Breakpoints, CGROUP_PATH_MAX, Connection, FILENAME_MAX, TICK, kind, probe,
    reason,
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_probe_read_kernel_str, bpf_probe_read_user},
    },
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};

/// `TCP_CLOSE` (include/net/tcp_states.h)
const TCP_CLOSE: i32 = 7;

/// `TP_PROTO(const struct sock *sk, const int oldstate, const int newstate)`
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
    let sock: u64 = ctx.arg(0);
    if ctx.arg::<i32>(2) != TCP_CLOSE {
        return 0;
    }
    // A program that still holds the socket may have bytes to read (`tcp_time_wait` closes it under the program's
    // hands): `tcp_destroy_sock` tells of its end.
    if read::<u64>(sock, offset!(sk_socket)).unwrap_or(0) == 0 {
        gone(sock);
    }
    0
}

/// `TP_PROTO(struct sock *sk)`
#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
pub fn tcp_destroy_sock(ctx: RawTracePointContext) -> i32 {
    gone(ctx.arg(0));
    0
}

/// Only what was in scope is in the table, whoever's context this is.
#[inline(always)]
fn gone(sock: u64) {
    // SAFETY: the value is copied at once.
    if let Some(Connection { inode, known, .. }) = unsafe { CONNECTIONS.get(sock) }.copied() {
        stream::closed(probe::STATE, sock, inode);
        let _ = CONNECTIONS.remove(sock);
        if known & Connection::TIED != 0 {
            bridge::closed(sock);
        }
    }
}

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec(ctx: RawTracePointContext) -> i32 {
    if !scope::holds_current() {
        return 0;
    }
    count(probe::PROCESS, reason::SEEN, 1);
    let task: u64 = ctx.arg(0);
    let program: u64 = ctx.arg(2);
    let Some(slot) = PROCESS_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a per-CPU slot.
    let scratch = unsafe { &mut *slot };
    let record = &mut scratch.record;
    record.header = emit::header(kind::EXEC, 0);
    describe_current(&mut record.task);
    let parent = read::<u64>(task, offset!(task_real_parent))
        .and_then(leader)
        .unwrap_or((0, 0));
    record.parent = parent.0;
    record.parent_start = parent.1;
    record.device = 0;
    record.inode = 0;
    if let Some(file) = read::<u64>(program, offset!(bprm_file))
        && let Some(inode) = read::<u64>(file, offset!(file_inode))
    {
        record.inode = read(inode, offset!(inode_ino)).unwrap_or(0);
        let block = read::<u64>(inode, offset!(inode_sb)).unwrap_or(0);
        record.device = read::<u32>(block, offset!(sb_dev)).unwrap_or(0) as u64;
    }
    let data = scratch.data.as_mut_ptr();
    let name = read::<u64>(program, offset!(bprm_filename)).unwrap_or(0);
    // SAFETY: FILENAME_MAX bytes into a larger array; the helper checks the address.
    let read_len =
        unsafe { bpf_probe_read_kernel_str(data.cast(), FILENAME_MAX as u32, name as *const _) };
    let mut filename_len = if read_len > 0 { read_len as u64 } else { 0 };
    if filename_len > FILENAME_MAX as u64 {
        filename_len = FILENAME_MAX as u64;
    }
    let (mut arguments_len, mut cut) = (0, 0);
    let memory = read::<u64>(task, offset!(task_mm)).unwrap_or(0);
    // `remove_on_exec` has taken the breakpoints of the program before.
    let _ = BREAKPOINTS.remove(record.task.process);
    files::executed(
        &mut scratch.executed,
        read(program, offset!(bprm_file)).unwrap_or(0),
        name,
    );
    if let Some(from) = read::<u64>(memory, offset!(mm_arg_start))
        && let Some(to) = read::<u64>(memory, offset!(mm_arg_end))
        && to > from
    {
        arguments_len = to - from;
        if arguments_len > ARGUMENTS_MAX as u64 {
            arguments_len = ARGUMENTS_MAX as u64;
            cut = 1;
        }
        // SAFETY: both lengths are clamped above; the helper checks the address.
        let failed = unsafe {
            bpf_probe_read_user(
                data.add(filename_len as usize).cast(),
                arguments_len as u32,
                from as *const _,
            )
        };
        if failed != 0 {
            count(probe::PROCESS, reason::FAULT, 1);
            arguments_len = 0;
        }
    }
    record.filename_len = filename_len as u32;
    record.arguments_len = arguments_len as u32;
    record.arguments_cut = cut;
    record._pad = 0;
    let len = size_of::<abi::Exec>() as u64 + filename_len + arguments_len;
    record.header.len = len as u32;
    let submitted = len <= (size_of::<abi::Exec>() + FILENAME_MAX + ARGUMENTS_MAX) as u64
        && emit::submit(
            probe::PROCESS,
            (&raw const *record).cast(),
            len as usize,
            emit::WAKE,
        );
    emit::reported(probe::PROCESS, submitted);
    0
}

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
    let child: u64 = ctx.arg(1);
    let (Some(thread), Some(process)) = (
        read::<u32>(child, offset!(task_pid)),
        read::<u32>(child, offset!(task_tgid)),
    ) else {
        return 0;
    };
    if thread != process || !scope::holds_current() {
        return 0;
    }
    let Some((parent, parent_start)) = leader(ctx.arg(0)) else {
        return 0;
    };
    let child_start: u64 = read(child, offset!(task_start_boottime)).unwrap_or(0);
    if setting!(scope_processes) == 1
        && scope::holds_process(parent, parent_start)
        && PROCESSES
            .insert(scope::key(process, child_start), 1, 0)
            .is_err()
    {
        count(probe::PROCESS, reason::TABLE_FULL, 1);
    }
    // SAFETY: the value is copied at once.
    if let Some(Breakpoints { start, at }) = unsafe { BREAKPOINTS.get(parent) }.copied()
        && start / TICK == parent_start / TICK
    {
        // The kernel gives the child its parent's breakpoints (`inherit_event`), at the same addresses.
        let inherited = Breakpoints {
            start: child_start,
            at,
        };
        if BREAKPOINTS.insert(process, inherited, 0).is_err() {
            count(probe::ATTACH, reason::TABLE_FULL, 1);
        }
    }
    count(probe::PROCESS, reason::SEEN, 1);
    let record = abi::Fork {
        header: emit::header(kind::FORK, size_of::<abi::Fork>()),
        child: process,
        parent,
        child_start,
        parent_start,
        // SAFETY: no preconditions. A child begins in its parent's cgroup, unless clone3 says otherwise.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
    };
    emit::attach(&record, emit::QUIET);
    emit::report(probe::PROCESS, &record, emit::QUIET);
    0
}

/// `TP_PROTO(struct task_struct *p)`, on the exiting thread.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit(ctx: RawTracePointContext) -> i32 {
    if !scope::holds_current() {
        return 0;
    }
    // A thread that ends within a library's call leaves it behind, and another may have its number.
    bridge::thread_ended();
    let task: u64 = ctx.arg(0);
    // Decremented before the tracepoint: 0 on the last thread.
    let live = read::<u64>(task, offset!(task_signal))
        .and_then(|signal| read::<i32>(signal, offset!(signal_live)));
    if live != Some(0) {
        return 0;
    }
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    let start = leader(task).map_or(0, |(_, start)| start);
    count(probe::PROCESS, reason::SEEN, 1);
    let record = abi::Exit {
        header: emit::header(kind::EXIT, size_of::<abi::Exit>()),
        process,
        _pad: 0,
        start,
    };
    let _ = BREAKPOINTS.remove(process);
    emit::attach(&record, emit::QUIET);
    emit::report(probe::PROCESS, &record, emit::QUIET);
    if setting!(scope_processes) == 1 {
        let _ = PROCESSES.remove(scope::key(process, start));
    }
    0
}

/// `TP_PROTO(struct cgroup *cgrp, const char *path)`: a unit that restarts gets a new cgroup.
#[raw_tracepoint(tracepoint = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: RawTracePointContext) -> i32 {
    let cgroup: u64 = ctx.arg(0);
    let Some(id) = cgroup_id(cgroup) else {
        return 0;
    };
    let Some(slot) = PROCESS_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a per-CPU slot.
    let record = unsafe { &mut (*slot).cgroup };
    record.header = emit::header(kind::CGROUP, size_of::<abi::Cgroup>());
    record.id = id;
    record.path = [0; CGROUP_PATH_MAX];
    // SAFETY: the array's size; the helper checks the address.
    let n = unsafe {
        bpf_probe_read_kernel_str(
            record.path.as_mut_ptr().cast(),
            CGROUP_PATH_MAX as u32,
            ctx.arg::<u64>(1) as *const _,
        )
    };
    if n > 0 {
        emit::submit_value(probe::PROCESS, record, emit::WAKE);
    }
    0
}

/// `TP_PROTO(struct cgroup *dst_cgrp, const char *path, struct task_struct *task, bool threadgroup)`, when it has moved.
/// Cgroups of version 1 come by here, too, with the same cgroup of version 2 as before.
#[raw_tracepoint(tracepoint = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: RawTracePointContext) -> i32 {
    let task: u64 = ctx.arg(2);
    let Some((process, start)) = leader(task) else {
        return 0;
    };
    // A single thread that is not the first: what the process may be told of is as it was.
    if read::<u32>(task, offset!(task_pid)) != Some(process)
        || setting!(scope_host) == 1
        || process == setting!(own_process)
        || process == setting!(own_worker)
        || setting!(scope_processes) == 1 && scope::holds_process(process, start)
    {
        return 0;
    }
    let inside = scope::holds_cgroup_of(task);
    // Of whoever was never in scope nothing is told, and nothing more is read of whoever leaves it.
    if !inside && BREAKPOINTS.remove(process).is_err() {
        return 0;
    }
    let record = abi::Moved {
        header: emit::header(kind::MOVED, size_of::<abi::Moved>()),
        process,
        inside: inside as u32,
        start,
    };
    emit::attach(&record, emit::WAKE);
    0
}
