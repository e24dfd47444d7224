//! Where TLS libraries pass label and secret: hit once per secret of a handshake, entry only.
//!
//! Each form has two programs: one for hardware breakpoints, which belong to one process and find their point in
//! `BREAKPOINTS`, and one for uprobes, which find it in their cookie.
//!
//! A breakpoint at a word of data comes after the instruction that reads it: where that is a call of a method by its table,
//! at the entry of the method.
//!
//! Invariant: a breakpoint's program reads nothing before it has found process and address in `BREAKPOINTS`.

use crate::{
    emit,
    kernel::{count, current_start, describe_current},
    maps::{BREAKPOINTS, PLACES},
    scope,
};
use agent_common::abi::{
    self, Breakpoint, LABEL_MAX, Passed, Place, Places, RANDOM_LEN, SECRET_MAX, TICK, kind, probe,
    reason,
};
use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_perf_event_data, pt_regs},
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_attach_cookie, bpf_probe_read_user, bpf_probe_read_user_str},
    },
    macros::{perf_event, uprobe},
    programs::{PerfEventContext, ProbeContext},
};

/// The label of a TLS 1.2 master secret.
const MASTER: [u8; 16] = *b"CLIENT_RANDOM\0\0\0";
/// Labels that stand nowhere, by [`abi::label`].
const MASTER_SECRET: [u8; 24] = {
    let mut label = [0; 24];
    let mut at = 0;
    while at < MASTER.len() {
        label[at] = MASTER[at];
        at += 1;
    }
    label
};
const CLIENT: [u8; 24] = *b"CLIENT_TRAFFIC_SECRET_0\0";
const SERVER: [u8; 24] = *b"SERVER_TRAFFIC_SECRET_0\0";

/// OpenSSL 3 and BoringSSL `ssl_log_secret(ssl, label, secret, length)`, GnuTLS
/// `_gnutls_call_keylog_func(session, label, secret, size)`: one form.
#[perf_event]
pub fn breakpoint_keylog(ctx: PerfEventContext) -> u32 {
    let registers = registers_of(&ctx);
    if let Some(point) = breakpoint(&ctx) {
        c_function(&ctx, point.point, registers);
    }
    0
}

#[uprobe]
pub fn keylog_point(ctx: ProbeContext) -> u32 {
    let registers = ctx.regs.cast_const();
    if scope::holds_current() {
        c_function(&ctx, cookie(&ctx), registers);
    }
    0
}

/// The same of code in another form: Go, rustls. `PLACES` says where label, secret and client random lie.
#[perf_event]
pub fn breakpoint_placed(ctx: PerfEventContext) -> u32 {
    let registers = registers_of(&ctx);
    if let Some(point) = breakpoint(&ctx)
        // SAFETY: the loader changes no entry of a point that is attached.
        && let Some(passed) = unsafe { PLACES.get(point.places) }
    {
        placed(&ctx, point.point, passed, registers);
    }
    0
}

#[uprobe]
pub fn keylog_placed(ctx: ProbeContext) -> u32 {
    let registers = ctx.regs.cast_const();
    if scope::holds_current() {
        // Of a uprobe, which has no other place for it, the cookie's upper half.
        // SAFETY: the context of this program.
        let cookie = unsafe { bpf_get_attach_cookie(ctx.as_ptr()) };
        // SAFETY: as above.
        if let Some(passed) = unsafe { PLACES.get((cookie >> 32) as u32) } {
            placed(&ctx, cookie as u32, passed, registers);
        }
    }
    0
}

/// OpenSSL 3 `EVP_KDF_derive(ctx, key, keylen, const OSSL_PARAM params[])`: the fallback where a libssl's key-log
/// point is not found. TLS 1.3: `label` is "key" and `key` the traffic secret, whose name is not told ("KDF"). TLS
/// 1.2: the first `seed` is "key expansion" and `secret` the master secret.
#[perf_event]
pub fn breakpoint_kdf(ctx: PerfEventContext) -> u32 {
    let registers = registers_of(&ctx);
    if let Some(point) = breakpoint(&ctx) {
        // SAFETY: the context of this program.
        derive(point.point, unsafe { (*registers).rcx });
    }
    0
}

#[uprobe]
pub fn kdf_derive(ctx: ProbeContext) -> u32 {
    let registers = ctx.regs.cast_const();
    if scope::holds_current() {
        // SAFETY: the context of this program.
        derive(cookie(&ctx), unsafe { (*registers).rcx });
    }
    0
}

/// The point at which the current process has hit a breakpoint of ours; `None`, and counted, if there is none: the
/// process has left the scope, or its event is another's.
#[inline(always)]
fn breakpoint(ctx: &PerfEventContext) -> Option<Breakpoint> {
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the context of this program. The breakpoint's own address: of data, the instruction's is another.
    let address = unsafe { (*ctx.ctx.cast_const().cast::<bpf_perf_event_data>()).addr };
    // SAFETY: an entry that changes meanwhile is integers all the same.
    let point = unsafe { BREAKPOINTS.get(process) }
        // Of a process that was there before, the agent knows the tick.
        .filter(|known| known.start / TICK == current_start() / TICK)
        .and_then(|known| {
            // A place and then the entry: what a loop over entries makes of it reads registers that it never wrote.
            let [first, second] = &known.at;
            let place = if first.address == address {
                0
            } else if second.address == address {
                1
            } else {
                return None;
            };
            known.at.get(core::hint::black_box(place) & 1).copied()
        })
        .filter(|_| scope::holds_current());
    if point.is_none() {
        count(probe::KEYLOG, reason::STRAY, 1);
    }
    point
}

/// `struct bpf_perf_event_data` begins with the registers.
#[inline(always)]
fn registers_of(ctx: &PerfEventContext) -> *const pt_regs {
    ctx.ctx.cast_const().cast()
}

#[inline(always)]
fn cookie(ctx: &ProbeContext) -> u32 {
    // SAFETY: the context of this program.
    unsafe { bpf_get_attach_cookie(ctx.as_ptr()) as u32 }
}

#[inline(always)]
fn c_function<C: EbpfContext>(ctx: &C, point: u32, registers: *const pt_regs) {
    // SAFETY: the context of this program.
    let (label, secret, len) = unsafe { ((*registers).rsi, (*registers).rdx, (*registers).rcx) };
    let Some(mut record) = begin(ctx, point, len) else {
        return;
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
}

#[inline(always)]
fn placed<C: EbpfContext>(ctx: &C, point: u32, passed: &Passed, registers: *const pt_regs) {
    let registers = general(registers);
    for (number, places) in passed.secrets.iter().enumerate() {
        if number as u64 >= passed.count {
            break;
        }
        let len = value(&registers, &places.secret_len).unwrap_or(0);
        let Some(mut record) = begin(ctx, point, len) else {
            continue;
        };
        let found = label(&mut record, &registers, places)
            && value(&registers, &places.secret)
                .is_some_and(|secret| copy_secret(&mut record, secret));
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
    }
}

/// A hit with a secret of so many bytes; `None`, and counted, if that is none.
#[inline(always)]
fn begin<C: EbpfContext>(ctx: &C, point: u32, len: u64) -> Option<abi::Secret> {
    let _ = ctx;
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
    record.point = point;
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
fn general(registers: *const pt_regs) -> [u64; 16] {
    // SAFETY: the context of this program.
    let regs = unsafe { &*registers };
    [
        regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8,
        regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
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
        let text = match places.label.offsets[0] {
            abi::label::CLIENT => CLIENT,
            abi::label::SERVER => SERVER,
            _ => MASTER_SECRET,
        };
        record.label[..text.len()].copy_from_slice(&text);
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

#[inline(always)]
fn derive(point: u32, parameters: u64) {
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
        let Ok(name) = (unsafe { bpf_probe_read_user_value::<[u8; 8]>(parameter.name) }) else {
            continue;
        };
        let name = before_nul(u64::from_ne_bytes(name));
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
        give(point, *b"KDF\0\0\0\0\0\0\0\0\0\0\0\0\0", key);
    } else if seed.1 == 13 && master.1 != 0 && starts_with(seed.0, *b"key expansion") {
        give(point, MASTER, master);
    }
}

#[inline(always)]
unsafe fn bpf_probe_read_user_value<T>(address: u64) -> Result<T, i32> {
    // SAFETY: the helper checks the address.
    unsafe { aya_ebpf::helpers::bpf_probe_read_user(address as *const T) }
}

/// The text in these bytes, with zeroes after its end. Without a branch: the verifier would follow each, in every round of
/// the walk, for seconds.
#[inline(always)]
fn before_nul(text: u64) -> u64 {
    // The lowest bit of these is that of the first NUL byte, if there is one; the machines are little-endian.
    let ends = text.wrapping_sub(0x0101_0101_0101_0101) & !text & 0x8080_8080_8080_8080;
    let first = ends & ends.wrapping_neg();
    text & (first >> 7).wrapping_sub(1)
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
fn give(point: u32, label: [u8; 16], (secret, len): (u64, u64)) {
    count(probe::KDF, reason::SEEN, 1);
    if len > SECRET_MAX as u64 {
        count(probe::KDF, reason::OVERSIZE, 1);
        count(probe::KDF, reason::LOST, 1);
        return;
    }
    // SAFETY: all integers.
    let mut record: abi::Secret = unsafe { core::mem::zeroed() };
    record.header = emit::header(kind::SECRET, size_of::<abi::Secret>());
    record.point = point;
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
