//! UDP from or to port 443, which is QUIC: told once per socket, so that it can be listed as unread.

use crate::{
    emit::{self, QUIET},
    kernel::{describe_current, read},
    maps::DATAGRAMS,
    socket::Sock,
    stream,
};
use agent_common::abi::{Socket, direction, family, kind, probe};
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

/// HTTP/3 (RFC 9114 section 3.1: no port is fixed, and this one is what everybody uses).
const PORT: u16 = 443;

/// Where a send's destination stands, if it names one.
#[derive(Clone, Copy)]
pub enum Name {
    /// `struct sockaddr` in the caller's memory; 0: none.
    User(u64),
    /// The kernel's copy; 0: none.
    Kernel(u64),
}

/// As much of `sockaddr_in` and `sockaddr_in6` as is looked at: family, port, (flow,) address.
type Address = [u8; 24];

#[inline(always)]
fn address(name: Name) -> Option<Address> {
    // SAFETY: the helpers check the address. A `sockaddr_in` is shorter: what follows it is read and not used.
    unsafe {
        match name {
            Name::User(0) | Name::Kernel(0) => None,
            Name::User(place) => bpf_probe_read_user(place as *const Address).ok(),
            Name::Kernel(place) => bpf_probe_read_kernel(place as *const Address).ok(),
        }
    }
}

/// A UDP socket has sent something.
#[inline(never)]
pub fn sent(sock: &Sock, name: Name) {
    let Some(scratch) = stream::scratch(direction::SENT) else {
        return;
    };
    let record = &mut scratch.record;
    sock.describe(record);
    if record.peer_port == 0
        && let Some(bytes) = address(name)
    {
        record.peer_port = u16::from_be_bytes([bytes[2], bytes[3]]);
        if sock.family == family::INET {
            record.peer[..4].copy_from_slice(&bytes[4..8]);
        } else {
            record.peer.copy_from_slice(&bytes[8..24]);
        }
    }
    if record.peer_port != PORT && record.local_port != PORT {
        return;
    }
    // SAFETY: the value is copied.
    let known: Option<u64> = unsafe { DATAGRAMS.get(sock.address) }.copied();
    if known == Some(sock.inode) {
        return;
    }
    record.header = emit::header(kind::DATAGRAM, size_of::<Socket>());
    describe_current(&mut record.task);
    record.direction = direction::SENT;
    record.flags = 0;
    record.peer_inode = 0;
    record.offset = 0;
    record.skipped = 0;
    record.sequence = 0;
    record.copied = 0;
    if emit::submit_value(probe::STATE, record, QUIET) {
        // A full LRU map evicts: then a socket is told of again.
        let _ = DATAGRAMS.insert(sock.address, sock.inode, 0);
    }
}

/// `msghdr.msg_name`, which is its first member.
#[inline(always)]
pub fn kernel_name(message: u64) -> Name {
    Name::Kernel(read(message, 0).unwrap_or(0))
}

/// `user_msghdr.msg_name`, which is its first member.
#[inline(always)]
pub fn user_name(header: u64) -> Name {
    // SAFETY: the helper checks the address.
    Name::User(unsafe { bpf_probe_read_user(header as *const u64) }.unwrap_or(0))
}
