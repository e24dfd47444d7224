//! Ring records to plain values.
//!
//! Invariant: a record that is too short, of another ABI version or of an unknown kind is counted, never guessed at.
#![expect(
    unsafe_code,
    reason = "ring records are read as the `repr(C)` types that the probes wrote"
)]

use super::device::from_kernel;
use super::record::{
    Arguments, Caller, Chunk, Closed, ConnectionKey, Datagram, Endpoints, Plaintext, PointId,
    ProcessKey, ProcessRecord, Record, SecretRecord,
};
use crate::flow::{Direction, Nanos, Payload};
use agent_common::abi;
use lru::LruCache;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroUsize,
};

/// Paths of Unix sockets that are remembered; beyond it the least recently used is forgotten.
const UNIX_PATHS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// A ring record that the kernel side itself acts on.
pub enum Decoded {
    Record(Record),
    /// A cgroup was made: its id and path from the root of its hierarchy.
    Cgroup {
        id: u64,
        path: String,
    },
    /// Consumed here.
    Nothing,
}

/// Decodes records and remembers Unix socket paths between them.
pub struct Decoder {
    paths: LruCache<ConnectionKey, String>,
    /// Records that could not be decoded.
    pub undecoded: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            paths: LruCache::new(UNIX_PATHS),
            undecoded: 0,
        }
    }
}

impl Decoder {
    pub fn decode(&mut self, bytes: &[u8]) -> Decoded {
        self.try_decode(bytes).unwrap_or_else(|| {
            self.undecoded += 1;
            Decoded::Nothing
        })
    }

    fn try_decode(&mut self, bytes: &[u8]) -> Option<Decoded> {
        let header: abi::Header = prefix(bytes)?;
        if header.version != abi::VERSION || header.len as usize > bytes.len() {
            return None;
        }
        let time = header.time;
        Some(match header.kind {
            abi::kind::SOCKET => Decoded::Record(Record::Chunk(self.chunk(bytes)?)),
            abi::kind::DATAGRAM => Decoded::Record(Record::Datagram(datagram(bytes)?)),
            abi::kind::PLAIN => Decoded::Record(Record::Plaintext(plain(bytes)?)),
            abi::kind::UNTIED => {
                let record: abi::Closed = prefix(bytes)?;
                let connection = ConnectionKey {
                    sock: record.sock,
                    inode: record.inode,
                };
                Decoded::Record(Record::Untied(Closed { time, connection }))
            }
            abi::kind::CLOSED => {
                let record: abi::Closed = prefix(bytes)?;
                let connection = ConnectionKey {
                    sock: record.sock,
                    inode: record.inode,
                };
                self.paths.pop(&connection);
                Decoded::Record(Record::Closed(Closed { time, connection }))
            }
            abi::kind::SECRET => Decoded::Record(Record::Secret(secret(bytes)?)),
            abi::kind::EXEC => Decoded::Record(Record::Process(exec(bytes)?)),
            abi::kind::FORK => {
                let record: abi::Fork = prefix(bytes)?;
                Decoded::Record(Record::Process(ProcessRecord::Fork {
                    time,
                    child: ProcessKey {
                        pid: record.child,
                        start: record.child_start,
                    },
                    parent: ProcessKey {
                        pid: record.parent,
                        start: record.parent_start,
                    },
                    cgroup: record.cgroup,
                }))
            }
            abi::kind::EXIT => {
                let record: abi::Exit = prefix(bytes)?;
                let process = ProcessKey {
                    pid: record.process,
                    start: record.start,
                };
                Decoded::Record(Record::Process(ProcessRecord::Exit { time, process }))
            }
            abi::kind::UNIX_PATH => {
                let record: abi::UnixPath = prefix(bytes)?;
                let path = record.path.get(..record.len as usize)?;
                let connection = ConnectionKey {
                    sock: record.sock,
                    inode: record.inode,
                };
                self.paths.put(connection, unix_path(path));
                Decoded::Nothing
            }
            abi::kind::CGROUP => {
                let record: abi::Cgroup = prefix(bytes)?;
                Decoded::Cgroup {
                    id: record.id,
                    path: until_nul(&record.path),
                }
            }
            _ => return None,
        })
    }

    fn chunk(&mut self, bytes: &[u8]) -> Option<Chunk> {
        let record: abi::Socket = prefix(bytes)?;
        let payload = payload(bytes, &record)?;
        let connection = ConnectionKey {
            sock: record.sock,
            inode: record.inode,
        };
        let endpoints = match record.family {
            abi::family::INET | abi::family::INET6 => Endpoints::Tcp {
                local: SocketAddr::new(address(record.family, &record.local), record.local_port),
                peer: SocketAddr::new(address(record.family, &record.peer), record.peer_port),
            },
            abi::family::UNIX => Endpoints::Unix {
                path: self.paths.get(&connection).cloned(),
                peer_inode: record.peer_inode,
            },
            _ => return None,
        };
        Some(Chunk {
            time: record.header.time,
            connection,
            endpoints,
            caller: caller(&record.task),
            direction: direction(&record)?,
            offset: record.offset,
            skipped: record.skipped,
            bytes: Payload::copy_from(payload),
            sequence: record.sequence,
            from_start: record.flags & abi::flag::FROM_START != 0,
            end: record.flags & abi::flag::END != 0,
            kernel_tls: record.flags & abi::flag::KERNEL_TLS != 0,
        })
    }
}

fn payload<'a>(bytes: &'a [u8], record: &abi::Socket) -> Option<&'a [u8]> {
    let from = size_of::<abi::Socket>();
    bytes.get(from..from + record.copied as usize)
}

fn direction(record: &abi::Socket) -> Option<Direction> {
    match record.direction {
        abi::direction::SENT => Some(Direction::Sent),
        abi::direction::RECEIVED => Some(Direction::Received),
        _ => None,
    }
}

fn plain(bytes: &[u8]) -> Option<Plaintext> {
    let record: abi::Socket = prefix(bytes)?;
    Some(Plaintext {
        time: record.header.time,
        connection: ConnectionKey {
            sock: record.sock,
            inode: record.inode,
        },
        caller: caller(&record.task),
        direction: direction(&record)?,
        offset: record.offset,
        skipped: record.skipped,
        bytes: Payload::copy_from(payload(bytes, &record)?),
        wire: record.wire,
        within: record.within,
        generation: record.generation,
        gnutls: record.flags & abi::flag::GNUTLS != 0,
    })
}

fn datagram(bytes: &[u8]) -> Option<Datagram> {
    let record: abi::Socket = prefix(bytes)?;
    if !matches!(record.family, abi::family::INET | abi::family::INET6) {
        return None;
    }
    let from = size_of::<abi::Socket>();
    let payload = bytes.get(from..from + record.copied as usize)?;
    Some(Datagram {
        time: record.header.time,
        socket: ConnectionKey {
            sock: record.sock,
            inode: record.inode,
        },
        bytes: Payload::copy_from(payload),
        endpoints: Endpoints::Udp {
            local: SocketAddr::new(address(record.family, &record.local), record.local_port),
            peer: SocketAddr::new(address(record.family, &record.peer), record.peer_port),
        },
        caller: caller(&record.task),
    })
}

fn secret(bytes: &[u8]) -> Option<SecretRecord> {
    let record: abi::Secret = prefix(bytes)?;
    Some(SecretRecord {
        time: record.header.time,
        caller: caller(&record.task),
        point: PointId(record.point),
        label: until_nul(&record.label),
        secret: Payload::copy_from(record.secret.get(..record.len as usize)?),
        client_random: (record.random_known != 0).then_some(record.client_random),
    })
}

fn exec(bytes: &[u8]) -> Option<ProcessRecord> {
    let record: abi::Exec = prefix(bytes)?;
    let strings = bytes.get(size_of::<abi::Exec>()..)?;
    let (filename, arguments) = strings.split_at_checked(record.filename_len as usize)?;
    Some(ProcessRecord::Exec {
        time: record.header.time,
        caller: caller(&record.task),
        parent: ProcessKey {
            pid: record.parent,
            start: record.parent_start,
        },
        filename: until_nul(filename),
        executable: from_kernel(record.device as u32, record.inode),
        arguments: Arguments {
            bytes: zeroize::Zeroizing::new(
                arguments.get(..record.arguments_len as usize)?.to_vec(),
            ),
            truncated: record.arguments_cut != 0,
        },
    })
}

fn caller(task: &abi::Task) -> Caller {
    Caller {
        process: ProcessKey {
            pid: task.process,
            start: task.start,
        },
        thread: task.thread,
        uid: task.uid,
        gid: task.gid,
        cgroup: task.cgroup,
        network_namespace: task.network_namespace,
        comm: until_nul(&task.comm),
    }
}

fn address(family: u16, bytes: &[u8; 16]) -> IpAddr {
    if family == abi::family::INET {
        return Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into();
    }
    let address = Ipv6Addr::from(*bytes);
    // An IPv4 peer of a dual-stack socket is that IPv4 peer.
    address
        .to_ipv4_mapped()
        .map_or(IpAddr::V6(address), IpAddr::V4)
}

/// An abstract name starts with NUL and is written `@name`, as `ss` does.
fn unix_path(bytes: &[u8]) -> String {
    match bytes {
        [0, name @ ..] => format!("@{}", String::from_utf8_lossy(name).trim_end_matches('\0')),
        path => until_nul(path),
    }
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Types whose every bit pattern is valid: integers and arrays of them, without padding (asserted in `abi`).
trait Plain: Copy {}
impl Plain for abi::Header {}
impl Plain for abi::Socket {}
impl Plain for abi::Closed {}
impl Plain for abi::Secret {}
impl Plain for abi::Exec {}
impl Plain for abi::Fork {}
impl Plain for abi::Exit {}
impl Plain for abi::UnixPath {}
impl Plain for abi::Cgroup {}

fn prefix<T: Plain>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: long enough, any alignment, and `Plain` types accept every bit pattern.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// Nanoseconds since boot, the probes' clock.
pub fn now() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Entry point for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use super::{Decoded, Decoder};
    use crate::kernel::record::{ProcessRecord, Record};
    use agent_common::abi;

    /// Records of lengths that the data says, with a header of this version put before most.
    pub fn fuzz(data: &[u8]) {
        let mut decoder = Decoder::default();
        let mut rest = data;
        while let [control, len, after @ ..] = rest {
            let (bytes, after) = after.split_at(after.len().min(usize::from(*len) * 2));
            rest = after;
            let mut record = Vec::new();
            if control & 0x80 == 0 {
                let length = size_of::<abi::Header>() + bytes.len();
                record.extend(abi::VERSION.to_ne_bytes());
                record.extend(u16::from(control & 0xf).to_ne_bytes());
                record.extend((length as u32).to_ne_bytes());
                record.extend(0_u64.to_ne_bytes());
            }
            record.extend(bytes);
            let before = decoder.undecoded;
            match decoder.decode(&record) {
                Decoded::Record(Record::Chunk(chunk)) => {
                    assert!(chunk.bytes.len() <= record.len());
                }
                Decoded::Record(Record::Secret(secret)) => {
                    assert!(secret.secret.len() <= abi::SECRET_MAX);
                }
                Decoded::Record(Record::Process(ProcessRecord::Exec { arguments, .. })) => {
                    assert!(arguments.bytes.len() <= record.len());
                }
                _ => {}
            }
            assert!(decoder.undecoded - before <= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> (abi::Socket, Vec<u8>) {
        let mut record = abi::Socket {
            sock: 7,
            inode: 9,
            offset: 100,
            skipped: 40,
            copied: 5,
            family: abi::family::INET,
            local_port: 80,
            peer_port: 4321,
            flags: abi::flag::FROM_START,
            ..Default::default()
        };
        record.local[..4].copy_from_slice(&[127, 0, 0, 1]);
        record.header = abi::Header {
            version: abi::VERSION,
            kind: abi::kind::SOCKET,
            len: size_of::<abi::Socket>() as u32 + 5,
            time: 3,
        };
        (record, b"GET /".to_vec())
    }

    fn bytes(record: &abi::Socket, payload: &[u8]) -> Vec<u8> {
        // SAFETY: plain old data.
        let head = unsafe {
            std::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<abi::Socket>())
        };
        [head, payload].concat()
    }

    #[test]
    fn a_socket_record() {
        let (record, payload) = record();
        let Decoded::Record(Record::Chunk(chunk)) =
            Decoder::default().decode(&bytes(&record, &payload))
        else {
            panic!("not a chunk")
        };
        assert_eq!(
            (chunk.offset, chunk.skipped, &*chunk.bytes),
            (100, 40, &b"GET /"[..])
        );
        assert!(chunk.from_start && !chunk.end);
        assert_eq!(
            chunk.endpoints,
            Endpoints::Tcp {
                local: "127.0.0.1:80".parse().unwrap(),
                peer: "0.0.0.0:4321".parse().unwrap()
            }
        );
    }

    #[test]
    fn plaintext_and_its_end() {
        let (mut record, payload) = record();
        record.header.kind = abi::kind::PLAIN;
        (record.wire, record.within, record.generation) = (4_000, 17, 3);
        record.flags = abi::flag::GNUTLS;
        record.direction = abi::direction::RECEIVED;
        let mut decoder = Decoder::default();
        let whole = bytes(&record, &payload);
        let Decoded::Record(Record::Plaintext(plain)) = decoder.decode(&whole) else {
            panic!("no plaintext")
        };
        assert_eq!((plain.wire, plain.within, plain.generation), (4_000, 17, 3));
        assert_eq!((plain.offset, plain.skipped), (100, 40));
        assert_eq!(plain.bytes[..], payload[..]);
        assert_eq!(plain.direction, Direction::Received);
        assert!(plain.gnutls);
        for len in 0..whole.len() {
            assert!(matches!(decoder.decode(&whole[..len]), Decoded::Nothing));
        }
        let untied = abi::Closed {
            header: header(abi::kind::UNTIED, size_of::<abi::Closed>()),
            sock: 7,
            inode: 9,
        };
        let Decoded::Record(Record::Untied(untied)) = decoder.decode(raw(&untied)) else {
            panic!("not untied")
        };
        assert_eq!(untied.connection, plain.connection);
    }

    #[test]
    fn every_truncation_is_counted() {
        let (record, payload) = record();
        let whole = bytes(&record, &payload);
        for len in 0..whole.len() {
            let mut decoder = Decoder::default();
            assert!(matches!(decoder.decode(&whole[..len]), Decoded::Nothing));
            assert_eq!(decoder.undecoded, 1, "at {len}");
        }
    }

    #[test]
    fn another_version_and_an_unknown_kind_are_counted() {
        let (mut record, payload) = record();
        let mut decoder = Decoder::default();
        record.header.version += 1;
        decoder.decode(&bytes(&record, &payload));
        record.header.version -= 1;
        record.header.kind = 999;
        decoder.decode(&bytes(&record, &payload));
        assert_eq!(decoder.undecoded, 2);
    }

    fn header(kind: u16, len: usize) -> abi::Header {
        abi::Header {
            version: abi::VERSION,
            kind,
            len: len as u32,
            time: 5,
        }
    }

    fn raw<T: Plain>(value: &T) -> &[u8] {
        // SAFETY: plain old data.
        unsafe { std::slice::from_raw_parts((&raw const *value).cast(), size_of::<T>()) }
    }

    #[test]
    fn a_secret_record_and_one_that_says_too_much() {
        let mut record = abi::Secret {
            header: header(abi::kind::SECRET, size_of::<abi::Secret>()),
            task: abi::Task::default(),
            point: 3,
            len: 32,
            label: [0; abi::LABEL_MAX],
            secret: [7; abi::SECRET_MAX],
            client_random: [9; abi::RANDOM_LEN],
            random_known: 0,
            _pad: 0,
        };
        record.label[..13].copy_from_slice(b"CLIENT_RANDOM");
        let mut decoder = Decoder::default();
        let Decoded::Record(Record::Secret(secret)) = decoder.decode(raw(&record)) else {
            panic!("not a secret")
        };
        assert_eq!(
            (secret.label.as_str(), secret.point),
            ("CLIENT_RANDOM", PointId(3))
        );
        assert_eq!(secret.secret[..], [7; 32]);
        assert_eq!(secret.client_random, None);
        record.random_known = 1;
        let Decoded::Record(Record::Secret(secret)) = decoder.decode(raw(&record)) else {
            panic!("not a secret")
        };
        assert_eq!(secret.client_random, Some([9; 32]));
        record.len = abi::SECRET_MAX as u32 + 1;
        assert!(matches!(decoder.decode(raw(&record)), Decoded::Nothing));
        assert_eq!(decoder.undecoded, 1);
    }

    #[test]
    fn an_exec_record_and_lengths_that_lie() {
        let strings = b"/bin/curl\0curl\0-s\0";
        let len = size_of::<abi::Exec>() + strings.len();
        let record = abi::Exec {
            header: header(abi::kind::EXEC, len),
            filename_len: 10,
            arguments_len: 8,
            arguments_cut: 1,
            device: 253 << 20 | 300,
            inode: 9,
            ..Default::default()
        };
        let decode = |record: &abi::Exec| {
            let mut decoder = Decoder::default();
            let decoded = decoder.decode(&[raw(record), strings].concat());
            (decoded, decoder.undecoded)
        };
        let (
            Decoded::Record(Record::Process(ProcessRecord::Exec {
                filename,
                arguments,
                ..
            })),
            0,
        ) = decode(&record)
        else {
            panic!("not an exec")
        };
        assert_eq!(filename, "/bin/curl");
        assert_eq!(arguments.bytes[..], *b"curl\0-s\0");
        assert!(arguments.truncated);
        for (filename_len, arguments_len) in [(19, 0), (10, 9), (u32::MAX, 1), (1, u32::MAX)] {
            let lying = abi::Exec {
                filename_len,
                arguments_len,
                ..record
            };
            assert!(
                matches!(decode(&lying), (Decoded::Nothing, 1)),
                "{filename_len} {arguments_len}"
            );
        }
    }

    #[test]
    fn a_unix_path_is_remembered_until_the_socket_closes() {
        for (name, shown) in [(&b"/run/a.sock\0"[..], "/run/a.sock"), (b"\0bus", "@bus")] {
            let mut path = abi::UnixPath {
                header: header(abi::kind::UNIX_PATH, size_of::<abi::UnixPath>()),
                sock: 7,
                inode: 9,
                len: name.len() as u32,
                path: [0; abi::UNIX_PATH_MAX],
            };
            path.path[..name.len()].copy_from_slice(name);
            let (mut socket, payload) = record();
            socket.family = abi::family::UNIX;
            let closed = abi::Closed {
                header: header(abi::kind::CLOSED, size_of::<abi::Closed>()),
                sock: 7,
                inode: 9,
            };

            let mut decoder = Decoder::default();
            let path_of = |decoder: &mut Decoder| match decoder.decode(&bytes(&socket, &payload)) {
                Decoded::Record(Record::Chunk(chunk)) => match chunk.endpoints {
                    Endpoints::Unix { path, .. } => path,
                    Endpoints::Tcp { .. } | Endpoints::Udp { .. } => panic!("not Unix"),
                },
                _ => panic!("not a chunk"),
            };
            assert_eq!(path_of(&mut decoder), None);
            assert!(matches!(decoder.decode(raw(&path)), Decoded::Nothing));
            assert_eq!(path_of(&mut decoder).as_deref(), Some(shown));
            assert!(matches!(
                decoder.decode(raw(&closed)),
                Decoded::Record(Record::Closed(_))
            ));
            assert_eq!(path_of(&mut decoder), None);
            path.len = abi::UNIX_PATH_MAX as u32 + 1;
            decoder.decode(raw(&path));
            assert_eq!(decoder.undecoded, 1);
        }
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_stack_socket_is_that_peer() {
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets();
        assert_eq!(
            address(abi::family::INET6, &mapped),
            IpAddr::from([192, 0, 2, 1])
        );
        let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        assert_eq!(
            address(abi::family::INET6, &other.octets()),
            IpAddr::from(other)
        );
    }
}
