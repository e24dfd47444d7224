//! Hardware breakpoints (perf_event_open(2), `PERF_TYPE_BREAKPOINT`): the processor stops a thread at an instruction, or
//! after one that reads a word, the kernel runs our program, and the thread goes on. No byte of anybody's memory changes.
//!
//! A breakpoint belongs to a thread; the threads and children that it makes inherit it, at the same address
//! (`inherit_event`, kernel/events/core.c), and exec removes it (`perf_event_remove_on_exec`). Inherited ones live as long
//! as the descriptor.
//!
//! Invariant: a breakpoint is only switched on when its program is there and its process has been looked at again.
#![expect(unsafe_code, reason = "system calls that no library has")]

use rustix::io::Errno;
use std::{
    hint::black_box,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `struct perf_event_attr` of Linux 2.6.33 (include/uapi/linux/perf_event.h, `PERF_ATTR_SIZE_VER1`).
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
    breakpoint_len: u64,
}

const _: () = assert!(size_of::<Attributes>() == 72);

/// `PERF_TYPE_BREAKPOINT`
const KIND: u32 = 5;
/// `HW_BREAKPOINT_X`, with `sizeof(long)` for a length.
const EXECUTE: u32 = 4;
/// `HW_BREAKPOINT_RW`: there is none for reading alone.
const ACCESS: u32 = 3;
const DISABLED: u64 = 1;
const INHERIT: u64 = 1 << 1;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
/// Linux 5.13.
const REMOVE_ON_EXEC: u64 = 1 << 36;
/// `PERF_FLAG_FD_CLOEXEC`
const CLOSE_ON_EXEC: libc::c_ulong = 8;
/// `PERF_EVENT_IOC_ENABLE` and `PERF_EVENT_IOC_SET_BPF`
const ENABLE: libc::Ioctl = 0x2400;
const SET_BPF: libc::Ioctl = 0x4004_2408;

/// What a thread is stopped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before the instruction at this address.
    Instruction(u64),
    /// After an instruction that has read the 8 bytes at this address, which is a multiple of 8.
    Word(u64),
}

/// One breakpoint of one thread and of those that it makes. Dropping it removes them all.
#[derive(Debug)]
pub struct Breakpoint(OwnedFd);

impl Breakpoint {
    /// Not switched on yet: see [`enable`](Self::enable).
    ///
    /// # Errors
    /// `ESRCH`: there is no such thread. `ENOSPC`: its breakpoints are taken. `EMFILE`: this process has no descriptor
    /// left. `EINVAL`, `ENOSYS`, `EOPNOTSUPP`: this machine has none.
    pub fn new(thread: u32, at: At, program: BorrowedFd<'_>) -> Result<Self, Errno> {
        let breakpoint = Self::open(thread.cast_signed(), at)?;
        breakpoint.control(SET_BPF, program.as_raw_fd().into())?;
        Ok(breakpoint)
    }

    /// One of the calling thread that is never switched on. The host's first event of a thread waits for a grace period,
    /// tens of milliseconds where the processors are busy, and so does the first one after a second without any
    /// (`account_event`, `perf_sched_delayed`, kernel/events/core.c): while this one is there, no other is the first.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn never_hit() -> Result<Self, Errno> {
        Self::open(0, At::Instruction(target as *const () as u64))
    }

    /// Hits come from now on, also of those that were inherited meanwhile.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn enable(&self) -> Result<(), Errno> {
        self.control(ENABLE, 0)
    }

    fn open(thread: i32, at: At) -> Result<Self, Errno> {
        let (kind, address) = match at {
            At::Instruction(address) => (EXECUTE, address),
            At::Word(address) => (ACCESS, address),
        };
        let attributes = Attributes {
            kind: KIND,
            size: size_of::<Attributes>() as u32,
            config: 0,
            sample_period: 1,
            sample_type: 0,
            read_format: 0,
            flags: DISABLED | INHERIT | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR | REMOVE_ON_EXEC,
            wakeup_events: 0,
            breakpoint_type: kind,
            breakpoint_address: address,
            breakpoint_len: size_of::<libc::c_long>() as u64,
        };
        const ANY_CPU: libc::c_int = -1;
        const NO_GROUP: libc::c_int = -1;
        // SAFETY: the attributes are of the size that they say, and the kernel only reads them.
        let descriptor = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                thread,
                ANY_CPU,
                NO_GROUP,
                CLOSE_ON_EXEC,
            )
        };
        let Some(descriptor) = i32::try_from(descriptor).ok().filter(|number| *number >= 0) else {
            return Err(last_error());
        };
        // SAFETY: the kernel has just made it for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    fn control(&self, request: libc::Ioctl, argument: libc::c_long) -> Result<(), Errno> {
        // SAFETY: neither request takes an address.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if result < 0 {
            return Err(last_error());
        }
        Ok(())
    }
}

impl AsFd for Breakpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Whether breakpoints work here: this thread stops at a function of its own and at a word of its own, and every hit is
/// counted.
///
/// # Errors
/// What is wrong, in words: the kernel's refusal, or hits that did not come (some hypervisors take debug registers and
/// do nothing with them).
pub fn self_test() -> Result<(), String> {
    let calls: fn(u64) -> u64 = black_box(target);
    let word = Box::new(3);
    let address: *const u64 = black_box(&*word);
    count(At::Instruction(target as *const () as u64), || calls(1))?;
    count(At::Word(address as u64), || {
        // SAFETY: the box is there.
        unsafe { address.read_volatile() }
    })
}

/// Does it a few times, which are hits.
fn count(at: At, does: impl Fn() -> u64) -> Result<(), String> {
    const TIMES: u64 = 3;
    let breakpoint =
        Breakpoint::open(0, at).map_err(|error| format!("perf_event_open: {error}"))?;
    breakpoint
        .enable()
        .map_err(|error| format!("PERF_EVENT_IOC_ENABLE: {error}"))?;
    for _ in 0..TIMES {
        black_box(does());
    }
    let mut count = [0; 8];
    let read = rustix::io::read(&breakpoint.0, &mut count)
        .map_err(|error| format!("read of the counter: {error}"))?;
    let hits = u64::from_ne_bytes(count);
    if read != count.len() || hits != TIMES {
        return Err(format!("{hits} hits of {TIMES} were counted at {at:?}"));
    }
    Ok(())
}

#[inline(never)]
fn target(number: u64) -> u64 {
    black_box(number.wrapping_mul(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_not_there_is_said_so() {
        // Above the largest `pid_max`.
        let none = Breakpoint::open(0x7fff_fff0, At::Instruction(target as *const () as u64));
        assert!(matches!(
            none,
            Err(Errno::SRCH | Errno::PERM | Errno::ACCESS | Errno::NOENT | Errno::OPNOTSUPP)
        ));
    }

    #[test]
    fn an_address_of_the_kernel_is_refused() {
        let refused = Breakpoint::open(0, At::Instruction(0xffff_ffff_8000_0000));
        assert!(refused.is_err());
    }
}
