//! Reading kernel and user memory: every read may fail and says so.

use crate::maps::{COUNTERS, offset};
use agent_common::abi::{ABSENT, Task, reason};
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_probe_read_kernel,
    generated::{bpf_get_current_cgroup_id, bpf_get_current_task},
};

#[inline(always)]
pub fn read<T>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT || base == 0 {
        return None;
    }
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + offset as u64) as *const T) }.ok()
}

#[inline(always)]
pub fn count(probe: u32, what: u32, by: u64) {
    if let Some(counter) = COUNTERS.get_ptr_mut(probe * reason::COUNT + what) {
        // SAFETY: a per-CPU slot; a preempting probe may cost one count, not memory safety.
        unsafe { *counter += by };
    }
}

/// A thread's process: (pid, start time) of its group leader.
#[inline(always)]
pub fn leader(task: u64) -> Option<(u32, u64)> {
    let leader: u64 = read(task, offset!(task_group_leader))?;
    Some((
        read(leader, offset!(task_tgid))?,
        read(leader, offset!(task_start_boottime))?,
    ))
}

/// The id of a `struct cgroup`.
#[inline(always)]
pub fn cgroup_id(cgroup: u64) -> Option<u64> {
    read::<u64>(cgroup, offset!(cgroup_kn)).and_then(|node| read::<u64>(node, offset!(kernfs_id)))
}

#[inline(always)]
pub fn current() -> u64 {
    // SAFETY: no preconditions.
    unsafe { bpf_get_current_task() }
}

/// Start time of the current process.
#[inline(always)]
pub fn current_start() -> u64 {
    leader(current()).map_or(0, |(_, start)| start)
}

/// `struct task_struct *` -> `nsproxy->net_ns->ns.inum`.
#[inline(always)]
fn network_namespace(task: u64) -> Option<u32> {
    let proxy: u64 = read(task, offset!(task_nsproxy))?;
    let net: u64 = read(proxy, offset!(nsproxy_net))?;
    read(net, offset!(net_inum))
}

#[inline(always)]
pub fn describe_current(into: &mut Task) {
    let ids = bpf_get_current_pid_tgid();
    let owner = bpf_get_current_uid_gid();
    into.process = (ids >> 32) as u32;
    into.thread = ids as u32;
    into.uid = owner as u32;
    into.gid = (owner >> 32) as u32;
    into.start = current_start();
    // SAFETY: no preconditions.
    into.cgroup = unsafe { bpf_get_current_cgroup_id() };
    into.network_namespace = network_namespace(current()).unwrap_or(0);
    into._pad = 0;
    into.comm = bpf_get_current_comm().unwrap_or([0; 16]);
}
