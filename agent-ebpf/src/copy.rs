//! Copying the caller's bytes, wherever its vector has them.
//!
//! Most calls have one buffer, which is read straight away. Longer vectors are walked by `bpf_loop` with the walk's state
//! in the map: old verifiers look at the callback once, where a loop of our own would cost them a million steps.

use crate::maps::{Element, Part, Scratch};
use agent_common::abi::{PAYLOAD_MAX, VECTOR_MAX};
use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};
use core::{ffi::c_void, hint::black_box};

/// Copies `len` bytes from place `from` of the call into `scratch.data`. False on a fault or where the vector ends.
#[inline(always)]
pub fn range(scratch: &mut Scratch, from: u64, len: u64) -> bool {
    if scratch.walk.elements == 0 {
        return false;
    }
    let first = scratch.vector[0];
    if first.len >= from && first.len - from >= len {
        return read_user(scratch, 0, len, first.base + from);
    }
    walk(scratch, from, len, copy_element);
    scratch.part.done == len
}

/// Hands each element of the vector, in order, to `visit`, a `bpf_loop` callback, until it returns 1. What it looks for
/// and what it found are in `scratch.part`.
#[inline(always)]
fn walk(scratch: &mut Scratch, from: u64, len: u64, visit: extern "C" fn(u32, *mut c_void) -> i64) {
    scratch.part = Part {
        from,
        len,
        done: 0,
        start: 0,
    };
    let mut context: *mut Scratch = scratch;
    // SAFETY: the callback has the signature that `bpf_loop` documents; the context is a pointer
    // in this frame to what the callback changes, which also tells the compiler that it does.
    unsafe {
        bpf_loop(
            scratch.walk.elements,
            visit as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
}

/// `bpf_loop` callback: what the element of this number has of `scratch.part`.
extern "C" fn copy_element(i: u32, context: *mut c_void) -> i64 {
    // SAFETY: `walk` passes a pointer to its scratch.
    let scratch = unsafe { &mut **(context as *mut *mut Scratch) };
    let element = element(scratch, i);
    let Part {
        from,
        len,
        done,
        start,
    } = scratch.part;
    let end = start + element.len;
    scratch.part.start = end;
    let place = from + done;
    if place >= end {
        return 0;
    }
    let mut n = end - place;
    if n > len - done {
        n = len - done;
    }
    if !read_user(scratch, done, n, element.base + (place - start)) {
        return 1;
    }
    scratch.part.done = done + n;
    (scratch.part.done == len) as i64
}

/// The loop runs over at most `VECTOR_MAX` elements; the mask and its `black_box` say so to the verifier.
#[inline(always)]
fn element(scratch: &Scratch, i: u32) -> Element {
    scratch.vector[black_box(i as usize) & (VECTOR_MAX - 1)]
}

/// Reads `n` bytes at `address` to place `at` of `scratch.data`; `at` and `n` are at most `PAYLOAD_MAX` together.
#[inline(always)]
fn read_user(scratch: &mut Scratch, at: u64, n: u64, address: u64) -> bool {
    // For the verifier, which bounds place and length one by one; `black_box`, because the compiler knows better and
    // would leave the bounds out.
    let at = black_box(at) & (PAYLOAD_MAX as u64 - 1);
    let n = black_box(n);
    if n > PAYLOAD_MAX as u64 {
        return false;
    }
    // SAFETY: `data` has room for twice PAYLOAD_MAX; the helper checks the user's address.
    unsafe {
        bpf_probe_read_user(
            scratch.data.as_mut_ptr().add(at as usize).cast(),
            n as u32,
            address as *const _,
        ) == 0
    }
}

/// The `N` bytes at place `from`, if one element has them all; `scratch.data` is not touched.
#[inline(always)]
pub fn peek<const N: usize>(scratch: &mut Scratch, from: u64) -> Option<[u8; N]> {
    if scratch.walk.elements == 0 {
        return None;
    }
    let first = scratch.vector[0];
    let (address, left) = if from < first.len {
        (first.base + from, first.len - from)
    } else {
        walk(scratch, from, 0, find_element);
        (scratch.part.done, scratch.part.len)
    };
    if left < N as u64 {
        return None;
    }
    let mut bytes = [0u8; N];
    // SAFETY: N bytes into an array of N; the helper checks the user's address.
    let failed =
        unsafe { bpf_probe_read_user(bytes.as_mut_ptr().cast(), N as u32, address as *const _) };
    (failed == 0).then_some(bytes)
}

/// `bpf_loop` callback: ends at the element that holds `scratch.part.from`, with the address of that place in `done` and
/// what the element has from there in `len`.
extern "C" fn find_element(i: u32, context: *mut c_void) -> i64 {
    // SAFETY: `walk` passes a pointer to its scratch.
    let scratch = unsafe { &mut **(context as *mut *mut Scratch) };
    let element = element(scratch, i);
    let start = scratch.part.start;
    let end = start + element.len;
    scratch.part.start = end;
    if scratch.part.from >= end {
        return 0;
    }
    scratch.part.done = element.base + (scratch.part.from - start);
    scratch.part.len = end - scratch.part.from;
    1
}
