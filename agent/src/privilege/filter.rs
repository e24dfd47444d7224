//! System call filters (seccomp(2)).
//!
//! Three answers. *Death* (`SECCOMP_RET_KILL_PROCESS`, which the kernel writes to its log and to audit as type 1326) for
//! calls that would start a program, gain rights or reach into another process: no part of the agent makes them, so that
//! one of them means that the process is not the agent's any more. *Refusal* (`EPERM`) for all else that the worker does
//! not need. *Not there* (`ENOSYS`) for `clone3`, whose arguments a filter cannot see: the C library then uses `clone`.
//!
//! Each answer is a filter of its own; the kernel takes the severest. The worker's list comes last, because it forbids
//! to install another.
//!
//! The finder's processes have lists of their own: no file is opened, no socket made, and by those that search no process.
//!
//! Invariant: with the worker's filter no program is started, no process is made, and no socket is opened that is not of
//! the families Unix, IPv4 or IPv6.

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no filter of system calls is known for {}", std::env::consts::ARCH)]
    Architecture,
    #[error("the filter of system calls: {0}")]
    Filter(String),
}

/// Answered by death in both processes.
const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_personality,
    libc::SYS_open_by_handle_at,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Answered by death in the worker, which has nothing to do with the kernel's programs.
const DEADLY_TO_THE_WORKER: &[c_long] = &[
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_capset,
    libc::SYS_name_to_handle_at,
];

/// What the worker may call, whatever the arguments.
const ALLOWED: &[c_long] = &[
    // Files: which ones is Landlock's affair.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
    libc::SYS_ftruncate,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // Threads.
    // Answered by another filter.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    // About itself.
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    // Sockets: which families is said below, which ports is Landlock's affair.
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    // On sockets that listened before: the filter lets none begin to.
    libc::SYS_accept4,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_select,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
];

pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// One comparison of an argument's low 32 bits, which is all that these calls look at.
pub(super) fn argument(
    number: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(number, SeccompCmpArgLen::Dword, operator, value)
        .map_err(|error| Error::Filter(error.to_string()))
}

pub(super) fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Error> {
    SeccompRule::new(conditions).map_err(|error| Error::Filter(error.to_string()))
}

/// Any of these values.
pub(super) fn one_of(number: u8, values: &[u64]) -> Result<Vec<SeccompRule>, Error> {
    values
        .iter()
        .map(|value| rule(vec![argument(number, SeccompCmpOp::Eq, *value)?]))
        .collect()
}

pub(super) fn bits(number: u8, mask: u64, value: u64) -> Result<Vec<SeccompRule>, Error> {
    let masked = SeccompCmpOp::MaskedEq(mask);
    Ok(vec![rule(vec![argument(number, masked, value)?])?])
}

pub(super) fn unconditional(calls: &[c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

pub(super) const fn low(value: i32) -> u64 {
    value.cast_unsigned() as u64
}

pub(super) fn compile(
    rules: Rules,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, Error> {
    let architecture =
        TargetArch::try_from(std::env::consts::ARCH).map_err(|_| Error::Architecture)?;
    SeccompFilter::new(rules, others, these, architecture)
        .and_then(TryInto::try_into)
        .map_err(|error| Error::Filter(error.to_string()))
}

pub(super) fn install(program: &BpfProgram) -> Result<(), Error> {
    seccompiler::apply_filter(program).map_err(|error| Error::Filter(error.to_string()))
}

pub(super) fn refusal() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM.cast_unsigned())
}

pub(super) fn not_there() -> Result<BpfProgram, Error> {
    compile(
        unconditional(&[libc::SYS_clone3]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
    )
}

pub(super) fn deadly(more: &[c_long]) -> Result<BpfProgram, Error> {
    compile(
        unconditional(&[DEADLY, more].concat()),
        SeccompAction::Allow,
        SeccompAction::KillProcess,
    )
}

/// What the worker may call, with arguments where they matter. `libraries`: code may be mapped from files, because the
/// C library loads name services.
fn allowed(libraries: bool) -> Result<Rules, Error> {
    let mut rules = unconditional(ALLOWED);
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(low);
    rules.insert(libc::SYS_socket, one_of(0, &families)?);
    rules.insert(libc::SYS_socketpair, one_of(0, &families[..1])?);
    let thread = low(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, bits(0, thread, thread)?);
    // No code is made at run time, and none is loaded but by the C library.
    let (write, execute) = (low(libc::PROT_WRITE), low(libc::PROT_EXEC));
    let mut pages = bits(2, execute, 0)?;
    if libraries {
        pages.extend(bits(2, write | execute, execute)?);
    }
    rules.insert(libc::SYS_mmap, pages.clone());
    rules.insert(libc::SYS_mprotect, pages);
    // Is this a terminal, how wide is it; sockets of the standard library.
    let requests = [
        libc::TCGETS,
        libc::TIOCGWINSZ,
        libc::FIONBIO,
        libc::FIONREAD,
    ];
    let requests: Vec<u64> = requests
        .iter()
        .map(|request| request & 0xffff_ffff)
        .collect();
    rules.insert(libc::SYS_ioctl, one_of(1, &requests)?);
    // Threads' names, the allocator's names of its memory, and what was set before.
    const PR_SET_VMA: u64 = 0x5356_4d41;
    let names = [
        low(libc::PR_SET_NAME),
        low(libc::PR_GET_NAME),
        low(libc::PR_GET_DUMPABLE),
        PR_SET_VMA,
    ];
    rules.insert(libc::SYS_prctl, one_of(0, &names)?);
    // Only for `abort`.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, one_of(0, &[own])?);
    // Reading limits, not setting them.
    let no_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
        .map_err(|error| Error::Filter(error.to_string()))?;
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![no_limit])?]);
    Ok(rules)
}

/// For the calling thread and those that it makes. No new privileges must be set.
///
/// # Errors
/// If the kernel has no such filters, or they cannot be made for this architecture.
pub fn worker(libraries: bool) -> Result<(), Error> {
    // All are made before the first is installed.
    let programs = [
        deadly(DEADLY_TO_THE_WORKER)?,
        not_there()?,
        compile(allowed(libraries)?, refusal(), SeccompAction::Allow)?,
    ];
    programs.iter().try_for_each(install)
}

/// What the finder's processes may call, whatever the arguments: they read descriptors that they were handed.
const SEARCHING: &[c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_pread64,
    libc::SYS_fstat,
    libc::SYS_close,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads.
    // Answered by another filter.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_getrandom,
];

/// What their supervisor may call besides: it makes processes, waits for them and ends them.
const SUPERVISING: &[c_long] = &[
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_getppid,
    libc::SYS_set_tid_address,
    // For the narrower filter of the processes that it makes.
    libc::SYS_seccomp,
];

/// The namespaces that clone(2) can make.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP;

fn searching() -> Result<Rules, Error> {
    let mut rules = unconditional(SEARCHING);
    let thread = low(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, bits(0, thread, thread)?);
    // Answers go to the other end of the pipe, which needs no address.
    let nowhere = SeccompCondition::new(4, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)
        .map_err(|error| Error::Filter(error.to_string()))?;
    rules.insert(libc::SYS_sendto, vec![rule(vec![nowhere])?]);
    // The words of a panic.
    rules.insert(libc::SYS_write, one_of(0, &[2])?);
    // Memory of nothing but itself, and no code.
    let (execute, anonymous) = (low(libc::PROT_EXEC), low(libc::MAP_ANONYMOUS));
    let mapped = rule(vec![
        argument(2, SeccompCmpOp::MaskedEq(execute), 0)?,
        argument(3, SeccompCmpOp::MaskedEq(anonymous), anonymous)?,
    ])?;
    rules.insert(libc::SYS_mmap, vec![mapped]);
    rules.insert(libc::SYS_mprotect, bits(2, execute, 0)?);
    // Threads' names, and the allocator's names of its memory.
    const PR_SET_VMA: u64 = 0x5356_4d41;
    let names = [low(libc::PR_SET_NAME), PR_SET_VMA];
    rules.insert(libc::SYS_prctl, one_of(0, &names)?);
    // A thread's own priority, downwards.
    let idle = rule(vec![
        argument(0, SeccompCmpOp::Eq, 0)?,
        argument(1, SeccompCmpOp::Eq, low(libc::SCHED_IDLE))?,
    ])?;
    rules.insert(libc::SYS_sched_setscheduler, vec![idle]);
    let nice = rule(vec![
        argument(0, SeccompCmpOp::Eq, u64::from(libc::PRIO_PROCESS))?,
        argument(1, SeccompCmpOp::Eq, 0)?,
    ])?;
    rules.insert(libc::SYS_setpriority, vec![nice]);
    // Only for `abort`.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, one_of(0, &[own])?);
    Ok(rules)
}

fn supervising() -> Result<Rules, Error> {
    let mut rules = searching()?;
    rules.extend(unconditional(SUPERVISING));
    rules.insert(libc::SYS_clone, bits(0, low(NAMESPACES), 0)?);
    // Its children's as well, whose numbers are not known yet; they have no rights over others.
    rules.insert(libc::SYS_tgkill, Vec::new());
    let options = [
        low(libc::PR_SET_NAME),
        low(libc::PR_SET_PDEATHSIG),
        low(libc::PR_SET_NO_NEW_PRIVS),
        0x5356_4d41,
    ];
    rules.insert(libc::SYS_prctl, one_of(0, &options)?);
    Ok(rules)
}

/// For a process of the finder that searches, before it has threads; its supervisor's filter holds as well.
///
/// # Errors
/// As [`worker`].
pub fn searcher() -> Result<(), Error> {
    install(&compile(searching()?, refusal(), SeccompAction::Allow)?)
}

/// For the finder's supervisor and the processes that it makes. No new privileges must be set.
///
/// # Errors
/// As [`worker`].
pub fn supervisor() -> Result<(), Error> {
    let programs = [
        deadly(DEADLY_TO_THE_WORKER)?,
        not_there()?,
        compile(supervising()?, refusal(), SeccompAction::Allow)?,
    ];
    programs.iter().try_for_each(install)
}

/// Commands of bpf(2) that the privileged process does not need any more (include/uapi/linux/bpf.h): `MAP_CREATE`,
/// `OBJ_PIN`, `OBJ_GET`, `PROG_ATTACH`, `BTF_LOAD`, `TOKEN_CREATE`. `RAW_TRACEPOINT_OPEN` attaches the probes
/// after a rest, for which the library that does it may ask the kernel what it can (`PROG_LOAD`, `LINK_CREATE`).
const BPF_DONE: [u64; 6] = [0, 6, 7, 8, 18, 36];

/// What the privileged process may not call.
fn refused() -> Result<Rules, Error> {
    let mut rules = Rules::new();
    let unix = low(libc::AF_UNIX);
    let other = rule(vec![argument(0, SeccompCmpOp::Ne, unix)?])?;
    rules.insert(libc::SYS_socket, vec![other]);
    rules.insert(libc::SYS_clone, bits(0, low(libc::CLONE_THREAD), 0)?);
    rules.insert(libc::SYS_bpf, one_of(0, &BPF_DONE)?);
    #[cfg(target_arch = "x86_64")]
    rules.extend(unconditional(&[libc::SYS_fork, libc::SYS_vfork]));
    Ok(rules)
}

/// For the calling thread and those that it makes: the privileged process, once the worker runs and the probes are
/// attached.
///
/// # Errors
/// As [`worker`].
pub fn privileged() -> Result<(), Error> {
    let programs = [
        deadly(&[])?,
        compile(refused()?, SeccompAction::Allow, refusal())?,
        not_there()?,
    ];
    programs.iter().try_for_each(install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made() {
        deadly(DEADLY_TO_THE_WORKER).unwrap();
        not_there().unwrap();
        for libraries in [false, true] {
            compile(allowed(libraries).unwrap(), refusal(), SeccompAction::Allow).unwrap();
        }
        compile(refused().unwrap(), SeccompAction::Allow, refusal()).unwrap();
        for rules in [searching().unwrap(), supervising().unwrap()] {
            compile(rules, refusal(), SeccompAction::Allow).unwrap();
        }
    }

    /// What searches may do nothing that its supervisor may not, or the kernel would refuse it to both.
    #[test]
    fn the_finder_s_filters_fit_together() {
        let supervising = supervising().unwrap();
        for call in searching().unwrap().keys() {
            assert!(supervising.contains_key(call), "{call}");
        }
        for call in DEADLY.iter().chain(DEADLY_TO_THE_WORKER) {
            assert!(!supervising.contains_key(call), "{call}");
        }
    }

    #[test]
    fn nothing_is_both_allowed_and_deadly() {
        let allowed = allowed(true).unwrap();
        for call in DEADLY.iter().chain(DEADLY_TO_THE_WORKER) {
            assert!(!allowed.contains_key(call), "{call}");
        }
    }
}
