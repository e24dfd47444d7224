//! System calls of the keeper that have no safe form elsewhere: uprobes by hand, leases, threads with descriptors of
//! their own, and the signals between them.
#![expect(unsafe_code, reason = "system calls whose arguments lie in memory")]

use rustix::io::Errno;
use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

// Commands and types of bpf(2), include/uapi/linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const PROG_LOAD: libc::c_int = 5;
const BTF_LOAD: libc::c_int = 18;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_KPROBE: u32 = 2;
const ATTACH_PERF_EVENT: u32 = 41;
const ATTACH_UPROBE_MULTI: u32 = 48;
const UPROBE_MULTI_RETURN: u32 = 1;

// include/uapi/linux/perf_event.h.
const PERF_ATTR_SIZE: u32 = 128;
const PERF_DISABLED: u64 = 1;
const PERF_FD_CLOEXEC: libc::c_ulong = 8;

// include/uapi/asm-generic/fcntl.h and include/uapi/linux/fcntl.h.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// The arguments of `bpf`, filled by the begin of the field: what is not filled is 0.
struct Arguments([u8; 144]);

impl Arguments {
    fn new() -> Self {
        Self([0; 144])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn long(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn descriptor(self, at: usize, descriptor: BorrowedFd<'_>) -> Self {
        self.word(at, descriptor.as_raw_fd().cast_unsigned())
    }

    /// # Safety
    /// Addresses among the arguments must be valid for what the command does with them.
    unsafe fn call(&self, command: libc::c_int) -> io::Result<libc::c_long> {
        // SAFETY: `self` outlives the call; for the addresses in it the caller answers.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_ptr(), self.0.len()) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result)
    }

    /// # Safety
    /// As [`call`](Self::call), of a command that gives a descriptor.
    unsafe fn open(&self, command: libc::c_int) -> io::Result<OwnedFd> {
        // SAFETY: the caller's.
        let descriptor = unsafe { self.call(command)? };
        // SAFETY: a new descriptor of ours, which fits.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
    }
}

/// Where one link of `uprobe_multi` stands: offsets in the file, each with its cookie.
pub struct Multi<'a> {
    pub path: &'a CStr,
    pub offsets: &'a [u64],
    pub cookies: &'a [u64],
    /// 0: every process.
    pub pid: u32,
    pub returns: bool,
}

/// Attaches `program`, loaded for `uprobe_multi`, with one link.
pub fn link_multi(program: BorrowedFd<'_>, multi: &Multi<'_>) -> io::Result<OwnedFd> {
    let count = multi.offsets.len().min(multi.cookies.len());
    let arguments = Arguments::new()
        .descriptor(0, program)
        .word(8, ATTACH_UPROBE_MULTI)
        .long(16, multi.path.as_ptr() as u64)
        .long(24, multi.offsets.as_ptr() as u64)
        .long(40, multi.cookies.as_ptr() as u64)
        .word(48, u32::try_from(count).unwrap_or(u32::MAX))
        .word(52, u32::from(multi.returns) * UPROBE_MULTI_RETURN)
        .word(56, multi.pid);
    // SAFETY: the kernel reads a string that ends, and `count` numbers of each of both arrays.
    unsafe { arguments.open(LINK_CREATE) }
}

/// Which event of the `uprobe` PMU.
pub struct Event<'a> {
    /// Of the PMU, from `/sys/bus/event_source/devices/uprobe/type`.
    pub kind: u32,
    pub path: &'a CStr,
    pub offset: u64,
    /// `None`: every process.
    pub pid: Option<u32>,
    pub returns: bool,
}

/// Opens it disabled: it counts nothing, so that switches of threads cost nothing, and programs run all the same.
pub fn open_event(event: &Event<'_>) -> io::Result<OwnedFd> {
    let mut attributes = [0u8; PERF_ATTR_SIZE as usize];
    attributes[0..4].copy_from_slice(&event.kind.to_ne_bytes());
    attributes[4..8].copy_from_slice(&PERF_ATTR_SIZE.to_ne_bytes());
    attributes[8..16].copy_from_slice(&u64::from(event.returns).to_ne_bytes());
    attributes[40..48].copy_from_slice(&PERF_DISABLED.to_ne_bytes());
    attributes[56..64].copy_from_slice(&(event.path.as_ptr() as u64).to_ne_bytes());
    attributes[64..72].copy_from_slice(&event.offset.to_ne_bytes());
    let (pid, cpu) = match event.pid {
        Some(pid) => (pid.cast_signed(), -1),
        None => (-1, 0),
    };
    // SAFETY: the kernel reads the attributes and, while the call lasts, the path in them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            pid,
            cpu,
            -1,
            PERF_FD_CLOEXEC,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor of ours, which fits.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Attaches `program` to an event; it finds `cookie`.
pub fn link_event(
    program: BorrowedFd<'_>,
    event: BorrowedFd<'_>,
    cookie: u64,
) -> io::Result<OwnedFd> {
    let arguments = Arguments::new()
        .descriptor(0, program)
        .descriptor(4, event)
        .word(8, ATTACH_PERF_EVENT)
        .long(16, cookie);
    // SAFETY: no addresses.
    unsafe { arguments.open(LINK_CREATE) }
}

/// Where the functions of a program begin, and their types: the kernel asks for it where one is called by the kernel.
pub struct Functions<'a> {
    /// From [`load_types`].
    pub types: BorrowedFd<'a>,
    /// Bytes of one entry in `entries`.
    pub size: usize,
    pub entries: &'a [u8],
}

/// Loads type information (BTF).
///
/// # Errors
/// The kernel's.
pub fn load_types(types: &[u8]) -> io::Result<OwnedFd> {
    let arguments = Arguments::new()
        .long(0, types.as_ptr() as u64)
        .word(16, u32::try_from(types.len()).unwrap_or(u32::MAX));
    // SAFETY: the kernel reads as many bytes as it is told.
    unsafe { arguments.open(BTF_LOAD) }
}

/// Loads a program for uprobes; `multi` for `uprobe_multi`.
///
/// # Errors
/// The kernel's, with the last that its verifier says.
pub fn load(
    name: &str,
    license: &CStr,
    code: &[u8],
    functions: Option<&Functions<'_>>,
    multi: bool,
) -> Result<OwnedFd, String> {
    let mut arguments = Arguments::new()
        .word(0, PROG_TYPE_KPROBE)
        .word(4, u32::try_from(code.len() / 8).unwrap_or(u32::MAX))
        .long(8, code.as_ptr() as u64)
        .long(16, license.as_ptr() as u64)
        .word(68, u32::from(multi) * ATTACH_UPROBE_MULTI);
    if let Some(functions) = functions
        && functions.size > 0
    {
        let count = functions.entries.len() / functions.size;
        arguments = arguments
            .descriptor(72, functions.types)
            .word(76, u32::try_from(functions.size).unwrap_or(0))
            .long(80, functions.entries.as_ptr() as u64)
            .word(88, u32::try_from(count).unwrap_or(0));
    }
    // One byte stays NUL.
    let name = &name.as_bytes()[..name.len().min(15)];
    arguments.0[48..48 + name.len()].copy_from_slice(name);
    // SAFETY: the kernel reads as many instructions as it is told, and a string that ends.
    let refused = match unsafe { arguments.open(PROG_LOAD) } {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    let mut log = vec![0u8; 1 << 20];
    let size = u32::try_from(log.len()).unwrap_or(0);
    let arguments = arguments
        .word(24, 1)
        .word(28, size)
        .long(32, log.as_mut_ptr() as u64);
    // SAFETY: as above, and the kernel writes as much as it is told.
    match unsafe { arguments.open(PROG_LOAD) } {
        Ok(program) => Ok(program),
        Err(_) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let text = String::from_utf8_lossy(&log[..end]);
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            Err(format!("{refused}: {}", last.join("; ")))
        }
    }
}

/// An array of one 64-bit number.
pub fn number() -> io::Result<OwnedFd> {
    let arguments = Arguments::new()
        .word(0, MAP_TYPE_ARRAY)
        .word(4, 4)
        .word(8, 8)
        .word(12, 1);
    // SAFETY: no addresses.
    unsafe { arguments.open(MAP_CREATE) }
}

/// What [`number`] holds now.
pub fn read_number(map: BorrowedFd<'_>) -> io::Result<u64> {
    let (key, mut value) = (0u32, 0u64);
    let arguments = Arguments::new()
        .descriptor(0, map)
        .long(8, (&raw const key) as u64)
        .long(16, (&raw mut value) as u64);
    // SAFETY: the kernel reads a key and writes a value, of the sizes that the map was made with.
    unsafe { arguments.call(MAP_LOOKUP_ELEM)? };
    Ok(value)
}

/// Takes a read lease; `signal` tells the calling thread when it is broken.
pub fn lease(file: impl AsFd, signal: libc::c_int) -> Result<(), Errno> {
    #[repr(C)]
    struct Owner {
        kind: libc::c_int,
        id: libc::pid_t,
    }
    let owner = Owner {
        kind: F_OWNER_TID,
        id: rustix::thread::gettid().as_raw_nonzero().get(),
    };
    let descriptor = file.as_fd().as_raw_fd();
    // SAFETY: sets a number.
    check(unsafe { libc::fcntl(descriptor, F_SETSIG, signal) })?;
    // SAFETY: the kernel reads `owner`.
    check(unsafe { libc::fcntl(descriptor, F_SETOWN_EX, &raw const owner) })?;
    // SAFETY: sets a lease.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK) })
}

/// Whether a lease is there and nobody waits for its end.
pub fn is_leased(file: impl AsFd) -> bool {
    // SAFETY: asks alone.
    let kind = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_GETLEASE) };
    kind == libc::F_RDLCK
}

/// Gives a lease back. One that the kernel has taken away is none.
pub fn release(file: impl AsFd) {
    // SAFETY: removes a lease.
    unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result < 0 {
        return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Gives the calling thread a table of descriptors of its own, with `kept` of those that are open now.
///
/// # Errors
/// Before Linux 5.9.
pub fn own_descriptors(kept: &[RawFd]) -> io::Result<()> {
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 1 << 1;
    let first = kept.iter().max().map_or(0, |last| last + 1);
    // SAFETY: the descriptors from `first` on stay open in the table of the other threads, whose they are.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_UNSHARE) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    for number in (0..first).filter(|number| !kept.contains(number)) {
        // SAFETY: in this thread's own table alone, where nobody has used it.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// The signal that tells of a writer. The first of the real-time ones are the C library's.
#[must_use]
pub fn lease_signal() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

/// Wakes a thread of the keeper.
const WAKE: libc::c_int = libc::SIGUSR1;

/// Those that [`wait`] waits for. `SIGIO` comes instead of the lease's where too many wait.
fn awaited() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: fills the set before anybody reads it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [lease_signal(), libc::SIGIO, WAKE] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Keeps these signals for [`wait`], in the calling thread and those that it makes.
///
/// # Errors
/// Those of `pthread_sigmask`.
pub fn block_signals() -> io::Result<()> {
    // SAFETY: reads the set.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &awaited(), std::ptr::null_mut()) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    Ok(())
}

/// Waits for one of them, or for so long.
pub fn wait(most: Duration) {
    let most = libc::timespec {
        tv_sec: most.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: most.subsec_nanos().into(),
    };
    // SAFETY: reads the set and the time. Whatever it says, the caller looks at everything again.
    unsafe { libc::sigtimedwait(&awaited(), std::ptr::null_mut(), &most) };
}

/// Ends a [`wait`] of that thread of this process.
pub fn wake(thread: rustix::thread::Pid) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: to a thread of this process, which keeps the signal back: at worst nobody waits any more.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            process,
            thread.as_raw_nonzero().get(),
            WAKE,
        );
    }
}

/// In the child `None`.
///
/// # Errors
/// Those of `fork`.
pub fn fork() -> io::Result<Option<rustix::process::Pid>> {
    // SAFETY: the caller is the only thread of its process, so that no lock is held by one that is not copied.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rustix::process::Pid::from_raw(child))
}

/// Runs before everybody who is not so urgent: what waits for this process is somebody's open(2).
///
/// # Errors
/// Where the system allows it not; the caller stays as it was.
pub fn be_urgent() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: reads the parameters.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameters) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Code of a function that returns, in memory that can be run: for the keeper's own trial.
pub struct Code {
    place: *mut libc::c_void,
}

// SAFETY: nobody writes there.
unsafe impl Sync for Code {}
// SAFETY: as above.
unsafe impl Send for Code {}

impl Code {
    /// Length of the mapping.
    const LENGTH: usize = 4096;
    /// `nop`, `ret`.
    #[cfg(target_arch = "x86_64")]
    pub const TEXT: &[u8] = &[0x90, 0xc3];
    /// `nop`, `ret`.
    #[cfg(target_arch = "aarch64")]
    pub const TEXT: &[u8] = &[0x1f, 0x20, 0x03, 0xd5, 0xc0, 0x03, 0x5f, 0xd6];

    /// Maps `file`, which begins with [`TEXT`](Self::TEXT).
    ///
    /// # Errors
    /// Those of `mmap`.
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LENGTH,
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { place })
    }

    pub fn run(&self) {
        // SAFETY: the text is a function without arguments that returns at once.
        unsafe { std::mem::transmute::<*mut libc::c_void, extern "C" fn()>(self.place)() }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and nobody runs it any more.
        unsafe { libc::munmap(self.place, Self::LENGTH) };
    }
}
