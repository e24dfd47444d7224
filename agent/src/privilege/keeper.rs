//! System call filters of the keeper and of its watch (`crate::kernel::keeper`): lists of what they need.
//!
//! The keeper opens files for reading, takes leases and attaches uprobes; it starts no process, loads no program into the
//! kernel, opens no socket and writes to nothing but what it was given. The watch can start a keeper and end it.

use super::filter::{
    Error, Rules, argument, bits, compile, deadly, install, low, not_there, one_of, refusal, rule,
    unconditional,
};
use libc::c_long;
use seccompiler::{SeccompAction, SeccompCmpOp};

/// What the keeper may call, whatever the arguments.
const ALLOWED: &[c_long] = &[
    libc::SYS_perf_event_open,
    // Files.
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    // The agent and the watch.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_rt_sigtimedwait,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads. Answered by another filter:
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
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
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// `BPF_LINK_CREATE` (include/uapi/linux/bpf.h).
const LINK_CREATE: u64 = 28;
/// Requests of fcntl(2), the last two from include/uapi/asm-generic/fcntl.h.
const REQUESTS: [i32; 8] = [
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFL,
    libc::F_SETLEASE,
    libc::F_GETLEASE,
    libc::F_GET_SEALS,
    10,
    15,
];
const PR_SET_VMA: u64 = 0x5356_4d41;

fn allowed(process: u64) -> Result<Rules, Error> {
    let mut rules = unconditional(ALLOWED);
    rules.insert(libc::SYS_bpf, one_of(0, &[LINK_CREATE])?);
    rules.insert(libc::SYS_fcntl, one_of(1, &REQUESTS.map(low))?);
    // For reading alone, and what is there.
    let writing = low(libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC);
    rules.insert(libc::SYS_openat, bits(2, writing, 0)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, bits(1, writing, 0)?);
    let thread = low(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, bits(0, thread, thread)?);
    let execute = low(libc::PROT_EXEC);
    rules.insert(libc::SYS_mmap, bits(2, execute, 0)?);
    rules.insert(libc::SYS_mprotect, bits(2, execute, 0)?);
    let names = [low(libc::PR_SET_NAME), PR_SET_VMA];
    rules.insert(libc::SYS_prctl, one_of(0, &names)?);
    // Its threads wake one another, and `abort`.
    rules.insert(libc::SYS_tgkill, one_of(0, &[process])?);
    Ok(rules)
}

/// What the watch may call: what the keeper may, which it becomes, and to start and end one.
fn allowed_to_the_watch() -> Result<Rules, Error> {
    // Of any process: the keeper's id is not known yet, and its own filter names it.
    let mut rules = allowed(0)?;
    let more: &[c_long] = &[
        libc::SYS_clone,
        libc::SYS_wait4,
        libc::SYS_waitid,
        libc::SYS_pipe2,
        libc::SYS_seccomp,
        libc::SYS_prctl,
        libc::SYS_capget,
        libc::SYS_capset,
        libc::SYS_tgkill,
        libc::SYS_set_tid_address,
    ];
    rules.extend(unconditional(more));
    let kill = argument(1, SeccompCmpOp::Eq, low(libc::SIGKILL))?;
    rules.insert(libc::SYS_kill, vec![rule(vec![kill])?]);
    Ok(rules)
}

/// For the calling thread and those that it makes: the watch, before it starts a keeper. No new privileges must be set.
///
/// # Errors
/// If the kernel has no such filters, or they cannot be made for this architecture.
pub fn watch_filter() -> Result<(), Error> {
    let deadly = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
    ];
    let programs = [
        compile(
            unconditional(&deadly),
            SeccompAction::Allow,
            SeccompAction::KillProcess,
        )?,
        not_there()?,
        compile(allowed_to_the_watch()?, refusal(), SeccompAction::Allow)?,
    ];
    programs.iter().try_for_each(install)
}

/// For the keeper, before it hears the agent.
///
/// # Errors
/// As [`watch_filter`].
pub fn filter() -> Result<(), Error> {
    let process = u64::from(std::process::id());
    let programs = [
        deadly(&[])?,
        compile(allowed(process)?, refusal(), SeccompAction::Allow)?,
    ];
    programs.iter().try_for_each(install)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made() {
        compile(allowed(1).unwrap(), refusal(), SeccompAction::Allow).unwrap();
        let watch = allowed_to_the_watch().unwrap();
        compile(watch, refusal(), SeccompAction::Allow).unwrap();
    }

    #[test]
    fn what_the_keeper_may_do_its_watch_may() {
        let watch = allowed_to_the_watch().unwrap();
        for call in allowed(1).unwrap().keys() {
            assert!(watch.contains_key(call), "{call}");
        }
    }

    #[test]
    fn a_keeper_starts_nothing_and_opens_no_socket() {
        let allowed = allowed(1).unwrap();
        for call in [
            libc::SYS_execve,
            libc::SYS_socket,
            libc::SYS_kill,
            libc::SYS_capset,
            libc::SYS_ptrace,
            libc::SYS_unlinkat,
        ] {
            assert!(!allowed.contains_key(&call), "{call}");
        }
    }
}
