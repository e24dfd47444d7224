//! What a socket is, where its streams stand, and who its ends are.

use crate::{
    kernel::read,
    maps::{PROCESS_SCRATCH, offset},
};
use agent_common::abi::{Socket, UNIX_PATH_MAX, UnixPath, family, kind};
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

/// `SOCK_STREAM`, `SOCK_DGRAM`
const STREAM: u16 = 1;
const DATAGRAM: u16 = 2;
/// `IPPROTO_TCP`, `IPPROTO_UDP`
const TCP: u16 = 6;
const UDP: u16 = 17;
/// `S_IFMT`, `S_IFSOCK`
const MODE_TYPE: u16 = 0o170_000;
const MODE_SOCKET: u16 = 0o140_000;

/// A TCP or Unix stream socket, or a UDP one.
#[derive(Clone, Copy)]
pub struct Sock {
    pub address: u64,
    pub family: u16,
    /// It is UDP's: nothing but its ends is looked at.
    pub datagram: bool,
    /// It stands for the plaintext that a TLS library moved through this socket.
    pub plain: bool,
    /// The socket's inode number.
    pub inode: u64,
}

/// In `CONNECTIONS` the plaintext of a socket lies beside it: no `struct sock` is there.
pub const PLAIN: u64 = 1;

impl Sock {
    /// Key in the map `CONNECTIONS`.
    #[inline(always)]
    pub fn key(&self) -> u64 {
        self.address | if self.plain { PLAIN } else { 0 }
    }

    /// `struct sock *`, with its file's inode found through `sk_socket`.
    #[inline(always)]
    pub fn from_sock(address: u64) -> Option<Self> {
        let socket: u64 = read(address, offset!(sk_socket))?;
        let file: u64 = read(socket, offset!(socket_file))?;
        Self::checked(address, file)
    }

    /// `struct file *` of a descriptor.
    #[inline(always)]
    pub fn from_file(file: u64) -> Option<Self> {
        let inode: u64 = read(file, offset!(file_inode))?;
        let mode: u16 = read(inode, offset!(inode_mode))?;
        if mode & MODE_TYPE != MODE_SOCKET {
            return None;
        }
        let socket: u64 = read(file, offset!(file_private_data))?;
        Self::checked(read(socket, offset!(socket_sk))?, file)
    }

    #[inline(always)]
    fn checked(address: u64, file: u64) -> Option<Self> {
        let family: u16 = read(address, offset!(sk_family))?;
        let of_type: u16 = read(address, offset!(sk_type))?;
        let mut datagram = false;
        match family {
            family::INET | family::INET6 => {
                let protocol: u16 = read(address, offset!(sk_protocol))?;
                datagram = of_type == DATAGRAM && protocol == UDP;
                if !datagram && (of_type != STREAM || protocol != TCP) {
                    return None;
                }
            }
            family::UNIX if of_type == STREAM => {}
            _ => return None,
        }
        Some(Self {
            address,
            family,
            datagram,
            plain: false,
            inode: inode_number(file),
        })
    }

    /// `tcp_sock.write_seq` or `.copied_seq`: the sequence number after the last byte that a call moved.
    #[inline(always)]
    pub fn position(&self, sent: bool) -> Option<u32> {
        if sent {
            read(self.address, offset!(tcp_write_seq))
        } else {
            read(self.address, offset!(tcp_copied_seq))
        }
    }

    /// Bytes of the stream before `position`, from the counters that the kernel keeps for `TCP_INFO`.
    /// May be one more than the truth: `tcp_sock.bytes_acked` counts an active opener's SYN.
    #[inline(always)]
    pub fn before(&self, sent: bool, position: u32) -> Option<u64> {
        if sent {
            let acked: u64 = read(self.address, offset!(tcp_bytes_acked))?;
            let first_unacked: u32 = read(self.address, offset!(tcp_snd_una))?;
            // Signed: what the call sent may be acknowledged by now.
            Some(acked.wrapping_add(position.wrapping_sub(first_unacked) as i32 as i64 as u64))
        } else {
            let received: u64 = read(self.address, offset!(tcp_bytes_received))?;
            let next: u32 = read(self.address, offset!(tcp_rcv_nxt))?;
            Some(received.wrapping_sub(next.wrapping_sub(position) as i32 as i64 as u64))
        }
    }

    /// The peer's FIN has come. It has a sequence number of its own, which the read that meets it adds to `copied_seq`
    /// (`found_fin_ok` in `tcp_recvmsg_locked`).
    #[inline(always)]
    pub fn met_fin(&self) -> bool {
        // TCP_TIME_WAIT, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING (include/net/tcp_states.h)
        matches!(
            read::<u8>(self.address, offset!(sk_state)),
            Some(6 | 7 | 8 | 9 | 11)
        )
    }

    #[inline(always)]
    pub fn describe(&self, record: &mut Socket) {
        record.sock = self.address;
        record.inode = self.inode;
        record.family = self.family;
        record.local = [0; 16];
        record.peer = [0; 16];
        record.local_port = 0;
        record.peer_port = 0;
        if self.family == family::UNIX {
            return;
        }
        record.local_port = read(self.address, offset!(sk_num)).unwrap_or(0);
        record.peer_port = u16::from_be(read(self.address, offset!(sk_dport)).unwrap_or(0));
        if self.family == family::INET {
            let local: [u8; 4] = read(self.address, offset!(sk_rcv_saddr)).unwrap_or([0; 4]);
            let peer: [u8; 4] = read(self.address, offset!(sk_daddr)).unwrap_or([0; 4]);
            record.local[..4].copy_from_slice(&local);
            record.peer[..4].copy_from_slice(&peer);
        } else {
            record.local = read(self.address, offset!(sk_v6_rcv_saddr)).unwrap_or([0; 16]);
            record.peer = read(self.address, offset!(sk_v6_daddr)).unwrap_or([0; 16]);
        }
    }

    /// `unix_sock.peer`
    #[inline(always)]
    fn unix_peer(&self) -> Option<u64> {
        read::<u64>(self.address, offset!(unix_peer)).filter(|peer| *peer != 0)
    }

    /// Inode number of the other socket of a Unix pair.
    #[inline(always)]
    pub fn unix_peer_inode(&self) -> u64 {
        let Some(socket) = self
            .unix_peer()
            .and_then(|peer| read::<u64>(peer, offset!(sk_socket)))
        else {
            return 0;
        };
        read::<u64>(socket, offset!(socket_file)).map_or(0, inode_number)
    }

    /// Reports the bound path of this socket or of its peer, whichever has one.
    #[inline(always)]
    pub fn report_unix_path(&self, probe: u32) {
        let mut address: u64 = read(self.address, offset!(unix_addr)).unwrap_or(0);
        if address == 0 {
            address = self
                .unix_peer()
                .and_then(|peer| read(peer, offset!(unix_addr)))
                .unwrap_or(0);
        }
        // `unix_address.len` counts the family's two bytes.
        let Some(len) = read::<u32>(address, offset!(unix_address_len)) else {
            return;
        };
        let Some(scratch) = PROCESS_SCRATCH.get_ptr_mut(0) else {
            return;
        };
        // SAFETY: a per-CPU slot.
        let record: &mut UnixPath = unsafe { &mut (*scratch).unix };
        record.header = crate::emit::header(kind::UNIX_PATH, size_of::<UnixPath>());
        record.sock = self.address;
        record.inode = self.inode;
        record.path = [0; UNIX_PATH_MAX];
        if len <= 2 {
            return;
        }
        let mut len = len - 2;
        if len > UNIX_PATH_MAX as u32 {
            len = UNIX_PATH_MAX as u32;
        }
        record.len = len;
        // SAFETY: `len` is at most the array's size; the helper checks the address.
        let failed = unsafe {
            bpf_probe_read_kernel(
                record.path.as_mut_ptr().cast(),
                len,
                (address + offset!(unix_address_name) as u64 + 2) as *const _,
            )
        };
        if failed == 0 {
            crate::emit::submit_value(probe, record, crate::emit::QUIET);
        }
    }
}

#[inline(always)]
pub fn inode_number(file: u64) -> u64 {
    read::<u64>(file, offset!(file_inode))
        .and_then(|inode| read(inode, offset!(inode_ino)))
        .unwrap_or(0)
}
