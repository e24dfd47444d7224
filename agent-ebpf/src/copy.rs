//! Copying the caller's bytes, wherever its vector has them.

use crate::maps::Scratch;
use agent_common::abi::{PAYLOAD_MAX, VECTOR_MAX};
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use core::hint::black_box;

/// Copies `len` bytes from place `from` of the call into `scratch.data`. False on a fault or where the vector ends.
#[inline(always)]
pub fn range(scratch: &mut Scratch, from: u64, len: u64) -> bool {
    let mut done: u64 = 0;
    let mut start: u64 = 0;
    for i in 0..VECTOR_MAX {
        if i as u32 >= scratch.walk.elements || done >= len {
            break;
        }
        let element = scratch.vector[i];
        let end = start + element.len;
        let place = from + done;
        if place < end {
            let within = place - start;
            let mut n = end - place;
            if n > len - done {
                n = len - done;
            }
            // For the verifier, which does not know that done + n <= len <= PAYLOAD_MAX; `black_box`, because the
            // compiler does know, and would leave the bounds out.
            let at = black_box(done) & (PAYLOAD_MAX as u64 - 1);
            let n = black_box(n);
            if n > PAYLOAD_MAX as u64 {
                return false;
            }
            // SAFETY: `data` has room for twice PAYLOAD_MAX; the helper checks the user's address.
            let failed = unsafe {
                bpf_probe_read_user(
                    scratch.data.as_mut_ptr().add(at as usize).cast(),
                    n as u32,
                    (element.base + within) as *const _,
                )
            };
            if failed != 0 {
                return false;
            }
            done += n;
        }
        start = end;
    }
    done == len
}

/// The `N` bytes at place `from`, without touching `scratch.data`; fewer elements than a head may span are walked.
#[inline(always)]
pub fn peek<const N: usize>(scratch: &Scratch, from: u64) -> Option<[u8; N]> {
    let mut start: u64 = 0;
    for i in 0..VECTOR_MAX {
        if i as u32 >= scratch.walk.elements {
            break;
        }
        let element = scratch.vector[i];
        let end = start + element.len;
        if from < end {
            if end - from < N as u64 {
                return None;
            }
            let mut bytes = [0u8; N];
            // SAFETY: N bytes into an array of N; the helper checks the user's address.
            let failed = unsafe {
                bpf_probe_read_user(
                    bytes.as_mut_ptr().cast(),
                    N as u32,
                    (element.base + from - start) as *const _,
                )
            };
            return (failed == 0).then_some(bytes);
        }
        start = end;
    }
    None
}
