//! Files that a process makes executable, or creates so, told to the process that attaches: it searches them before they
//! run.
//!
//! On the rung of tracepoints the calls come by `sys_exit`, on that of fentry by one program for each of them, which is
//! attached where the kernel has its function. Both end in [`finished`].

use crate::{
    emit,
    kernel::current_start,
    maps::setting,
    scope,
    tracepoints::{Arguments, arguments, is_32_bit},
};
use agent_common::abi::Made;
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    macros::fexit,
    programs::FExitContext,
};

/// x86-64 system call numbers (arch/x86/entry/syscalls/syscall_64.tbl).
mod nr {
    pub const OPEN: u64 = 2;
    pub const CREAT: u64 = 85;
    pub const CHMOD: u64 = 90;
    pub const FCHMOD: u64 = 91;
    pub const OPENAT: u64 = 257;
    pub const FCHMODAT: u64 = 268;
    pub const OPENAT2: u64 = 437;
    pub const FCHMODAT2: u64 = 452;
}

const S_IXUGO: u64 = 0o111;
const O_ACCMODE: u64 = 3;
/// `O_CREAT`, `__O_TMPFILE`
const CREATES: u64 = 0o100 | 0o20_000_000;

/// Whether [`finished`] wants to know of this call.
#[inline(always)]
pub fn is_told(call: u64) -> bool {
    setting!(tell_made) == 1
        && matches!(
            call,
            nr::OPEN
                | nr::CREAT
                | nr::CHMOD
                | nr::FCHMOD
                | nr::OPENAT
                | nr::FCHMODAT
                | nr::OPENAT2
                | nr::FCHMODAT2
        )
}

/// A call with these registers (`struct pt_regs *`) of a process in scope has given `ret`, which is no error. On a stack
/// of its own: verifiers bound to 512 bytes what functions that call one another have together.
#[inline(never)]
pub fn exited(call: u64, regs: u64, ret: u64) -> u32 {
    if let Some(regs) = arguments(regs) {
        finished(call, &regs, ret);
    }
    0
}

/// A call of a process in scope has given `ret`, which is no error.
#[inline(always)]
fn finished(call: u64, regs: &Arguments, ret: u64) {
    if is_32_bit() {
        return;
    }
    let current_folder = Made::WORKING_FOLDER;
    let opened = ret as i32;
    let (descriptor, folder, path, mode) = match call {
        nr::CHMOD => (Made::NOT_OPEN, current_folder, regs.rdi, regs.rsi),
        nr::FCHMOD => (regs.rdi as i32, current_folder, 0, regs.rsi),
        nr::FCHMODAT | nr::FCHMODAT2 => (Made::NOT_OPEN, regs.rdi as i32, regs.rsi, regs.rdx),
        nr::CREAT => (opened, current_folder, regs.rdi, regs.rsi),
        nr::OPEN => {
            let mode = created(regs.rsi, regs.rdx);
            (opened, current_folder, regs.rdi, mode)
        }
        nr::OPENAT => {
            let mode = created(regs.rdx, regs.r10);
            (opened, regs.rdi as i32, regs.rsi, mode)
        }
        _ => {
            // struct open_how: flags, mode.
            // SAFETY: the helper checks the address.
            let how = unsafe { bpf_probe_read_user(regs.rdx as *const [u64; 2]) };
            let [flags, mode] = how.unwrap_or([0; 2]);
            (opened, regs.rdi as i32, regs.rsi, created(flags, mode))
        }
    };
    if mode & S_IXUGO == 0 {
        return;
    }
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    emit::made(process, current_start(), descriptor, folder, path);
}

/// The mode that a file gets if it is created to be written.
#[inline(always)]
fn created(flags: u64, mode: u64) -> u64 {
    if flags & CREATES != 0 && flags & O_ACCMODE != 0 {
        mode
    } else {
        0
    }
}

#[inline(always)]
fn returned(call: u64, regs: u64, ret: i64) -> i32 {
    if ret >= 0
        && scope::holds_current()
        && let Some(regs) = arguments(regs)
    {
        finished(call, &regs, ret as u64);
    }
    0
}

/// `long __x64_sys_NAME(const struct pt_regs *regs)`
macro_rules! returns {
    ($($function:literal: $name:ident, $call:expr;)*) => {$(
        #[fexit(function = $function)]
        pub fn $name(ctx: FExitContext) -> i32 {
            returned($call, ctx.arg(0), ctx.arg(1))
        }
    )*};
}

returns! {
    "__x64_sys_open": open_exit, nr::OPEN;
    "__x64_sys_creat": creat_exit, nr::CREAT;
    "__x64_sys_chmod": chmod_exit, nr::CHMOD;
    "__x64_sys_fchmod": fchmod_exit, nr::FCHMOD;
    "__x64_sys_openat": openat_exit, nr::OPENAT;
    "__x64_sys_fchmodat": fchmodat_exit, nr::FCHMODAT;
    "__x64_sys_openat2": openat2_exit, nr::OPENAT2;
    "__x64_sys_fchmodat2": fchmodat2_exit, nr::FCHMODAT2;
}
