//! What may be observed. Asked before a byte is read.

use crate::{
    kernel::{cgroup_id, current_start, read},
    maps::{CGROUPS, LEVELS, PROCESSES, offset, setting},
};
use agent_common::abi::{ProcessId, TICK};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_get_current_ancestor_cgroup_id};

/// Deepest cgroup level that a scope can name.
const LEVELS_MAX: u32 = 24;

#[inline(always)]
pub fn holds_current() -> bool {
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    // Also where there is no worker: process 0 is nobody's.
    if process == setting!(own_process) || process == setting!(own_worker) || process == 0 {
        return false;
    }
    if setting!(scope_host) == 1 {
        return true;
    }
    if let Some(levels) = LEVELS.get(0) {
        let levels = *levels;
        if levels != 0 {
            for level in 0..LEVELS_MAX {
                if levels & (1 << level) == 0 {
                    continue;
                }
                // SAFETY: no preconditions; 0 beyond the task's own depth.
                let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
                if id == 0 {
                    break;
                }
                // SAFETY: the value is not read.
                if unsafe { CGROUPS.get(id) }.is_some() {
                    return true;
                }
            }
        }
    }
    setting!(scope_processes) == 1 && holds_process(process, current_start())
}

/// Whether the cgroup of another task, or one above it, is of the scope.
#[inline(always)]
pub fn holds_cgroup_of(task: u64) -> bool {
    let Some(mut cgroup) = read::<u64>(task, offset!(task_cgroups))
        .and_then(|cgroups| read::<u64>(cgroups, offset!(cgroups_default)))
    else {
        return false;
    };
    for _ in 0..LEVELS_MAX {
        // SAFETY: the value is not read.
        if cgroup_id(cgroup).is_some_and(|id| unsafe { CGROUPS.get(id) }.is_some()) {
            return true;
        }
        let parent = cgroup
            .checked_add(offset!(cgroup_self) as u64)
            .and_then(|css| read::<u64>(css, offset!(css_parent)));
        match parent {
            Some(parent) if parent != 0 => {
                cgroup = parent.wrapping_sub(offset!(cgroup_self) as u64)
            }
            _ => return false,
        }
    }
    false
}

#[inline(always)]
pub fn holds_process(process: u32, start: u64) -> bool {
    let id = key(process, start);
    // SAFETY: the value is not read.
    unsafe { PROCESSES.get(id) }.is_some()
}

/// `start` in nanoseconds.
#[inline(always)]
pub fn key(process: u32, start: u64) -> ProcessId {
    ProcessId {
        start: start / TICK,
        process,
        _pad: 0,
    }
}
