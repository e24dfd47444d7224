//! Every map and global of the probes.

use agent_common::abi::{
    self, Breakpoints, BridgeCall, BridgeKey, BridgeObject, BridgeTie, COUNTERS as COUNTER_COUNT,
    Connection, File, Offsets, PAYLOAD_MAX, Passed, ProcessId, Settings, Socket, VECTOR_MAX,
};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};

/// Overwritten by the loader with what the running kernel's BTF says.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = ZERO_OFFSETS;

/// Overwritten by the loader.
#[unsafe(no_mangle)]
pub static SETTINGS: Settings = Settings {
    copy_bytes: 0,
    multiplexed_bytes: 0,
    scope_host: 0,
    scope_processes: 0,
    own_process: 0,
    own_worker: 0,
    tell_made: 0,
};

// SAFETY: `Offsets` is all `u32`.
const ZERO_OFFSETS: Offsets = unsafe { core::mem::zeroed() };

/// Reads what the loader put there: volatile, or the compiler would fold the zeroes in.
#[inline(always)]
pub fn global<T: Copy>(place: &T) -> T {
    // SAFETY: a reference is valid to read.
    unsafe { core::ptr::read_volatile(place) }
}

/// The offset of a kernel structure's member.
macro_rules! offset {
    ($field:ident) => {
        $crate::maps::global(&$crate::maps::OFFSETS.$field)
    };
}

macro_rules! setting {
    ($field:ident) => {
        $crate::maps::global(&$crate::maps::SETTINGS.$field)
    };
}

pub(crate) use {offset, setting};

#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(16 * 1024 * 1024, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// cgroup ids in scope; descendants are found by their ancestors' ids.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(1024, 0);

/// Bit per ancestor level at which a cgroup in scope lies: index 0.
#[map]
pub static LEVELS: Array<u32> = Array::with_max_entries(1, 0);

/// Processes in pid scope, and those that they forked.
#[map]
pub static PROCESSES: HashMap<ProcessId, u32> = HashMap::with_max_entries(65_536, 0);

/// By `struct sock *`.
#[map]
pub static CONNECTIONS: HashMap<u64, Connection> = HashMap::with_max_entries(65_536, 0);

/// Connections whose messages do not wait for one another (HTTP/2), as the agent has found: their sockets' inode numbers
/// by `struct sock *`.
#[map]
pub static MULTIPLEXED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(65_536, 0);

/// UDP sockets that were told of, by `struct sock *`.
#[map]
pub static DATAGRAMS: LruHashMap<u64, Told> = LruHashMap::with_max_entries(8_192, 0);

pub const ATTACH_BYTES: u32 = 4 * 1024 * 1024;

/// For the process that attaches: what was executed and mapped, and how processes go on and end.
#[map]
pub static ATTACH: RingBuf = RingBuf::with_byte_size(ATTACH_BYTES, 0);

/// Records that found `ATTACH` full: index 0.
#[map]
pub static ATTACH_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// What is known of files ([`agent_common::abi::file`]), written by the agent alone.
#[map]
pub static FILES: LruHashMap<File, u32> = LruHashMap::with_max_entries(32_768, 0);

/// Hardware breakpoints of processes, by process id. Forked children get their parent's.
#[map]
pub static BREAKPOINTS: HashMap<u32, Breakpoints> = HashMap::with_max_entries(32_768, 0);

/// A send or receive between fentry and fexit, by thread.
#[map]
pub static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(16_384, 0);

/// Where a point that is no C function has what it passes.
#[map]
pub static PLACES: HashMap<u32, Passed> = HashMap::with_max_entries(4_096, 0);

/// One slot per direction, so that a send and a receive that preempt each other on a CPU do not share one, and the
/// bridge's.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(3, 0);

/// How many processes have a bridge: index 0.
#[map]
pub static BRIDGES: Array<u32> = Array::with_max_entries(1, 0);

#[map]
pub static BRIDGE_CALLS: HashMap<u64, BridgeCall> = HashMap::with_max_entries(4_096, 0);

#[map]
pub static BRIDGE_OBJECTS: HashMap<BridgeKey, BridgeObject> = HashMap::with_max_entries(8_192, 0);

#[map]
pub static BRIDGE_TIES: HashMap<u64, BridgeTie> = HashMap::with_max_entries(8_192, 0);

/// CPUs on which the bridge's slot of `SCRATCH` is in use: its probes may be preempted, by each other too.
#[map]
pub static BRIDGE_BUSY: HashMap<u32, u32> = HashMap::with_max_entries(1_024, 0);

/// For the records of process events, with their strings.
#[map]
pub static PROCESS_SCRATCH: PerCpuArray<ProcessScratch> = PerCpuArray::with_max_entries(1, 0);

/// One element of the caller's vector: `struct iovec`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Element {
    pub base: u64,
    pub len: u64,
}

/// Where a walk through one call's bytes is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Walk {
    /// Bytes that the call moved.
    pub moved: u64,
    /// Bytes that the same system call moved after these (recvmmsg, sendmmsg).
    pub behind: u64,
    /// Place in the call up to which bytes are reported or left out.
    pub cursor: u64,
    /// Bytes left out before `cursor` since the last record.
    pub skipped: u64,
    /// Stream offset of the call's first byte.
    pub base: u64,
    /// Stream offset of the next TLS record head.
    pub next_head: u64,
    /// Place in the call up to which bytes were copied whole.
    pub whole: u64,
    /// TCP sequence number of the call's first byte.
    pub sequence: u32,
    /// `next_head` is known.
    pub known: u32,
    pub elements: u32,
    /// Records that reached the ring.
    pub records: u32,
    /// The counters' row.
    pub probe: u32,
    /// Something could not be copied or submitted.
    pub failed: u32,
    /// What `bridge::nested` asks: [`LATE`], [`HEAD`].
    pub bridge: u32,
    /// 1: what the call moved is no application data (kTLS).
    pub control: u32,
    /// 1: the kernel makes or opens the records (kTLS).
    pub by_kernel: u32,
    pub _pad: u32,
}

/// TLS whose begin was seen in neither direction.
pub const LATE: u32 = 1;
/// The call's bytes begin with the head of a record of application data.
pub const HEAD: u32 = 2;

/// Where a walk through the caller's vector is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Part {
    /// Place in the call, and bytes wanted from there.
    pub from: u64,
    pub len: u64,
    pub done: u64,
    /// Place in the call of the next element's first byte.
    pub start: u64,
}

#[repr(C)]
pub struct Scratch {
    pub record: Socket,
    /// Twice what is used: the verifier bounds place and length one by one, not their sum.
    pub data: [u8; 2 * PAYLOAD_MAX],
    pub vector: [Element; VECTOR_MAX],
    pub walk: Walk,
    pub part: Part,
    /// Of the socket that had this one's memory before.
    pub closed: abi::Closed,
}

#[repr(C)]
pub struct ProcessScratch {
    pub record: abi::Exec,
    pub data: [u8; 2 * (abi::FILENAME_MAX + abi::ARGUMENTS_MAX)],
    pub executed: abi::Executed,
    pub unix: abi::UnixPath,
    pub cgroup: abi::Cgroup,
}

/// What was told of a UDP socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Told {
    pub inode: u64,
    /// When `initials` were copied.
    pub period: u32,
    pub initials: u32,
}

/// What fentry saw and fexit needs: the iterator moves while the call runs.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    pub sock: u64,
    /// A user address (`ITER_UBUF`) or the kernel's copy of the vector (`ITER_IOVEC`).
    pub base: u64,
    pub offset: u64,
    pub count: u64,
    /// `msghdr.msg_control`, 0 if there is none.
    pub control: u64,
    pub elements: u32,
    /// 0: nothing to copy, 1: buffer, 2: vector.
    pub kind: u32,
    pub flags: u32,
    pub _pad: u32,
}
