//! What a locked down process must not be able to do, tried: the tests' proof that it cannot.
//!
//! Reached by the hidden command `attempt`, in a process that has locked itself down as a worker or the finder does, and
//! by nothing else.

use crate::kernel::bare;
use rustix::net::{AddressFamily, SocketType, socket};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// One thing to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    Read(PathBuf),
    Write(PathBuf),
    Execute(PathBuf),
    Connect(SocketAddr),
    /// A socket of this family and type.
    Socket(AddressFamily, SocketType),
    /// A system call, all of its arguments 0.
    Call(&'static str, libc::c_long),
    /// Make pages that can be written and executed.
    Code,
}

const CALLS: &[(&str, libc::c_long)] = &[
    ("setuid", libc::SYS_setuid),
    ("setresuid", libc::SYS_setresuid),
    ("setgroups", libc::SYS_setgroups),
    ("ptrace", libc::SYS_ptrace),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("mount", libc::SYS_mount),
    ("unshare", libc::SYS_unshare),
    ("setns", libc::SYS_setns),
    ("init_module", libc::SYS_init_module),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("capset", libc::SYS_capset),
    ("clone", libc::SYS_clone),
    ("listen", libc::SYS_listen),
    ("openat", libc::SYS_openat),
    ("statx", libc::SYS_statx),
    ("newfstatat", libc::SYS_newfstatat),
    ("getdents64", libc::SYS_getdents64),
    ("kill", libc::SYS_kill),
    ("fork", libc::SYS_clone),
    ("seccomp", libc::SYS_seccomp),
    ("memfd_create", libc::SYS_memfd_create),
    ("pidfd_open", libc::SYS_pidfd_open),
    ("prlimit64", libc::SYS_prlimit64),
    ("fcntl", libc::SYS_fcntl),
    ("ioctl", libc::SYS_ioctl),
];

impl FromStr for Attempt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("unknown attempt {text:?}");
        let (what, rest) = text.split_once(':').unwrap_or((text, ""));
        Ok(match what {
            "read" => Self::Read(rest.into()),
            "write" => Self::Write(rest.into()),
            "execute" => Self::Execute(rest.into()),
            "connect" => Self::Connect(rest.parse().map_err(|_| unknown())?),
            "raw-socket" => Self::Socket(AddressFamily::INET, SocketType::RAW),
            "packet-socket" => Self::Socket(AddressFamily::PACKET, SocketType::RAW),
            "netlink-socket" => Self::Socket(AddressFamily::NETLINK, SocketType::RAW),
            "udp-socket" => Self::Socket(AddressFamily::INET, SocketType::DGRAM),
            "code" => Self::Code,
            name => {
                let call = CALLS.iter().find(|(known, _)| *known == name);
                let (name, number) = call.ok_or_else(unknown)?;
                Self::Call(name, *number)
            }
        })
    }
}

impl Attempt {
    /// Tries it.
    ///
    /// # Errors
    /// Why it was refused; where the filter answers by death, it does not return.
    pub fn make(&self) -> io::Result<()> {
        match self {
            Self::Read(path) => std::fs::read(path).map(drop),
            Self::Write(path) => std::fs::write(path, "written"),
            Self::Execute(path) => {
                let status = std::process::Command::new(path).status()?;
                // Where a process may be made, it is the new one that is refused the program.
                let failed = || io::Error::other(format!("the new process ended: {status}"));
                status.success().then_some(()).ok_or_else(failed)
            }
            Self::Connect(address) => {
                TcpStream::connect_timeout(address, Duration::from_secs(5)).map(drop)
            }
            Self::Socket(family, kind) => Ok(socket(*family, *kind, None).map(drop)?),
            Self::Call(_, number) => bare::call(*number),
            Self::Code => bare::map_code(),
        }
    }
}
