//! Where TLS libraries pass label and secret: hit once per secret of a handshake, entry only.

use crate::{
    emit,
    kernel::{count, describe_current},
    maps::PLACES,
    scope,
};
use agent_common::abi::{
    self, LABEL_MAX, Place, Places, RANDOM_LEN, SECRET_MAX, kind, probe, reason,
};
use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_get_attach_cookie, bpf_probe_read_user, bpf_probe_read_user_str},
    macros::uprobe,
    programs::ProbeContext,
};

/// The label of a TLS 1.2 master secret.
const MASTER: [u8; 16] = *b"CLIENT_RANDOM\0\0\0";

/// OpenSSL 3 and BoringSSL `ssl_log_secret(ssl, label, secret, length)`, GnuTLS
/// `_gnutls_call_keylog_func(session, label, secret, size)`: one form.
#[uprobe]
pub fn keylog_point(ctx: ProbeContext) -> u32 {
    if !scope::holds_current() {
        return 0;
    }
    let (Some(label), Some(secret), Some(len)) =
        (ctx.arg::<u64>(1), ctx.arg::<u64>(2), ctx.arg::<u64>(3))
    else {
        return 0;
    };
    let Some(mut record) = begin(&ctx, len) else {
        return 0;
    };
    // SAFETY: the array's size; the helper checks the address.
    let labelled = unsafe {
        bpf_probe_read_user_str(
            record.label.as_mut_ptr().cast(),
            LABEL_MAX as u32,
            label as *const _,
        ) > 0
    };
    let read = labelled && copy_secret(&mut record, secret);
    finish(&mut record, read);
    0
}

/// The same of code in another form: Go, rustls. `PLACES` says where label, secret and client random lie.
#[uprobe]
pub fn keylog_placed(ctx: ProbeContext) -> u32 {
    if !scope::holds_current() {
        return 0;
    }
    // SAFETY: the context of this program.
    let point = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    // SAFETY: the loader changes no entry of a point that is attached.
    let Some(places) = (unsafe { PLACES.get(point) }) else {
        return 0;
    };
    let registers = registers(&ctx);
    let Some(mut record) = begin(&ctx, value(&registers, &places.secret_len).unwrap_or(0)) else {
        return 0;
    };
    let found = label(&mut record, &registers, places)
        && value(&registers, &places.secret).is_some_and(|secret| copy_secret(&mut record, secret));
    if let Some(random) = value(&registers, &places.client_random)
        && random != 0
    {
        // SAFETY: the array's size; the helper checks the address.
        record.random_known = u32::from(unsafe {
            bpf_probe_read_user(
                record.client_random.as_mut_ptr().cast(),
                RANDOM_LEN as u32,
                random as *const _,
            ) == 0
        });
    }
    finish(&mut record, found);
    0
}

/// A hit with a secret of so many bytes; `None`, and counted, if that is none.
#[inline(always)]
fn begin(ctx: &ProbeContext, len: u64) -> Option<abi::Secret> {
    count(probe::KEYLOG, reason::SEEN, 1);
    crate::diagnose!(
        debug,
        ctx,
        "key-log point hit with a secret of {} bytes",
        len
    );
    if len == 0 || len > SECRET_MAX as u64 {
        crate::diagnose!(
            warn,
            ctx,
            "a secret of {} bytes is none: is this a key-log point?",
            len
        );
        count(probe::KEYLOG, reason::OVERSIZE, 1);
        count(probe::KEYLOG, reason::LOST, 1);
        return None;
    }
    // SAFETY: all integers.
    let mut record: abi::Secret = unsafe { core::mem::zeroed() };
    record.header = emit::header(kind::SECRET, size_of::<abi::Secret>());
    // SAFETY: the context of this program.
    record.point = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    record.len = len as u32;
    Some(record)
}

/// Copies as many bytes as `len` says, which [`begin`] has bounded.
#[inline(always)]
fn copy_secret(record: &mut abi::Secret, secret: u64) -> bool {
    let len = record.len;
    if len > SECRET_MAX as u32 {
        return false;
    }
    // SAFETY: within the array; the helper checks the address.
    unsafe { bpf_probe_read_user(record.secret.as_mut_ptr().cast(), len, secret as *const _) == 0 }
}

#[inline(always)]
fn finish(record: &mut abi::Secret, read: bool) {
    if !read {
        count(probe::KEYLOG, reason::FAULT, 1);
        count(probe::KEYLOG, reason::LOST, 1);
        return;
    }
    describe_current(&mut record.task);
    emit::report(probe::KEYLOG, record, emit::QUIET);
}

/// The general registers by their numbers in machine code.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn registers(ctx: &ProbeContext) -> [u64; 16] {
    // SAFETY: the context of this program.
    let regs = unsafe { &*ctx.regs };
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
}

/// No file of another machine is searched, so that nothing is attached there.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
fn registers(_: &ProbeContext) -> [u64; 16] {
    [0; 16]
}

#[inline(always)]
fn value(registers: &[u64; 16], place: &Place) -> Option<u64> {
    let start = if place.register == Place::CONSTANT {
        0
    } else {
        registers[usize::from(place.register & 15)]
    };
    let mut value = start.wrapping_add_signed(i64::from(place.offsets[0]));
    if place.loads > 0 {
        value = word(value)?.wrapping_add_signed(i64::from(place.offsets[1]));
    }
    if place.loads > 1 {
        value = word(value)?.wrapping_add_signed(i64::from(place.offsets[2]));
    }
    Some(value)
}

#[inline(always)]
fn word(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user_value(address) }.ok()
}

#[inline(always)]
fn label(record: &mut abi::Secret, registers: &[u64; 16], places: &Places) -> bool {
    let Some(len) = value(registers, &places.label_len) else {
        return false;
    };
    if len == 0 {
        record.label[..MASTER.len()].copy_from_slice(&MASTER);
        return true;
    }
    // One byte stays NUL.
    if len >= LABEL_MAX as u64 {
        return false;
    }
    let Some(label) = value(registers, &places.label) else {
        return false;
    };
    // SAFETY: within the array; the helper checks the address.
    unsafe {
        bpf_probe_read_user(
            record.label.as_mut_ptr().cast(),
            len as u32,
            label as *const _,
        ) == 0
    }
}

/// `OSSL_PARAM` (openssl/core.h), 40 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parameter {
    name: u64,
    data_type: u32,
    _pad: u32,
    data: u64,
    size: u64,
    _return_size: u64,
}

/// Parameters that are walked; OpenSSL 3 passes up to 7.
const PARAMETERS_MAX: u64 = 12;

const LABEL: [u8; 8] = *b"label\0\0\0";
const KEY: [u8; 8] = *b"key\0\0\0\0\0";
const SECRET: [u8; 8] = *b"secret\0\0";
const SEED: [u8; 8] = *b"seed\0\0\0\0";

/// OpenSSL 3 `EVP_KDF_derive(ctx, key, keylen, const OSSL_PARAM params[])`: the fallback where a libssl's key-log
/// point is not found. TLS 1.3: `label` is "key" and `key` the traffic secret, whose name is not told ("KDF"). TLS
/// 1.2: the first `seed` is "key expansion" and `secret` the master secret.
#[uprobe]
pub fn kdf_derive(ctx: ProbeContext) -> u32 {
    if !scope::holds_current() {
        return 0;
    }
    let Some(parameters) = ctx.arg::<u64>(3) else {
        return 0;
    };
    let (mut label, mut seed) = ((0u64, 0u64), (0u64, 0u64));
    let (mut key, mut master) = ((0u64, 0u64), (0u64, 0u64));
    for i in 0..PARAMETERS_MAX {
        // SAFETY: the helper checks the address.
        let Ok(parameter) =
            (unsafe { bpf_probe_read_user_value::<Parameter>(parameters + i * 40) })
        else {
            break;
        };
        if parameter.name == 0 {
            break;
        }
        // SAFETY: as above. Names are literals in a read-only page, with text behind them.
        let Ok(mut name) = (unsafe { bpf_probe_read_user_value::<[u8; 8]>(parameter.name) }) else {
            continue;
        };
        let mut ended = false;
        for byte in &mut name {
            ended |= *byte == 0;
            if ended {
                *byte = 0;
            }
        }
        let name = u64::from_ne_bytes(name);
        let value = (parameter.data, parameter.size);
        if name == u64::from_ne_bytes(LABEL) {
            label = value;
        } else if name == u64::from_ne_bytes(KEY) {
            key = value;
        } else if name == u64::from_ne_bytes(SECRET) {
            master = value;
        } else if name == u64::from_ne_bytes(SEED) && seed.0 == 0 {
            seed = value;
        }
    }
    if label.1 == 3 && key.1 != 0 && starts_with(label.0, *b"key") {
        give(ctx, *b"KDF\0\0\0\0\0\0\0\0\0\0\0\0\0", key);
    } else if seed.1 == 13 && master.1 != 0 && starts_with(seed.0, *b"key expansion") {
        give(ctx, MASTER, master);
    }
    0
}

#[inline(always)]
unsafe fn bpf_probe_read_user_value<T>(address: u64) -> Result<T, i32> {
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(address as *const T) }
}

#[inline(always)]
fn starts_with<const N: usize>(address: u64, text: [u8; N]) -> bool {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user_value::<[u8; N]>(address) } {
        Ok(found) => {
            let mut same = true;
            for i in 0..N {
                same &= found[i] == text[i];
            }
            same
        }
        Err(_) => false,
    }
}

#[inline(always)]
fn give(ctx: ProbeContext, label: [u8; 16], (secret, len): (u64, u64)) {
    count(probe::KDF, reason::SEEN, 1);
    if len > SECRET_MAX as u64 {
        count(probe::KDF, reason::OVERSIZE, 1);
        count(probe::KDF, reason::LOST, 1);
        return;
    }
    // SAFETY: all integers.
    let mut record: abi::Secret = unsafe { core::mem::zeroed() };
    record.header = emit::header(kind::SECRET, size_of::<abi::Secret>());
    // SAFETY: the context of this program.
    record.point = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) } as u32;
    record.len = len as u32;
    record.label[..16].copy_from_slice(&label);
    // SAFETY: the array's size; the helper checks the address.
    if unsafe {
        bpf_probe_read_user(
            record.secret.as_mut_ptr().cast(),
            len as u32,
            secret as *const _,
        )
    } != 0
    {
        count(probe::KDF, reason::FAULT, 1);
        count(probe::KDF, reason::LOST, 1);
        return;
    }
    describe_current(&mut record.task);
    emit::report(probe::KDF, &record, emit::QUIET);
}
