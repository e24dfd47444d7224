//! kTLS: sockets whose TLS records the kernel makes or opens, so that calls on them move plaintext.
//!
//! Which directions, is read from the socket at each call (`setsockopt` of `SOL_TLS` sets them one by one). What such a
//! call moves is counted by itself and goes on where the records before it ended. Calls that move other than
//! application data say so in a control message.

use crate::{kernel::read, maps::offset, socket::Sock};
use agent_common::abi::family;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

/// `struct cmsghdr` of one byte: length, level, type, the byte.
#[repr(C)]
#[derive(Clone, Copy)]
struct ControlMessage {
    _len: u64,
    level: u32,
    of_type: u32,
    record_type: u8,
}

/// `CMSG_LEN(1)`: the least that `msg_controllen` is where there is one.
pub const CONTROL_LEN: u64 = 17;

const SOL_TLS: u32 = 282;
/// `TLS_SET_RECORD_TYPE`, `TLS_GET_RECORD_TYPE`
const TYPES: [u32; 2] = [1, 2];
const APPLICATION_DATA: u8 = 23;

/// Where a call's control message is; 0: none.
#[derive(Clone, Copy)]
pub enum Control {
    User(u64),
    Kernel(u64),
}

/// What the call moves is an alert or a part of a handshake.
#[inline(always)]
pub fn is_control(control: Control) -> bool {
    // SAFETY: the helpers check the address.
    let message: Option<ControlMessage> = unsafe {
        match control {
            Control::User(0) | Control::Kernel(0) => None,
            Control::User(place) => bpf_probe_read_user(place as *const ControlMessage).ok(),
            Control::Kernel(place) => bpf_probe_read_kernel(place as *const ControlMessage).ok(),
        }
    };
    message.is_some_and(|message| {
        message.level == SOL_TLS
            && (message.of_type == TYPES[0] || message.of_type == TYPES[1])
            && message.record_type != APPLICATION_DATA
    })
}

/// The same of a `struct user_msghdr`: `msg_control` at 32, `msg_controllen` at 40. 0: no. A function of its own in the
/// object, because of the verifier's 512 bytes of stack.
#[inline(never)]
pub fn is_user_control(header: u64) -> u32 {
    // SAFETY: the helper checks the address.
    match unsafe { bpf_probe_read_user((header + 32) as *const [u64; 2]) } {
        Ok([control, len]) if len >= CONTROL_LEN => is_control(Control::User(control)) as u32,
        _ => 0,
    }
}

/// The kernel makes (`sent`) or opens the socket's records: `tls_context.tx_conf` or `.rx_conf` is not `TLS_BASE`.
#[inline(never)]
pub fn is_on(sock: &Sock, sent: bool) -> bool {
    if sock.plain || sock.family == family::UNIX {
        return false;
    }
    let Some(protocol) = read::<u64>(sock.address, offset!(icsk_ulp_ops)) else {
        return false;
    };
    if read::<[u8; 4]>(protocol, offset!(ulp_name)) != Some(*b"tls\0") {
        return false;
    }
    let Some(context) = read::<u64>(sock.address, offset!(icsk_ulp_data)) else {
        return false;
    };
    let Some(conf) = read::<u8>(context, offset!(tls_conf)) else {
        return false;
    };
    let of_direction = if sent { conf } else { conf >> 3 };
    of_direction & 7 != 0
}
