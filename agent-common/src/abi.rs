//! The records that probes put into the ring, and the globals and map values that the agent hands to the probes.
//!
//! All integers are in the host's byte order unless a field says otherwise. Every record starts with a [`Header`] whose
//! `len` is the length of the whole record; a reader skips and counts kinds that it does not know.
//!
//! Invariant: integers and byte arrays only: no Rust enum, no `Option`, no implicit padding (asserted below).
//! Invariant: knows no HTTP and no TLS beyond a record's five-byte head.

use core::mem::{offset_of, size_of};

/// Changes whenever a record's shape does.
pub const VERSION: u16 = 3;

/// Record kinds. Explicit, never reused.
pub mod kind {
    pub const SOCKET: u16 = 1;
    pub const CLOSED: u16 = 2;
    pub const SECRET: u16 = 3;
    pub const EXEC: u16 = 4;
    pub const FORK: u16 = 5;
    pub const EXIT: u16 = 6;
    pub const UNIX_PATH: u16 = 7;
    pub const CGROUP: u16 = 8;
    /// Of the ring `ATTACH`, as are [`EXECUTED`] and copies of [`FORK`] and [`EXIT`].
    pub const MAPPED: u16 = 9;
    /// A [`Socket`](super::Socket) of UDP: with a datagram that begins with a QUIC Initial packet, or without payload
    /// the first other datagram that the socket sent from or to port 443.
    pub const DATAGRAM: u16 = 10;
    /// A [`Socket`](super::Socket) whose payload is plaintext that a TLS library gave or took.
    pub const PLAIN: u16 = 11;
    /// A [`Closed`](super::Closed): no more plaintext of this connection comes, though it goes on.
    pub const UNTIED: u16 = 12;
    pub const EXECUTED: u16 = 13;
    /// Of the ring `ATTACH`.
    pub const MADE: u16 = 14;
    /// Of the ring `ATTACH`.
    pub const MOVED: u16 = 15;
}

/// `struct sock_common.skc_family`.
pub mod family {
    pub const UNIX: u16 = 1;
    pub const INET: u16 = 2;
    pub const INET6: u16 = 10;
}

/// [`Socket::direction`].
pub mod direction {
    pub const SENT: u8 = 0;
    pub const RECEIVED: u8 = 1;
}

/// [`Socket::flags`].
pub mod flag {
    /// The stream was seen from its first byte in this direction.
    pub const FROM_START: u8 = 1;
    /// A read returned 0: the peer has closed this direction.
    pub const END: u8 = 2;
    /// Of plaintext: the library is GnuTLS, else one with OpenSSL's functions.
    pub const GNUTLS: u8 = 4;
    /// The kernel makes TLS records of these bytes, or made them of such (kTLS). `offset` counts them as they are,
    /// `sequence` is where their record begins.
    pub const KERNEL_TLS: u8 = 8;
}

/// Cookie of a bridge's entry probe: which function it stands at.
pub mod bridge {
    /// It sends; else it receives.
    pub const SENDS: u64 = 1;
    /// It gives 1, and how many bytes it moved in its fourth argument, else it gives that number.
    pub const COUNT_FOURTH: u64 = 2;
    /// The same in its fifth argument.
    pub const COUNT_FIFTH: u64 = 4;
    /// Its result is of 64 bits, and the library is GnuTLS.
    pub const GNUTLS: u64 = 8;
    /// It frees the object: what comes at the same address is another one.
    pub const FREES: u64 = 16;
}

/// The first fields of every record. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Header {
    /// [`VERSION`].
    pub version: u16,
    /// One of [`kind`].
    pub kind: u16,
    /// Length of the whole record in bytes, this header included.
    pub len: u32,
    /// `bpf_ktime_get_boot_ns`.
    pub time: u64,
}

/// Who made the call (`current`). 56 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Task {
    /// Thread group id: what user space calls the pid.
    pub process: u32,
    pub thread: u32,
    pub uid: u32,
    pub gid: u32,
    /// `task_struct.group_leader->start_boottime`, nanoseconds.
    pub start: u64,
    /// `bpf_get_current_cgroup_id`.
    pub cgroup: u64,
    /// `nsproxy->net_ns->ns.inum`.
    pub network_namespace: u32,
    pub _pad: u32,
    /// `task_struct.comm`.
    pub comm: [u8; 16],
}

/// Part of what one call moved through a socket. 176 bytes, then `copied` bytes of payload.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Socket {
    pub header: Header,
    pub task: Task,
    /// `struct sock *`.
    pub sock: u64,
    /// The socket's inode number: its generation, and what `/proc/PID/fd` shows.
    pub inode: u64,
    /// Inode number of the other socket of a Unix pair, 0 if unknown.
    pub peer_inode: u64,
    /// Place in the stream of the first byte that follows.
    pub offset: u64,
    /// Stream bytes right before `offset` that the copy policy left out since this direction's last record.
    pub skipped: u64,
    /// TCP sequence number at `offset`, 0 on Unix sockets.
    pub sequence: u32,
    /// How many bytes follow this struct.
    pub copied: u32,
    /// One of [`family`].
    pub family: u16,
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order.
    pub peer_port: u16,
    /// One of [`direction`].
    pub direction: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// IPv4 in the first 4 bytes, IPv6 in all 16; network byte order.
    pub local: [u8; 16],
    pub peer: [u8; 16],
    /// Of plaintext: stream offset on the socket of the TLS record that carried it, as far as the calls tell.
    pub wire: u64,
    /// Of plaintext: place of the first byte that follows behind that record's head, in plaintext.
    pub within: u32,
    /// Of plaintext: offsets of another number have nothing to do with these, and what lies between is not known.
    pub generation: u32,
}

/// A socket was closed (`inet_sock_set_state` to `TCP_CLOSE`), or its memory is used by another one now. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Closed {
    pub header: Header,
    pub sock: u64,
    pub inode: u64,
}

/// Bytes of a Unix socket's path that are kept: `sun_path`'s size.
pub const UNIX_PATH_MAX: usize = 108;

/// The bound path of a Unix socket or of its peer, once per connection, before its first [`Socket`]. 144 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UnixPath {
    pub header: Header,
    pub sock: u64,
    pub inode: u64,
    /// Valid bytes in `path`; an abstract name starts with a NUL.
    pub len: u32,
    pub path: [u8; UNIX_PATH_MAX],
}

/// Longest label of the NSS key log format is `CLIENT_HANDSHAKE_TRAFFIC_SECRET`, 31 bytes and a NUL.
pub const LABEL_MAX: usize = 32;
/// SHA-384's output, the longest traffic secret; a TLS 1.2 master secret has 48 bytes too.
pub const SECRET_MAX: usize = 48;

/// Client and server random of TLS (RFC 8446 section 4.1.2), in bytes.
pub const RANDOM_LEN: usize = 32;

/// One hit of a key-log point. 200 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Secret {
    pub header: Header,
    pub task: Task,
    /// The attachment's cookie.
    pub point: u32,
    /// Valid bytes in `secret`.
    pub len: u32,
    /// NUL terminated.
    pub label: [u8; LABEL_MAX],
    pub secret: [u8; SECRET_MAX],
    pub client_random: [u8; RANDOM_LEN],
    /// 1 if `client_random` is told.
    pub random_known: u32,
    pub _pad: u32,
}

/// A value when a key-log point is hit: `register + offsets[0]`, then so many times as `loads` says the 8 bytes at
/// that address, plus the next offset. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub offsets: [i32; 3],
    /// Its number in x86-64 machine code (0 `rax`, 1 `rcx`, ... 15 `r15`), or [`Place::CONSTANT`].
    pub register: u8,
    /// 0 to 2.
    pub loads: u8,
    pub _pad: [u8; 2],
}

impl Place {
    /// No register: `offsets[0]` is the value.
    pub const CONSTANT: u8 = 16;
}

/// [`Places::label`] where the label stands nowhere.
pub mod label {
    /// `CLIENT_RANDOM`: a TLS 1.2 master secret.
    pub const MASTER: i32 = 0;
    /// `CLIENT_TRAFFIC_SECRET_0`
    pub const CLIENT: i32 = 1;
    /// `SERVER_TRAFFIC_SECRET_0`
    pub const SERVER: i32 = 2;
}

/// What a key-log point passes that is no C function, in the map `PLACES`. 168 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How many of the following there are: 1 or 2.
    pub count: u64,
    pub secrets: [Places; 2],
}

/// Where one secret is that a key-log point passes. 80 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Address; where `label_len` is 0, one of [`label`].
    pub label: Place,
    pub label_len: Place,
    /// Address.
    pub secret: Place,
    pub secret_len: Place,
    /// Address, 0 if it is not told.
    pub client_random: Place,
}

/// What of an argument vector is copied.
pub const ARGUMENTS_MAX: usize = 1024;
/// What of a file name is copied.
pub const FILENAME_MAX: usize = 256;

/// `sched_process_exec`. 120 bytes, then `filename_len` bytes of file name, then `arguments_len` bytes of arguments.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Exec {
    pub header: Header,
    pub task: Task,
    pub parent: u32,
    pub filename_len: u32,
    pub parent_start: u64,
    /// `super_block.s_dev` of the executable (12 bit major, 20 bit minor).
    pub device: u64,
    /// `inode.i_ino` of the executable.
    pub inode: u64,
    pub arguments_len: u32,
    /// The argument vector was longer than what follows.
    pub arguments_cut: u32,
    pub _pad: u64,
}

/// `sched_process_fork` of a process (not of a thread). 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Fork {
    pub header: Header,
    pub child: u32,
    pub parent: u32,
    pub child_start: u64,
    pub parent_start: u64,
    pub cgroup: u64,
}

/// `sched_process_exit` of a process's last thread. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Exit {
    pub header: Header,
    pub process: u32,
    pub _pad: u32,
    pub start: u64,
}

/// `cgroup_attach_task` of a process: it was moved to another cgroup, which brings it into the scope or out of it. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Moved {
    pub header: Header,
    pub process: u32,
    /// 1: into the scope, or within it.
    pub inside: u32,
    pub start: u64,
}

/// What of a cgroup's path is copied.
pub const CGROUP_PATH_MAX: usize = 256;

/// `cgroup_mkdir`: a cgroup that may be a unit of the scope coming back. 280 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Cgroup {
    pub header: Header,
    /// cgroup id.
    pub id: u64,
    /// NUL terminated, from the root of the hierarchy.
    pub path: [u8; CGROUP_PATH_MAX],
}

/// A process in scope mapped a file as executable (`mmap` with `PROT_EXEC`): a library, early or late. 96 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Mapped {
    pub header: Header,
    pub process: u32,
    pub _pad: u32,
    pub start: u64,
    pub file: File,
    /// Where its first byte is in the process's memory, how many there are, and which byte of the file that is.
    pub address: u64,
    pub len: u64,
    pub offset: u64,
}

/// `sched_process_exec`, for the process that attaches. 344 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Executed {
    pub header: Header,
    pub process: u32,
    pub _pad: u32,
    pub start: u64,
    pub file: File,
    /// `mm_struct.start_code` and `.end_code`: the program's own code (fs/binfmt_elf.c, `load_elf_binary`).
    pub code_start: u64,
    pub code_end: u64,
    /// `linux_binprm.filename`, NUL terminated where it is shorter: what was asked for, not resolved.
    pub name: [u8; FILENAME_MAX],
}

/// What of a path is copied that a system call named.
pub const PATH_MAX: usize = 512;

/// A process has made a file executable, or has created it so and has it open for writing. 560 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Made {
    pub header: Header,
    pub process: u32,
    pub _pad: u32,
    pub start: u64,
    /// Where the process has the file open, or [`Made::NOT_OPEN`].
    pub descriptor: i32,
    /// What the path is relative to, as the call had it: a descriptor of the process, or [`Made::WORKING_FOLDER`].
    pub folder: i32,
    /// Bytes of `path`; 0 if the call had none.
    pub path_len: u32,
    pub _end: u32,
    /// NUL terminated.
    pub path: [u8; PATH_MAX],
}

impl Made {
    pub const NOT_OPEN: i32 = -1;
    /// `AT_FDCWD`
    pub const WORKING_FOLDER: i32 = -100;
}

/// A file in one state, whatever its path: with another content it is another. Key of the map `FILES`. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct File {
    /// `super_block.s_dev` (12 bit major, 20 bit minor).
    pub device: u64,
    /// `inode.i_ino`
    pub inode: u64,
    /// `inode.i_size`
    pub size: u64,
    /// `inode.i_mtime` and `.i_ctime` in nanoseconds.
    pub modified: u64,
    pub changed: u64,
}

impl File {
    /// Whether both have the same content, if they are the same file: the numbers of device and inode may differ between
    /// kernel and `stat` (overlayfs, btrfs).
    pub fn has_content_of(&self, other: &Self) -> bool {
        (self.size, self.modified, self.changed) == (other.size, other.modified, other.changed)
    }
}

/// What is known of a file: values of the map `FILES`.
pub mod file {
    /// It has no key-log point: its mappings are not reported.
    pub const WITHOUT_POINTS: u32 = 1;
    /// It has some: each of its mappings is reported at once.
    pub const WITH_POINTS: u32 = 2;
}

/// One hardware breakpoint of a process. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoint {
    /// Of an instruction, or of a word that is read; 0: none.
    pub address: u64,
    /// The point's id, as [`Secret::point`] tells it.
    pub point: u32,
    /// Key in the map `PLACES`, of a point that is no C function.
    pub places: u32,
}

/// Breakpoints that are taken of a thread. It has four (`HBP_NUM`, arch/x86/include/asm/hw_breakpoint.h): the others are a
/// debugger's.
pub const BREAKPOINTS_MAX: usize = 2;

/// Where a process has breakpoints, in the map `BREAKPOINTS` by process id. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breakpoints {
    /// The process's start: its id may be another's later.
    pub start: u64,
    pub at: [Breakpoint; BREAKPOINTS_MAX],
}

/// Counter slots of the per-CPU map `COUNTERS`: index = probe * [`reason::COUNT`] + reason.
pub mod probe {
    pub const SEND: u32 = 0;
    pub const RECEIVE: u32 = 1;
    pub const STATE: u32 = 2;
    pub const KEYLOG: u32 = 3;
    pub const PROCESS: u32 = 4;
    pub const KDF: u32 = 5;
    pub const BRIDGE: u32 = 6;
    /// What goes to the process that attaches.
    pub const ATTACH: u32 = 7;
    pub const COUNT: u32 = 8;
    pub const NAMES: [&str; COUNT as usize] = [
        "send", "receive", "state", "keylog", "process", "kdf", "bridge", "attach",
    ];
}

/// What can become of a hit: `SEEN = REPORTED + COUNTED_ONLY + LOST`. The reasons from `RING_FULL` to `KERNEL` say why
/// records, or parts of what a hit moved, were lost.
pub mod reason {
    /// Hits within the scope that moved bytes (or carried a secret, or were a process event).
    pub const SEEN: u32 = 0;
    /// Hits for which at least one record reached the ring.
    pub const REPORTED: u32 = 1;
    /// Records in the ring (one hit may make several).
    pub const RECORDS: u32 = 2;
    /// Hits that the copy policy answers with a count alone (the next record's position tells).
    pub const COUNTED_ONLY: u32 = 3;
    /// Loss: the ring was full.
    pub const RING_FULL: u32 = 4;
    /// Loss: memory could not be read (`bpf_probe_read_user` failed).
    pub const FAULT: u32 = 5;
    /// Loss: a vector with more elements than the probe walks; the rest is a gap.
    pub const OVERSIZE: u32 = 6;
    /// Loss: the table of connections, or of calls, was full, or another process was at work in the same memory.
    pub const TABLE_FULL: u32 = 7;
    /// Loss: a 32-bit system call, whose arguments this probe does not read.
    pub const COMPAT: u32 = 8;
    /// Unseen by this rung: `io_uring_enter` calls of processes in scope.
    pub const IO_URING: u32 = 9;
    /// Loss: a kernel structure could not be read.
    pub const KERNEL: u32 = 10;
    /// Bytes moved in scope.
    pub const BYTES_SEEN: u32 = 11;
    /// Bytes copied into the ring.
    pub const BYTES_COPIED: u32 = 12;
    /// Hits of which no record reached the ring, though one should have.
    pub const LOST: u32 = 13;
    /// Loss: the budget of a multiplexed connection was used up (the rest of the call is a gap), or that of a UDP
    /// socket's Initials.
    pub const OVER_BUDGET: u32 = 14;
    /// Hits of a breakpoint that nothing was read at: of a process out of scope, or at an address that is not its own.
    pub const STRAY: u32 = 15;
    pub const COUNT: u32 = 16;
    pub const NAMES: [&str; COUNT as usize] = [
        "seen",
        "reported",
        "records",
        "counted_only",
        "ring_full",
        "fault",
        "oversize",
        "table_full",
        "compat",
        "io_uring",
        "kernel",
        "bytes_seen",
        "bytes_copied",
        "lost",
        "over_budget",
        "stray",
    ];
}

/// How many counters `COUNTERS` has.
pub const COUNTERS: u32 = probe::COUNT * reason::COUNT;

/// An offset in [`Offsets`] that this kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// Byte offsets in kernel structures, read from the running kernel's BTF: `structure_member`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Offsets {
    pub task_group_leader: u32,
    pub task_start_boottime: u32,
    pub task_real_parent: u32,
    pub task_tgid: u32,
    pub task_pid: u32,
    pub task_mm: u32,
    pub task_files: u32,
    pub task_nsproxy: u32,
    /// `task_struct.thread_info.status` (x86: bit 1 is TS_COMPAT).
    pub task_thread_status: u32,
    pub task_signal: u32,
    /// `signal_struct.live`: threads that are left.
    pub signal_live: u32,
    pub nsproxy_net: u32,
    /// `net.ns.inum`
    pub net_inum: u32,
    pub mm_arg_start: u32,
    pub mm_arg_end: u32,
    pub mm_start_code: u32,
    pub mm_end_code: u32,
    pub mm_exe_file: u32,
    pub files_fdt: u32,
    pub fdtable_max_fds: u32,
    pub fdtable_fd: u32,
    pub file_inode: u32,
    pub file_private_data: u32,
    pub inode_mode: u32,
    pub inode_ino: u32,
    pub inode_sb: u32,
    pub inode_size: u32,
    /// Seconds and nanoseconds of `inode.i_mtime` and `.i_ctime`.
    pub inode_mtime: u32,
    pub inode_mtime_nsec: u32,
    pub inode_ctime: u32,
    pub inode_ctime_nsec: u32,
    pub sb_dev: u32,
    pub socket_sk: u32,
    pub socket_file: u32,
    pub sk_family: u32,
    pub sk_state: u32,
    pub sk_num: u32,
    pub sk_dport: u32,
    pub sk_daddr: u32,
    pub sk_rcv_saddr: u32,
    pub sk_v6_daddr: u32,
    pub sk_v6_rcv_saddr: u32,
    pub sk_type: u32,
    pub sk_protocol: u32,
    pub sk_socket: u32,
    pub tcp_write_seq: u32,
    pub tcp_copied_seq: u32,
    pub tcp_rcv_nxt: u32,
    pub tcp_snd_una: u32,
    pub tcp_bytes_received: u32,
    pub tcp_bytes_acked: u32,
    pub unix_peer: u32,
    pub unix_addr: u32,
    pub unix_address_len: u32,
    pub unix_address_name: u32,
    pub bprm_file: u32,
    pub bprm_filename: u32,
    pub msghdr_iter: u32,
    pub iter_type: u32,
    pub iter_count: u32,
    pub iter_iov_offset: u32,
    pub iter_nr_segs: u32,
    /// `iov` or, since 6.4, `__iov`.
    pub iter_iov: u32,
    /// `ubuf` (6.0).
    pub iter_ubuf: u32,
    /// `enum iter_type`, by name, since the values moved: ITER_IOVEC and ITER_UBUF.
    pub value_iter_iovec: u32,
    pub value_iter_ubuf: u32,
    /// `msghdr.msg_control` and `.msg_controllen`
    pub msghdr_control: u32,
    pub msghdr_controllen: u32,
    /// `inet_connection_sock.icsk_ulp_ops` and `.icsk_ulp_data`
    pub icsk_ulp_ops: u32,
    pub icsk_ulp_data: u32,
    /// `tcp_ulp_ops.name`
    pub ulp_name: u32,
    /// The byte of `tls_context` with `tx_conf` (3 bits) and `rx_conf` (3 bits).
    pub tls_conf: u32,
    pub cgroup_kn: u32,
    pub kernfs_id: u32,
    /// `task_struct.cgroups`
    pub task_cgroups: u32,
    /// `css_set.dfl_cgrp`: the cgroup of version 2
    pub cgroups_default: u32,
    pub cgroup_self: u32,
    /// `cgroup_subsys_state.parent`
    pub css_parent: u32,
}

/// Read-only settings of the probes.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Settings {
    /// Bytes of a stream that are copied after each change of direction.
    pub copy_bytes: u32,
    /// Bytes that are copied of a multiplexed connection instead, in each direction and [`PERIOD`]; a quarter of it,
    /// once, of a TLS connection of which nobody has told yet.
    pub multiplexed_bytes: u32,
    /// 1: everything but the agent's own processes is in scope.
    pub scope_host: u32,
    /// 1: the map `PROCESSES` is looked at.
    pub scope_processes: u32,
    /// The agent itself, never observed.
    pub own_process: u32,
    /// The agent's worker process, never observed; 0 if there is none.
    pub own_worker: u32,
    /// 1: files that are made executable are told of ([`Made`]).
    pub tell_made: u32,
}

/// Shift from nanoseconds to the periods of [`Settings::multiplexed_bytes`]: 1.07 seconds.
pub const PERIOD: u32 = 30;

/// `USER_HZ` is 100 on every architecture of today.
pub const TICK: u64 = 10_000_000;

/// Key of the map `PROCESSES` (pid scope). 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessId {
    /// Start time in ticks of [`TICK`] nanoseconds, as field 22 of `/proc/PID/stat` has it.
    pub start: u64,
    pub process: u32,
    pub _pad: u32,
}

/// How one direction's TLS records are followed. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Framing {
    /// Stream offset of the next TLS record's head, if `known`.
    pub next_head: u64,
    pub known: u32,
    pub _pad: u32,
}

/// State of a connection in the map `CONNECTIONS`, keyed by the `struct sock *`. 120 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Connection {
    pub inode: u64,
    pub peer_inode: u64,
    /// Stream offset after the last byte seen, by direction.
    pub next: [u64; 2],
    /// TCP sequence number at `next`.
    pub sequence: [u32; 2],
    /// Bytes that may still be copied before the direction changes.
    pub left: u32,
    /// Last direction seen.
    pub direction: u8,
    /// One of [`class`].
    pub class: u8,
    /// Bit per direction: `next` is known; shifted by 2: seen from the start. [`TIED`](Self::TIED).
    pub known: u8,
    /// One of [`multiplexed`].
    pub multiplexed: u8,
    pub framing: [Framing; 2],
    /// Bytes left out by the policy since the direction's last record.
    pub skipped: [u64; 2],
    /// `bpf_ktime_get_boot_ns` of the last call.
    pub time: u64,
    /// Of [`Settings::multiplexed_bytes`], by direction, in the period.
    pub multiplexed_left: [u32; 2],
    /// The last one in which there were bytes, by [`PERIOD`].
    pub period: u32,
    pub _pad: u32,
}

impl Connection {
    /// In `known`: a TLS library's calls are tied to it.
    pub const TIED: u8 = 16;
}

/// [`Connection::multiplexed`].
pub mod multiplexed {
    pub const UNKNOWN: u8 = 0;
    /// Not known, and what a TLS connection may have until then was given to it.
    pub const TRIED: u8 = 1;
    /// It began with HTTP/2's preface, or the agent has told.
    pub const YES: u8 = 2;
}

/// [`Connection::class`].
pub mod class {
    pub const UNKNOWN: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const TLS: u8 = 2;
    pub const OPAQUE: u8 = 3;
    /// Plaintext of a TLS library.
    pub const PLAIN: u8 = 4;
}

/// A TLS library's object for a connection (`SSL *`, `gnutls_session_t`). Key of the map `BRIDGE_OBJECTS`. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeKey {
    pub object: u64,
    pub process: u32,
    pub _pad: u32,
}

/// A call of a TLS library that is under way, in the map `BRIDGE_CALLS` by `bpf_get_current_pid_tgid`. 56 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct BridgeCall {
    pub key: BridgeKey,
    /// `struct mm_struct *`: what ran in this process before an exec is another program's.
    pub memory: u64,
    /// The caller's bytes.
    pub buffer: u64,
    /// Where the library puts how many it moved, if not in its result.
    pub count_at: u64,
    /// The entry's cookie.
    pub form: u64,
    /// Calls of the same object within this one, and itself.
    pub depth: u32,
    /// Bytes of a socket that is none of the bridge's were moved within it.
    pub elsewhere: u32,
}

/// What is known of a TLS library's object. 80 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct BridgeObject {
    pub sock: u64,
    /// Inode number of the socket.
    pub inode: u64,
    /// As in [`BridgeCall`].
    pub memory: u64,
    /// By direction, as in [`Socket`].
    pub wire: [u64; 2],
    /// Bytes that its calls moved on the socket since `wire` was set.
    pub moved: [u64; 2],
    pub within: [u32; 2],
    /// One of [`tie`].
    pub tie: u32,
    pub generation: u32,
    /// Bit per direction: `wire` is where the next plaintext of it begins.
    pub fresh: u32,
    pub _pad: u32,
}

/// Which object a connection is tied to, in the map `BRIDGE_TIES` by `struct sock *`. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct BridgeTie {
    pub inode: u64,
    pub key: BridgeKey,
    pub generation: u32,
    pub _pad: u32,
}

/// [`BridgeObject::tie`].
pub mod tie {
    /// Its calls moved bytes of this socket, whose lengths have not agreed yet.
    pub const CANDIDATE: u32 = 0;
    pub const TIED: u32 = 1;
    /// Its calls are not what they should be: it is never believed again.
    pub const REFUSED: u32 = 2;
}

/// Most bytes of payload in one record.
pub const PAYLOAD_MAX: usize = 8 * 1024;

/// Elements of a vector that the probes walk.
pub const VECTOR_MAX: usize = 256;

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<Task>() == 56);
    assert!(size_of::<Socket>() == 176);
    assert!(offset_of!(Socket, offset) == 96);
    assert!(offset_of!(Socket, local) == 128);
    assert!(size_of::<Closed>() == 32);
    assert!(size_of::<UnixPath>() == 144);
    assert!(size_of::<Secret>() == 200);
    assert!(size_of::<Place>() == 16);
    assert!(size_of::<Places>() == 80);
    assert!(size_of::<Passed>() == 168);
    assert!(size_of::<Exec>() == 120);
    assert!(size_of::<Fork>() == 48);
    assert!(size_of::<Exit>() == 32);
    assert!(size_of::<Moved>() == 32);
    assert!(size_of::<Cgroup>() == 280);
    assert!(size_of::<Mapped>() == 96);
    assert!(size_of::<Executed>() == 344);
    assert!(size_of::<Made>() == 560);
    assert!(offset_of!(Made, path) == 48);
    assert!(size_of::<File>() == 40);
    assert!(size_of::<Breakpoint>() == 16);
    assert!(size_of::<Breakpoints>() == 40);
    assert!(size_of::<ProcessId>() == 16);
    assert!(size_of::<Framing>() == 16);
    assert!(size_of::<Connection>() == 120);
    assert!(size_of::<Settings>() == 28);
    assert!(size_of::<BridgeKey>() == 16);
    assert!(size_of::<BridgeCall>() == 56);
    assert!(size_of::<BridgeObject>() == 80);
    assert!(size_of::<BridgeTie>() == 32);
};
