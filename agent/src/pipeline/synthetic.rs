//! A pipeline and records that no kernel made, for tests and fuzzing.
//!
//! Processes have ids that no kernel gives out, and `/proc` is a folder without processes: nothing of the machine that
//! this runs on shows in an event.

use super::{Limits, Numbering, Pipeline};
use crate::{
    credential::{self, Observer},
    flow::{Direction, FlowLimits, Nanos, Payload},
    http,
    identity::{self, Clock, ProcessTable},
    kernel::{
        points::Points,
        record::{
            Caller, Chunk, ConnectionKey, Endpoints, Plaintext, PointId, ProcessKey, SecretRecord,
        },
    },
    tls,
};
use agent_common::{
    event::{Hook, Host},
    fingerprint::Keyring,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

/// Above every kernel's `pid_max` (2^22).
const PID: u32 = 0x4000_0000;
/// Where the fleet's key was made does not matter here.
static KEYRING: LazyLock<Option<Arc<Keyring>>> =
    LazyLock::new(|| Keyring::ephemeral().ok().map(Arc::new));
/// A procfs without processes, with one empty cgroup hierarchy.
static PROC: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let uid = rustix::process::geteuid().as_raw();
    let root = std::env::temp_dir().join(format!("tokentrail-synthetic-{uid}"));
    let groups = root.join("cgroup");
    std::fs::create_dir_all(&groups).ok()?;
    std::fs::create_dir_all(root.join("proc/self")).ok()?;
    let mount = format!("1 0 0:1 / {} rw - cgroup2 none rw\n", groups.display());
    // Another process may read it at this moment.
    let new = root.join(format!("proc/self/new-{}", std::process::id()));
    std::fs::write(&new, mount).ok()?;
    std::fs::rename(&new, root.join("proc/self/mountinfo")).ok()?;
    Some(root.join("proc"))
});

/// Small enough that short inputs reach them.
pub fn limits(connections: usize) -> Limits {
    Limits {
        connections: NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN),
        total_bytes: 64 << 10,
        flow: FlowLimits {
            bytes: 16 << 10,
            segments: 32,
            wait: 1_000,
        },
        http: http::Limits {
            head: 4 << 10,
            fields: 32,
            body_prefix: 512,
            outstanding: 4,
            queued: 16 << 10,
            held: 4 << 10,
        },
        tls: tls::SessionLimits {
            waiting: 8 << 10,
            wait: 1_000,
            trials: 500,
            search: 64,
        },
        response_wait: 10_000,
    }
}

/// `None` where the folder for temporary files takes none, or there is no randomness for a key.
pub fn pipeline(limits: Limits, points: Points) -> Option<Pipeline> {
    let keyring = KEYRING.clone()?;
    let mut options = identity::Options::new(credential::redact::command_line);
    options.proc = PROC.clone()?;
    options.passwd = options.proc.join("passwd");
    options.hash.enabled = false;
    options.hash_wait = Duration::ZERO;
    let host = Host {
        id: None,
        name: "synthetic".into(),
        boot_id: "00000000-0000-0000-0000-000000000000".into(),
    };
    Some(Pipeline::new(
        limits,
        Observer::new(credential::Config::default(), keyring),
        ProcessTable::new(options).ok()?,
        points,
        Clock::fixed(1_700_000_000_000_000_000),
        Hook::Fentry,
        Numbering::new("synthetic".into(), 1, host),
    ))
}

pub fn process(number: u8) -> ProcessKey {
    ProcessKey {
        pid: PID + u32::from(number),
        start: 1_000_000_000,
    }
}

pub fn caller(number: u8) -> Caller {
    Caller {
        process: process(number),
        thread: PID + u32::from(number),
        uid: 0,
        gid: 0,
        cgroup: 1,
        network_namespace: 1,
        comm: format!("program{number}"),
    }
}

pub fn connection(number: u8) -> ConnectionKey {
    ConnectionKey {
        sock: 0xffff_8880_0000_0000 + u64::from(number),
        inode: 1_000 + u64::from(number),
    }
}

/// Each connection has its own local port.
pub fn endpoints(number: u8) -> Endpoints {
    let at = |last, port| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
    Endpoints::Tcp {
        local: at(1, 40_000 + u16::from(number)),
        peer: at(2, 8080),
    }
}

/// Bytes on connection `number`, moved by process `number`.
pub fn chunk(
    number: u8,
    direction: Direction,
    offset: u64,
    bytes: impl Into<Vec<u8>>,
    time: Nanos,
) -> Chunk {
    Chunk {
        time,
        connection: connection(number),
        endpoints: endpoints(number),
        caller: caller(number),
        direction,
        offset,
        skipped: 0,
        bytes: Payload::from(bytes.into()),
        sequence: (offset as u32).wrapping_add(7_000 * (1 + direction.index() as u32)),
        from_start: true,
        kernel_tls: false,
        end: false,
    }
}

/// What the TLS library of process `number` gave or took on its connection.
pub fn plaintext(
    number: u8,
    direction: Direction,
    offset: u64,
    bytes: impl Into<Vec<u8>>,
    time: Nanos,
) -> Plaintext {
    Plaintext {
        time,
        connection: connection(number),
        caller: caller(number),
        direction,
        offset,
        skipped: 0,
        bytes: Payload::from(bytes.into()),
        wire: offset,
        within: 0,
        generation: 1,
        gnutls: false,
    }
}

pub fn secret(number: u8, label: &str, secret: impl Into<Vec<u8>>, time: Nanos) -> SecretRecord {
    SecretRecord {
        time,
        caller: caller(number),
        point: PointId(0),
        label: label.to_owned(),
        secret: Payload::from(secret.into()),
        client_random: None,
    }
}
