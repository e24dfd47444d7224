//! Executed and mapped files, told to the process that attaches.
//!
//! Invariant: a file is named by its state, so that another content is never taken for the one that was searched.

use crate::{
    emit,
    kernel::{current, current_start, read},
    maps::{FILES, offset},
};
use agent_common::abi::{self, FILENAME_MAX, File, file, kind};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_probe_read_kernel_str};

const SECOND: u64 = 1_000_000_000;
/// `I_CTIME_QUERIED` (include/linux/fs.h), a mark within the nanoseconds, lies above these bits.
const NANOSECONDS: u32 = (1 << 30) - 1;

/// The state of `struct file *`'s inode.
#[inline(always)]
pub fn state(of: u64) -> Option<File> {
    let inode: u64 = read(of, offset!(file_inode))?;
    let block: u64 = read(inode, offset!(inode_sb))?;
    Some(File {
        device: read::<u32>(block, offset!(sb_dev))? as u64,
        inode: read(inode, offset!(inode_ino))?,
        size: read(inode, offset!(inode_size))?,
        modified: time(inode, offset!(inode_mtime), offset!(inode_mtime_nsec)),
        changed: time(inode, offset!(inode_ctime), offset!(inode_ctime_nsec)),
    })
}

#[inline(always)]
fn time(inode: u64, seconds: u32, nanoseconds: u32) -> u64 {
    let seconds: u64 = read(inode, seconds).unwrap_or(0);
    // 4 or 8 bytes, of which the first four are the lower ones.
    let nanoseconds: u32 = read(inode, nanoseconds).unwrap_or(0);
    seconds
        .wrapping_mul(SECOND)
        .wrapping_add((nanoseconds & NANOSECONDS) as u64)
}

/// The current process has mapped `len` bytes of a file as code, those from `offset` on at `address`. On a stack of its
/// own: verifiers bound to 512 bytes what functions that call one another have together.
#[inline(never)]
pub fn mapped(of: u64, address: u64, len: u64, offset: u64) -> u32 {
    tell_mapped(of, address, len, offset);
    0
}

#[inline(always)]
fn tell_mapped(of: u64, address: u64, len: u64, offset: u64) {
    let memory = read::<u64>(current(), offset!(task_mm)).unwrap_or(0);
    if read::<u64>(memory, offset!(mm_exe_file)) == Some(of) {
        // The program itself, which exec maps and tells of.
        return;
    }
    let Some(state) = state(of) else {
        return;
    };
    // SAFETY: the value is copied at once.
    if unsafe { FILES.get(state) }.copied() == Some(file::WITHOUT_POINTS) {
        return;
    }
    let record = abi::Mapped {
        header: emit::header(kind::MAPPED, size_of::<abi::Mapped>()),
        process: (bpf_get_current_pid_tgid() >> 32) as u32,
        _pad: 0,
        start: current_start(),
        file: state,
        address,
        len,
        offset,
    };
    emit::attach(&record, emit::WAKE);
}

/// The current process has executed a file: `name` is what it asked for.
#[inline(always)]
pub fn executed(record: &mut abi::Executed, of: u64, name: u64) {
    record.header = emit::header(kind::EXECUTED, size_of::<abi::Executed>());
    record.process = (bpf_get_current_pid_tgid() >> 32) as u32;
    record._pad = 0;
    record.start = current_start();
    record.file = state(of).unwrap_or_default();
    let memory = read::<u64>(current(), offset!(task_mm)).unwrap_or(0);
    record.code_start = read(memory, offset!(mm_start_code)).unwrap_or(0);
    record.code_end = read(memory, offset!(mm_end_code)).unwrap_or(0);
    // SAFETY: the array's size; the helper checks the address, and ends what it copies with a NUL.
    let copied = unsafe {
        bpf_probe_read_kernel_str(
            record.name.as_mut_ptr().cast(),
            FILENAME_MAX as u32,
            name as *const _,
        )
    };
    if copied <= 0 {
        record.name[0] = 0;
    }
    // SAFETY: the value is copied at once.
    let wake = match unsafe { FILES.get(record.file) }.copied() {
        Some(file::WITHOUT_POINTS) => emit::QUIET,
        _ => emit::WAKE,
    };
    emit::attach(record, wake);
}
