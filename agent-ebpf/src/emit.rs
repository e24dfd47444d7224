//! The only writer of the two rings.

use crate::{
    kernel::count,
    maps::{ATTACH, ATTACH_BYTES, ATTACH_LOST, RING},
};
use agent_common::abi::{self, Header, Made, PATH_MAX, kind, probe, reason};
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_user_str},
};

/// The agent looks at the ring every few milliseconds by itself, so that watched programs do not pay for waking it.
pub const QUIET: u64 = BPF_RB_NO_WAKEUP as u64;
/// Records on which the agent must act at once.
pub const WAKE: u64 = BPF_RB_FORCE_WAKEUP as u64;

#[inline(always)]
pub fn header(kind: u16, len: usize) -> Header {
    Header {
        version: abi::VERSION,
        kind,
        len: len as u32,
        // SAFETY: no preconditions.
        time: unsafe { bpf_ktime_get_boot_ns() },
    }
}

/// Puts `len` bytes at `record` into the ring; a full ring is counted.
#[inline(always)]
pub fn submit(probe: u32, record: *const u8, len: usize, wake: u64) -> bool {
    // SAFETY: the caller's record is `len` bytes long, which the verifier checks again.
    let bytes = unsafe { core::slice::from_raw_parts(record, len) };
    if RING.output::<[u8]>(bytes, wake).is_ok() {
        count(probe, reason::RECORDS, 1);
        true
    } else {
        count(probe, reason::RING_FULL, 1);
        false
    }
}

/// A record of fixed size.
#[inline(always)]
pub fn submit_value<T>(probe: u32, record: &T, wake: u64) -> bool {
    submit(probe, (&raw const *record).cast(), size_of::<T>(), wake)
}

/// The only record of a call: what it was to tell is in the ring, or counted as lost.
#[inline(always)]
pub fn report<T>(probe: u32, record: &T, wake: u64) -> bool {
    reported(probe, submit_value(probe, record, wake))
}

/// Counts how a call ended.
#[inline(always)]
pub fn reported(probe: u32, submitted: bool) -> bool {
    let outcome = if submitted {
        reason::REPORTED
    } else {
        reason::LOST
    };
    count(probe, outcome, 1);
    submitted
}

/// A record for the process that attaches. A full ring is counted; the process then looks for itself.
#[inline(always)]
pub fn attach<T>(record: &T, wake: u64) -> bool {
    count(probe::ATTACH, reason::SEEN, 1);
    // SAFETY: the value's own bytes.
    let bytes =
        unsafe { core::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<T>()) };
    let submitted = ATTACH.output::<[u8]>(bytes, wake).is_ok();
    if !submitted && let Some(lost) = ATTACH_LOST.get_ptr_mut(0) {
        // SAFETY: a slot of the map. That it has changed is all that is asked of it.
        unsafe { *lost += 1 };
    }
    count(
        probe::ATTACH,
        if submitted {
            reason::RECORDS
        } else {
            reason::RING_FULL
        },
        1,
    );
    reported(probe::ATTACH, submitted)
}

/// A file that may be executed later, with the path at `path` in the process's memory (0: none). What has happened goes
/// before it: such a record takes no more than a quarter of the ring, however many files a process makes.
#[inline(always)]
pub fn made(process: u32, start: u64, descriptor: i32, folder: i32, path: u64) {
    count(probe::ATTACH, reason::SEEN, 1);
    let waiting = ATTACH.query(BPF_RB_AVAIL_DATA as u64);
    let entry = if waiting > ATTACH_BYTES as u64 / 4 {
        None
    } else {
        ATTACH.reserve::<Made>(0)
    };
    let Some(mut entry) = entry else {
        count(probe::ATTACH, reason::RING_FULL, 1);
        reported(probe::ATTACH, false);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` is reserved memory of the record's size, aligned to 8. The helper checks the user's address, and
    // writes no more than the array's size.
    let read = unsafe {
        (&raw mut (*record).header).write(header(kind::MADE, size_of::<Made>()));
        (&raw mut (*record).process).write(process);
        (&raw mut (*record)._pad).write(0);
        (&raw mut (*record).start).write(start);
        (&raw mut (*record).descriptor).write(descriptor);
        (&raw mut (*record).folder).write(folder);
        (&raw mut (*record)._end).write(0);
        let read = if path == 0 {
            1
        } else {
            bpf_probe_read_user_str(
                (&raw mut (*record).path).cast(),
                PATH_MAX as u32,
                path as *const _,
            )
        };
        // Without the NUL.
        (&raw mut (*record).path_len).write((read - 1) as u32);
        read
    };
    // A path of the whole size may have been cut.
    let lost = match read {
        ..=0 => Some(reason::FAULT),
        read if read >= PATH_MAX as i64 => Some(reason::OVERSIZE),
        _ => None,
    };
    match lost {
        Some(why) => {
            entry.discard(QUIET);
            count(probe::ATTACH, why, 1);
        }
        None => {
            entry.submit(WAKE);
            count(probe::ATTACH, reason::RECORDS, 1);
        }
    }
    reported(probe::ATTACH, lost.is_none());
}
