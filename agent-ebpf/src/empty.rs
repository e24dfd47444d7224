//! Probes that do nothing, at the same points as the real ones: what `cargo xtask bench` measures the cost of the
//! points themselves with. Never loaded by `run`.
//!
//! Invariant: they read nothing, not even their arguments.

use aya_ebpf::{
    macros::{fentry, fexit, raw_tracepoint, uprobe, uretprobe},
    programs::{FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};

/// For every raw tracepoint, `sys_exit` among them.
#[raw_tracepoint(tracepoint = "sys_exit")]
pub fn empty_tracepoint(_: RawTracePointContext) -> i32 {
    0
}

/// For key-log points, and for the entry of the classic probes' functions.
#[uprobe]
pub fn empty_entry(_: ProbeContext) -> u32 {
    0
}

/// For the return of the classic probes' functions.
#[uretprobe]
pub fn empty_return(_: RetProbeContext) -> u32 {
    0
}

/// One pair per function: a tracing program is bound to its function when it is loaded.
macro_rules! empty {
    ($($function:literal: $enter:ident, $exit:ident;)*) => {$(
        #[fentry(function = $function)]
        pub fn $enter(_: FEntryContext) -> i32 {
            0
        }

        #[fexit(function = $function)]
        pub fn $exit(_: FExitContext) -> i32 {
            0
        }
    )*};
}

empty! {
    "inet_sendmsg": empty_inet_sendmsg_enter, empty_inet_sendmsg_exit;
    "inet6_sendmsg": empty_inet6_sendmsg_enter, empty_inet6_sendmsg_exit;
    "inet_recvmsg": empty_inet_recvmsg_enter, empty_inet_recvmsg_exit;
    "inet6_recvmsg": empty_inet6_recvmsg_enter, empty_inet6_recvmsg_exit;
    "unix_stream_sendmsg": empty_unix_stream_sendmsg_enter, empty_unix_stream_sendmsg_exit;
    "unix_stream_recvmsg": empty_unix_stream_recvmsg_enter, empty_unix_stream_recvmsg_exit;
}

#[fexit(function = "vm_mmap_pgoff")]
pub fn empty_vm_mmap_pgoff_exit(_: FExitContext) -> i32 {
    0
}
