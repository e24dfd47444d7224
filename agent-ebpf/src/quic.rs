//! QUIC, of which only the begin can be read: the datagrams with a client's Initial packet, whose keys follow from the
//! packet itself, are copied for the name that they ask for. Of UDP sockets from or to port 443 that send something
//! else, once: that they are there.

use crate::{
    copy,
    emit::{self, QUIET},
    kernel::{count, describe_current, read},
    maps::{DATAGRAMS, Scratch, Told},
    socket::Sock,
};
use agent_common::abi::{PAYLOAD_MAX, PERIOD, Socket, direction, family, kind, probe, reason};
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

/// HTTP/3 (RFC 9114 section 3.1: no port is fixed, and this one is what everybody uses).
const PORT: u16 = 443;

/// What a datagram with an Initial packet has at least (RFC 9000 section 14.1), in bytes.
const INITIAL_MIN: u64 = 1200;

/// Initials of one socket that are copied in a [`PERIOD`]: a client's handshake has one to four.
const INITIALS: u32 = 64;

/// Where the name of the other end lies (`struct sockaddr`): in the caller's memory, or the kernel's copy. Numbers, not
/// an enum, which would take room on the callers' stack.
pub const USER: u32 = 0;
pub const KERNEL: u32 = 1;

/// As much of `sockaddr_in` and `sockaddr_in6` as is looked at: family, port, (flow,) address.
type Address = [u8; 24];

/// `place` 0: there is none.
#[inline(always)]
fn address(memory: u32, place: u64) -> Option<Address> {
    if place == 0 {
        return None;
    }
    let place = place as *const Address;
    // SAFETY: the helpers check the address. A `sockaddr_in` is shorter: what follows it is read and not used.
    unsafe {
        if memory == USER {
            bpf_probe_read_user(place).ok()
        } else {
            bpf_probe_read_kernel(place).ok()
        }
    }
}

/// A UDP socket has moved a datagram (or several of one peer, joined), of which `scratch.vector` says where it lies.
/// `name` of [`USER`] or [`KERNEL`] memory; 0: it is connected.
#[inline(never)]
pub fn moved(of: u8, sock: &Sock, memory: u32, name: u64, scratch: &mut Scratch) {
    let initial = scratch.walk.moved >= INITIAL_MIN && is_initial(scratch);
    if !initial && of != direction::SENT {
        return;
    }
    let record = &mut scratch.record;
    sock.describe(record);
    if record.peer_port == 0
        && let Some(bytes) = address(memory, name)
    {
        record.peer_port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match (u16::from_ne_bytes([bytes[0], bytes[1]]), sock.family) {
            (family::INET, family::INET) => record.peer[..4].copy_from_slice(&bytes[4..8]),
            // An IPv6 socket that talks to an IPv4 peer: `udpv6_sendmsg` hands such a name to `udp_sendmsg`.
            (family::INET, _) => {
                record.peer[10..12].copy_from_slice(&[0xff; 2]);
                record.peer[12..].copy_from_slice(&bytes[4..8]);
            }
            _ => record.peer.copy_from_slice(&bytes[8..24]),
        }
    }
    if !initial && record.peer_port != PORT && record.local_port != PORT {
        return;
    }
    record.header = emit::header(kind::DATAGRAM, size_of::<Socket>());
    let period = (record.header.time >> PERIOD) as u32;
    let mut told = Told {
        inode: sock.inode,
        period,
        initials: 0,
    };
    // SAFETY: the value is copied.
    let before: Option<Told> = unsafe { DATAGRAMS.get(sock.address) }.copied();
    if let Some(before) = before
        && before.inode == sock.inode
    {
        if !initial {
            return;
        }
        if before.period == period {
            told.initials = before.initials;
        }
    }
    if told.initials >= INITIALS {
        count(probe::STATE, reason::OVER_BUDGET, 1);
        return;
    }
    told.initials += initial as u32;
    let mut len = 0;
    if initial {
        len = scratch.walk.moved;
        if len > PAYLOAD_MAX as u64 {
            len = PAYLOAD_MAX as u64;
        }
        if !copy::range(scratch, 0, len) {
            count(probe::STATE, reason::FAULT, 1);
            len = 0;
        }
    }
    let record = &mut scratch.record;
    describe_current(&mut record.task);
    record.direction = of;
    record.flags = 0;
    record.peer_inode = 0;
    record.offset = 0;
    record.skipped = 0;
    record.sequence = 0;
    record.copied = len as u32;
    let size = size_of::<Socket>() as u64 + len;
    record.header.len = size as u32;
    let start = (&raw const *record).cast();
    if emit::submit(probe::STATE, start, size as usize, QUIET) {
        // A full LRU map evicts: then a socket is told of again.
        let _ = DATAGRAMS.insert(sock.address, told, 0);
    }
}

/// The long header of an Initial packet (RFC 9000 section 17.2, RFC 9369 section 3.2), of a version whose keys are known.
#[inline(always)]
fn is_initial(scratch: &mut Scratch) -> bool {
    match copy::peek::<5>(scratch, 0) {
        Some([first, version @ ..]) => matches!(
            (first & 0xf0, u32::from_be_bytes(version)),
            (0xc0, 1) | (0xd0, 0x6b33_43cf)
        ),
        None => false,
    }
}

/// `msghdr.msg_name`, which is its first member.
#[inline(always)]
pub fn kernel_name(message: u64) -> u64 {
    read(message, 0).unwrap_or(0)
}

/// `user_msghdr.msg_name`, which is its first member.
#[inline(always)]
pub fn user_name(header: u64) -> u64 {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(header as *const u64) }.unwrap_or(0)
}
