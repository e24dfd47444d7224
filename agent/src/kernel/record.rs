//! What the kernel side hands to the pipeline: plain values, decoded from ring records.
//!
//! Invariant: nothing here knows aya, HTTP or TLS; payload bytes exist only as [`Payload`].

use crate::flow::{Direction, Nanos, Payload};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A process on this boot: pids are reused, (pid, start time) is not.
///
/// `start` is the thread group leader's `start_boottime` in nanoseconds (`task_struct`), the same clock as [`Nanos`].
/// `/proc/PID/stat` field 22 gives it in ticks of 10 ms, so compare with that resolution there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessKey {
    pub pid: u32,
    pub start: Nanos,
}

/// One socket's life: the kernel's `struct sock` pointer with the socket's inode number as its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionKey {
    pub sock: u64,
    pub inode: u64,
}

/// The two ends of a connection as the observed socket sees them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoints {
    Tcp {
        local: SocketAddr,
        peer: SocketAddr,
    },
    Udp {
        local: SocketAddr,
        peer: SocketAddr,
    },
    /// A Unix stream socket; `path` is the bound path of whichever end has one.
    /// `peer_inode` is the other socket's inode number (0 if unknown): both ends name the same pair.
    Unix {
        path: Option<String>,
        peer_inode: u64,
    },
}

/// A datagram with a QUIC Initial packet; or, without its bytes, the first other one that a UDP socket sent from or to
/// port 443: QUIC, as it seems.
pub struct Datagram {
    pub time: Nanos,
    pub socket: ConnectionKey,
    pub endpoints: Endpoints,
    pub caller: Caller,
    pub bytes: Payload,
}

/// Who made the call, read in the kernel at the time of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub process: ProcessKey,
    pub thread: u32,
    pub uid: u32,
    pub gid: u32,
    /// cgroup v2 id (the inode number of the cgroup's folder).
    pub cgroup: u64,
    /// Inode number of the network namespace (as in `/proc/PID/ns/net`).
    pub network_namespace: u32,
    /// `task_struct.comm`.
    pub comm: String,
}

/// Part of one call's payload, or none of it where only the count is kept.
pub struct Chunk {
    pub time: Nanos,
    pub connection: ConnectionKey,
    pub endpoints: Endpoints,
    pub caller: Caller,
    pub direction: Direction,
    /// Place of `bytes[0]` in the direction's byte stream since the connection began (or, if `from_start` is
    /// false, since it was first seen).
    pub offset: u64,
    /// Stream bytes right before `offset` that the copy policy left out since this direction's last chunk. Positions
    /// that jump by more than this are bytes that nothing saw.
    pub skipped: u64,
    pub bytes: Payload,
    /// TCP sequence number of the byte at `offset` (equal on both ends of a connection); 0 on Unix sockets.
    pub sequence: u32,
    /// The socket was seen from its first byte in this direction.
    pub from_start: bool,
    /// The peer has closed this direction (a read of 0 bytes).
    pub end: bool,
    /// The kernel makes TLS records of these bytes, or made them of such (kTLS): `offset` counts them as they are, and
    /// `sequence` is where their record begins.
    pub kernel_tls: bool,
}

/// What one call of a TLS library gave or took, or part of it: see `crate::kernel::bridge`.
pub struct Plaintext {
    pub time: Nanos,
    /// The socket that the library's object is tied to.
    pub connection: ConnectionKey,
    pub caller: Caller,
    pub direction: Direction,
    /// Place of `bytes[0]` in the direction's plaintext since the object was tied.
    pub offset: u64,
    /// Plaintext right before `offset` that the copy policy left out since this direction's last record.
    pub skipped: u64,
    pub bytes: Payload,
    /// Place in the socket's stream of the TLS record that carried the call's first byte, as [`Chunk::offset`].
    pub wire: u64,
    /// Place of `bytes[0]` behind that record's head.
    pub within: u32,
    /// Offsets of another one have nothing to do with these.
    pub generation: u32,
    /// The library is GnuTLS, else one with OpenSSL's functions.
    pub gnutls: bool,
}

/// A socket was closed, or reused by another connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    pub time: Nanos,
    pub connection: ConnectionKey,
}

/// A probe point that secrets come from: index into the attached points, for proof and for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PointId(pub u32);

/// One hit of a key-log point.
pub struct SecretRecord {
    pub time: Nanos,
    pub caller: Caller,
    pub point: PointId,
    /// NSS key log label, for example `CLIENT_TRAFFIC_SECRET_0` or `CLIENT_RANDOM`.
    pub label: String,
    /// Traffic secret (32 or 48 bytes) or, for `CLIENT_RANDOM`, the TLS 1.2 master secret (48 bytes).
    pub secret: Payload,
    /// Given by some libraries (Go, rustls); the three of today do not.
    pub client_random: Option<[u8; 32]>,
}

/// `sched_process_exec`, `sched_process_fork`, `sched_process_exit`, within the scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProcessRecord {
    Exec {
        time: Nanos,
        caller: Caller,
        parent: ProcessKey,
        /// `linux_binprm.filename`: what was asked for, not resolved.
        filename: String,
        /// Device (as in `stat`'s `st_dev`) and inode number of the executable that the kernel opened.
        executable: FileId,
        /// The first bytes of the argument vector, NUL separated. May hold secrets: never keep it unredacted.
        arguments: Arguments,
    },
    Fork {
        time: Nanos,
        child: ProcessKey,
        parent: ProcessKey,
        cgroup: u64,
    },
    Exit {
        time: Nanos,
        process: ProcessKey,
    },
}

/// A file, whatever its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

/// A process's argument vector as the kernel saw it. Its `Debug` shows only the length.
#[derive(Clone, PartialEq, Eq)]
pub struct Arguments {
    /// NUL separated; cut at what the probe copies.
    pub bytes: zeroize::Zeroizing<Vec<u8>>,
    pub truncated: bool,
}

impl std::fmt::Debug for Arguments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Arguments({} bytes, truncated: {})",
            self.bytes.len(),
            self.truncated
        )
    }
}

/// Everything that comes out of the ring.
pub enum Record {
    Chunk(Chunk),
    Plaintext(Plaintext),
    /// No more plaintext of this connection comes, though it goes on.
    Untied(Closed),
    Closed(Closed),
    Secret(SecretRecord),
    Process(ProcessRecord),
    Datagram(Datagram),
}
