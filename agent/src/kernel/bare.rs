//! The few things about this very process that have no safe form elsewhere.
#![expect(unsafe_code, reason = "C's functions about this process")]

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use std::{io, time::Duration};

/// Ignores the signals by which a person or a service manager stops a program: its parent will say when.
///
/// # Errors
/// Those of `signal`.
pub fn ignore_stop_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: no handler is installed.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has the ends of children waited for, also where whoever started this process ignored them: the kernel would forget how
/// they ended. Programs that are started from here on inherit it.
///
/// # Errors
/// Those of `signal`.
pub fn notice_ends_of_children() -> io::Result<()> {
    // SAFETY: no handler is installed.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has every descriptor but the standard ones closed when a program is started: those that this process was started
/// with may be anything.
///
/// # Errors
/// Before Linux 5.11.
pub fn close_descriptors_on_exec() -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: changes a flag that matters at exec alone.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) };
    done(result)
}

/// Makes a system call with zeroes for arguments; see [`crate::privilege::attempt`].
///
/// # Errors
/// The kernel's.
pub fn call(number: libc::c_long) -> io::Result<()> {
    // SAFETY: the callers' calls take no memory from null pointers, and the process ends afterwards.
    let result = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
    if number == libc::SYS_clone && result == 0 {
        // A new process of ours: not wanted.
        std::process::exit(0);
    }
    done(result)
}

/// Maps a page that can be written and executed.
///
/// # Errors
/// The kernel's.
pub fn map_code() -> io::Result<()> {
    // SAFETY: a new mapping at a place of the kernel's choice, used by nobody.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// CPU time that a process has used so far, all its threads together: clock_getcpuclockid(3).
///
/// # Errors
/// If it is gone.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: writes a number to its place.
    let failed = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &mut clock) };
    if failed != 0 {
        return Err(io::Error::from_raw_os_error(failed));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes a time to its place.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Ok(Duration::new(
        seconds.unwrap_or(0),
        nanoseconds.unwrap_or(0),
    ))
}

/// Gives memory that the allocator keeps for later back to the system, where the allocator can.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory in use is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes another process of this one; `None` in the new one. Only where there is one thread: in the new process locks that
/// others hold would stay held.
///
/// # Errors
/// The kernel's.
pub fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the caller has one thread, so that everything is in the new process as it is here.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// Has the kernel end this process with the thread that has made it (PR_SET_PDEATHSIG), also where another thread of that
/// process hangs in the kernel and keeps its ends of all pipes open. False if `parent`, the parent as it was at the begin,
/// has ended before the kernel knew. Changing the user takes it back.
///
/// # Errors
/// The kernel's.
pub fn end_with(parent: Option<Pid>) -> io::Result<bool> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(getppid() == parent)
}

/// Whether the first thread of a process has ended, also where another one hangs in the kernel (proc_pid_stat(5), `Z` and
/// `X`). False if that cannot be seen.
#[must_use]
pub fn has_ended(process: Pid) -> bool {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

/// Lets the calling thread have little of the processor where others want it.
///
/// # Errors
/// The kernel's.
pub fn be_nice() -> io::Result<()> {
    const LITTLE: libc::c_int = 10;
    // SAFETY: changes a number of the calling thread (0), which Linux means by a process here.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LITTLE) };
    done(result.into())
}

/// Lets the calling thread have the processor only where nobody else wants it.
///
/// # Errors
/// The kernel's.
pub fn be_idle() -> io::Result<()> {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads the parameter; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
    done(result.into())
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
