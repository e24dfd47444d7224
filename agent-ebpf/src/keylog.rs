//! Where TLS libraries pass label and secret: hit once per secret of a handshake, entry only.

use crate::{
    emit,
    kernel::{count, describe_current},
    scope,
};
use agent_common::abi::{self, LABEL_MAX, SECRET_MAX, kind, probe, reason};
use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_attach_cookie, bpf_probe_read_user, bpf_probe_read_user_str},
    macros::uprobe,
    programs::ProbeContext,
};

/// OpenSSL 3 and BoringSSL `ssl_log_secret(ssl, label, secret, length)`, GnuTLS
/// `_gnutls_call_keylog_func(session, label, secret, size)`: one form.
#[uprobe]
pub fn keylog_point(ctx: ProbeContext) -> u32 {
    if !scope::holds_current() {
        return 0;
    }
    let (Some(label), Some(secret), Some(len)) = (ctx.arg::<u64>(1), ctx.arg::<u64>(2), ctx.arg::<u64>(3)) else {
        return 0;
    };
    count(probe::KEYLOG, reason::SEEN, 1);
    if len == 0 || len > SECRET_MAX as u64 {
        count(probe::KEYLOG, reason::OVERSIZE, 1);
        return 0;
    }
    // SAFETY: the context of this program.
    let point = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    // SAFETY: all integers.
    let mut record: abi::Secret = unsafe { core::mem::zeroed() };
    record.header = emit::header(kind::SECRET, size_of::<abi::Secret>());
    record.point = point;
    record.len = len as u32;
    // SAFETY: the arrays' sizes; the helpers check the addresses.
    let failed = unsafe {
        bpf_probe_read_user_str(record.label.as_mut_ptr().cast(), LABEL_MAX as u32, label as *const _) <= 0
            || bpf_probe_read_user(record.secret.as_mut_ptr().cast(), len as u32, secret as *const _) != 0
    };
    if failed {
        count(probe::KEYLOG, reason::FAULT, 1);
        return 0;
    }
    describe_current(&mut record.task);
    if emit::submit_value(probe::KEYLOG, &record, emit::QUIET) {
        count(probe::KEYLOG, reason::REPORTED, 1);
    }
    0
}
