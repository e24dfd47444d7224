//! tokentrail's probes.
//!
//! Sockets have two rungs (`tracing`, `tracepoints`) that end in the same `stream`; `keylog` takes handshake
//! secrets; `bridge` plaintext of TLS connections whose handshake was over before; `lifecycle` tells of processes,
//! closed sockets and cgroups; `files` of what is executed and mapped, `made` of what may be. `emit` alone writes to the rings.
//!
//! Invariant: nothing is read of a process before `scope` has said that it may be.
//! Invariant: probes read and count; they never write to, block or signal what they watch.
//! Invariant: every hit ends in a record, in a count that a later record's position explains, or in a counted loss.
#![no_std]
#![no_main]

/// Diagnostics of a debug build of the probes (`cargo xtask build --probe-log`): sizes and places, never bytes.
/// Without the feature nothing of it is compiled.
macro_rules! diagnose {
    ($level:ident, $ctx:expr, $($what:tt)+) => {
        #[cfg(feature = "log")]
        aya_log_ebpf::$level!($ctx, $($what)+);
    };
}
pub(crate) use diagnose;

mod bridge;
mod copy;
mod emit;
mod empty;
mod files;
mod kernel;
mod kernel_tls;
mod keylog;
mod lifecycle;
mod made;
mod maps;
mod quic;
mod scope;
mod socket;
mod stream;
mod tracepoints;
mod tracing;
mod vector;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// GPL-compatible, which the helpers that read memory ask for.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
