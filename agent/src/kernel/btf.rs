//! Offsets of kernel structures' members, from the running kernel's BTF.
//!
//! rustc emits no CO-RE relocations, so the probes are told where things are instead. A member that this kernel does
//! not have is [`ABSENT`]; whether that can be lived with is said by [`Found::missing_required`].
//!
//! Invariant: no offset is ever assumed.

use agent_common::abi::{ABSENT, Offsets};
use btf_rs::{Btf, Type};
use std::path::Path;

/// Where the kernel shows its own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot read the kernel's type information at {path}: {source} (the kernel needs CONFIG_DEBUG_INFO_BTF)"
    )]
    Unreadable { path: String, source: btf_rs::Error },
}

/// What was looked for and what was found.
pub struct Found {
    pub offsets: Offsets,
    /// `structure.member` of each that this kernel does not have.
    pub absent: Vec<&'static str>,
    pub present: usize,
}

/// One row: where the offset goes, the structure, the member's path (dots between named members).
struct Row {
    name: &'static str,
    structure: &'static str,
    paths: &'static [&'static str],
    place: fn(&mut Offsets) -> &mut u32,
    required: bool,
}

macro_rules! rows {
    ($($field:ident: $structure:literal $($path:literal)|+ $(, $optional:ident)?;)*) => {
        &[$(Row {
            name: concat!($structure, ".", rows!(@first $($path)|+)),
            structure: $structure,
            paths: &[$($path),+],
            place: |offsets| &mut offsets.$field,
            required: rows!(@required $($optional)?),
        }),*]
    };
    (@first $path:literal $(| $rest:literal)*) => { $path };
    (@required) => { true };
    (@required optional) => { false };
}

const ROWS: &[Row] = rows! {
    task_group_leader: "task_struct" "group_leader";
    task_start_boottime: "task_struct" "start_boottime";
    task_real_parent: "task_struct" "real_parent";
    task_tgid: "task_struct" "tgid";
    task_pid: "task_struct" "pid";
    task_mm: "task_struct" "mm";
    task_files: "task_struct" "files";
    task_nsproxy: "task_struct" "nsproxy";
    task_thread_status: "task_struct" "thread_info.status", optional;
    task_signal: "task_struct" "signal";
    signal_live: "signal_struct" "live.counter" | "live";
    nsproxy_net: "nsproxy" "net_ns";
    net_inum: "net" "ns.inum";
    mm_arg_start: "mm_struct" "arg_start";
    mm_arg_end: "mm_struct" "arg_end";
    mm_start_code: "mm_struct" "start_code";
    mm_end_code: "mm_struct" "end_code";
    mm_exe_file: "mm_struct" "exe_file";
    files_fdt: "files_struct" "fdt";
    fdtable_max_fds: "fdtable" "max_fds";
    fdtable_fd: "fdtable" "fd";
    file_inode: "file" "f_inode";
    file_private_data: "file" "private_data";
    inode_mode: "inode" "i_mode";
    inode_ino: "inode" "i_ino";
    inode_sb: "inode" "i_sb";
    inode_size: "inode" "i_size";
    inode_mtime: "inode" "i_mtime_sec" | "__i_mtime.tv_sec" | "i_mtime.tv_sec";
    inode_mtime_nsec: "inode" "i_mtime_nsec" | "__i_mtime.tv_nsec" | "i_mtime.tv_nsec";
    inode_ctime: "inode" "i_ctime_sec" | "__i_ctime.tv_sec" | "i_ctime.tv_sec";
    inode_ctime_nsec: "inode" "i_ctime_nsec" | "__i_ctime.tv_nsec" | "i_ctime.tv_nsec";
    sb_dev: "super_block" "s_dev";
    socket_sk: "socket" "sk";
    socket_file: "socket" "file";
    sk_family: "sock" "__sk_common.skc_family";
    sk_state: "sock" "__sk_common.skc_state";
    sk_num: "sock" "__sk_common.skc_num";
    sk_dport: "sock" "__sk_common.skc_dport";
    sk_daddr: "sock" "__sk_common.skc_daddr";
    sk_rcv_saddr: "sock" "__sk_common.skc_rcv_saddr";
    sk_v6_daddr: "sock" "__sk_common.skc_v6_daddr", optional;
    sk_v6_rcv_saddr: "sock" "__sk_common.skc_v6_rcv_saddr", optional;
    sk_type: "sock" "sk_type";
    sk_protocol: "sock" "sk_protocol";
    sk_socket: "sock" "sk_socket";
    tcp_write_seq: "tcp_sock" "write_seq";
    tcp_copied_seq: "tcp_sock" "copied_seq";
    tcp_rcv_nxt: "tcp_sock" "rcv_nxt";
    tcp_snd_una: "tcp_sock" "snd_una";
    tcp_bytes_received: "tcp_sock" "bytes_received";
    tcp_bytes_acked: "tcp_sock" "bytes_acked";
    unix_peer: "unix_sock" "peer", optional;
    unix_addr: "unix_sock" "addr", optional;
    unix_address_len: "unix_address" "len", optional;
    unix_address_name: "unix_address" "name", optional;
    bprm_file: "linux_binprm" "file";
    bprm_filename: "linux_binprm" "filename";
    msghdr_iter: "msghdr" "msg_iter", optional;
    iter_type: "iov_iter" "iter_type", optional;
    iter_count: "iov_iter" "count", optional;
    iter_iov_offset: "iov_iter" "iov_offset", optional;
    iter_nr_segs: "iov_iter" "nr_segs", optional;
    iter_iov: "iov_iter" "__iov" | "iov", optional;
    iter_ubuf: "iov_iter" "ubuf", optional;
    msghdr_control: "msghdr" "msg_control", optional;
    msghdr_controllen: "msghdr" "msg_controllen", optional;
    icsk_ulp_ops: "inet_connection_sock" "icsk_ulp_ops", optional;
    icsk_ulp_data: "inet_connection_sock" "icsk_ulp_data", optional;
    ulp_name: "tcp_ulp_ops" "name", optional;
    tls_conf: "tls_context" "tx_conf", optional;
    cgroup_kn: "cgroup" "kn", optional;
    kernfs_id: "kernfs_node" "id", optional;
    task_cgroups: "task_struct" "cgroups", optional;
    cgroups_default: "css_set" "dfl_cgrp", optional;
    cgroup_self: "cgroup" "self", optional;
    css_parent: "cgroup_subsys_state" "parent", optional;
};

impl Found {
    /// Members without which nothing works on this kernel.
    pub fn missing_required(&self) -> Vec<&'static str> {
        ROWS.iter()
            .filter(|row| row.required && self.absent.contains(&row.name))
            .map(|row| row.name)
            .collect()
    }

    /// Whether the tracing rung can find a call's vector.
    pub fn iterator_known(&self) -> bool {
        let o = &self.offsets;
        [
            o.msghdr_iter,
            o.iter_type,
            o.iter_count,
            o.iter_iov_offset,
            o.iter_nr_segs,
            o.iter_iov,
            o.value_iter_iovec,
        ]
        .iter()
        .all(|offset| *offset != ABSENT)
    }
}

/// Reads the running kernel's.
pub fn find() -> Result<Found, Error> {
    find_in(Path::new(VMLINUX))
}

/// Reads another kernel's, for tests.
pub fn find_in(path: &Path) -> Result<Found, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.display().to_string(),
        source,
    };
    let btf = Btf::from_file(path).map_err(unreadable)?;
    let mut found = Found {
        offsets: Offsets::default(),
        absent: Vec::new(),
        present: 0,
    };
    for row in ROWS {
        let offset = row
            .paths
            .iter()
            .find_map(|path| member(&btf, row.structure, path));
        if offset.is_some() {
            found.present += 1;
        } else {
            found.absent.push(row.name);
        }
        *(row.place)(&mut found.offsets) = offset.unwrap_or(ABSENT);
    }
    // The probe reads both from one byte.
    let bits = ["tx_conf", "rx_conf"].map(|name| bit(&btf, "tls_context", name));
    if !matches!(bits, [Some(sends), Some(receives)] if sends % 8 == 0 && receives == sends + 3) {
        found.offsets.tls_conf = ABSENT;
    }
    for (name, place) in [
        ("ITER_IOVEC", &mut found.offsets.value_iter_iovec),
        ("ITER_UBUF", &mut found.offsets.value_iter_ubuf),
    ] {
        *place = enumerator(&btf, "iter_type", name).unwrap_or(ABSENT);
    }
    Ok(found)
}

/// Byte offset of `path` in `structure`, looking into anonymous structures and unions.
fn member(btf: &Btf, structure: &str, path: &str) -> Option<u32> {
    bit(btf, structure, path).map(|bits| bits / 8)
}

/// The same in bits.
fn bit(btf: &Btf, structure: &str, path: &str) -> Option<u32> {
    btf.resolve_types_by_name(structure)
        .ok()?
        .into_iter()
        .find_map(|found| match found {
            Type::Struct(_) => {
                let mut bits = 0;
                let mut inside = found;
                for name in path.split('.') {
                    let (at, next) = step(btf, &inside, name, 8)?;
                    bits += at;
                    inside = next;
                }
                Some(bits)
            }
            _ => None,
        })
}

/// Bit offset of member `name` and its type, qualifiers removed.
fn step(btf: &Btf, inside: &Type, name: &str, depth: u32) -> Option<(u32, Type)> {
    let (Type::Struct(structure) | Type::Union(structure)) = inside else {
        return None;
    };
    for member in &structure.members {
        let called = btf.resolve_name(member).unwrap_or_default();
        if called == name {
            return Some((member.bit_offset(), target(btf, member)?));
        }
        if called.is_empty() && depth > 0 {
            let anonymous = target(btf, member)?;
            if let Some((at, found)) = step(btf, &anonymous, name, depth - 1) {
                return Some((member.bit_offset() + at, found));
            }
        }
    }
    None
}

fn target(btf: &Btf, member: &btf_rs::Member) -> Option<Type> {
    let mut found = btf.resolve_chained_type(member).ok()?;
    loop {
        found = match &found {
            Type::Typedef(inner) => btf.resolve_chained_type(inner).ok()?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                btf.resolve_chained_type(inner).ok()?
            }
            Type::TypeTag(inner) => btf.resolve_chained_type(inner).ok()?,
            _ => return Some(found),
        };
    }
}

fn enumerator(btf: &Btf, name: &str, value: &str) -> Option<u32> {
    btf.resolve_types_by_name(name)
        .ok()?
        .into_iter()
        .find_map(|found| match found {
            Type::Enum(found) => found
                .members
                .iter()
                .find(|member| btf.resolve_name(*member).is_ok_and(|n| n == value))
                .map(|m| m.val()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_what_the_probes_need() {
        let found = find().unwrap();
        assert_eq!(found.missing_required(), Vec::<&str>::new());
        // Facts of every 64-bit kernel: `file.f_inode` is not at 0 in `task_struct`'s sense, ports lie side by side.
        assert_eq!(found.offsets.sk_num, found.offsets.sk_dport + 2);
        assert!(found.iterator_known());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = find_in(Path::new("/nonexistent/btf"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("/nonexistent/btf"), "{error}");
    }
}
