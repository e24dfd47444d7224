//! Where a call's bytes lie: one buffer, or a vector of them in user or kernel memory.

use crate::maps::{Element, Scratch};
use agent_common::abi::VECTOR_MAX;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use core::hint::black_box;

#[inline(always)]
pub fn buffer(scratch: &mut Scratch, base: u64, len: u64) {
    scratch.vector[0] = Element { base, len };
    scratch.walk.elements = 1;
}

/// At most `VECTOR_MAX`; `black_box`, or the compiler would bound another register than the one that is used.
#[inline(always)]
fn clamped(count: u64) -> u32 {
    let count = black_box(count);
    if count > VECTOR_MAX as u64 {
        VECTOR_MAX as u32
    } else {
        count as u32
    }
}

/// `struct iovec` in the caller's memory.
#[inline(always)]
pub fn user(scratch: &mut Scratch, base: u64, count: u64) -> bool {
    let n = clamped(count);
    scratch.walk.elements = n;
    // SAFETY: at most VECTOR_MAX elements of 16 bytes; the helper checks the address.
    unsafe {
        bpf_probe_read_user(scratch.vector.as_mut_ptr().cast(), n * 16, base as *const _) == 0
    }
}

/// The kernel's copy of the vector (`iov_iter.__iov`), `offset` bytes into its first element.
#[inline(always)]
pub fn kernel(scratch: &mut Scratch, base: u64, count: u64, offset: u64) -> bool {
    let n = clamped(count);
    scratch.walk.elements = n;
    // SAFETY: as above.
    if unsafe {
        bpf_probe_read_kernel(scratch.vector.as_mut_ptr().cast(), n * 16, base as *const _)
    } != 0
    {
        return false;
    }
    scratch.vector[0].base += offset;
    scratch.vector[0].len -= offset;
    true
}
