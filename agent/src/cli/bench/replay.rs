//! How many requests per second one core takes from chunk to usage event.
//!
//! Chunks are made in memory between the timed parts: a GET with eight header fields and a Bearer credential, and its
//! answer, on keep-alive connections in turn, as a server's agent sees them. The caller is this process, so identity
//! is resolved as always. Events are dropped where the outputs would take them. What is counted is this thread's CPU
//! time.

use super::{
    ReplayArguments, print,
    varied::{LETTERS, Random},
};
use agent_common::{
    abi,
    event::{Body, Hook},
    fingerprint::Keyring,
};
use serde_json::json;
use std::{net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};
use tokentrail_agent::{
    config::Config,
    credential::Observer,
    flow::{Direction, Payload},
    identity::{Clock, ProcessTable, host},
    kernel::{
        decode::{Decoded, Decoder, now},
        points::Points,
        record::{Caller, Chunk, ConnectionKey, Endpoints, ProcessKey, Record},
        scope,
    },
    pipeline::{Numbering, Pipeline},
};

/// Requests that are made ahead of each timed part: few enough for the caches, as the ring would be.
const BATCH: usize = 512;
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nserver: nginx/1.22.1\r\ndate: Sat, 01 Jan 2028 00:00:00 GMT\r\n\
    content-type: application/json\r\ncontent-length: 24\r\nconnection: keep-alive\r\n\
    x-request-id: 7d0f3b1e6c\r\n\r\n{\"status\":\"ok\",\"n\":12345}";

pub fn replay(arguments: &ReplayArguments) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        arguments.connections > 0 && arguments.tokens > 0,
        "nothing to replay"
    );
    let mut pipeline = pipeline()?;
    let requests = (0..arguments.tokens).map(request).collect();
    let mut traffic = Traffic::of(arguments.connections, requests, vec![ANSWER.to_vec()])?;
    let mut decoder = Decoder::default();
    // Caches filled, connections made, the executable hashed.
    for _ in 0..arguments.connections.div_ceil(BATCH) + 4 {
        feed(&mut pipeline, traffic.batch());
    }
    let (mut requests, mut events, mut spent) = (0usize, 0usize, Duration::ZERO);
    while spent.as_secs_f64() < arguments.seconds {
        let batch = traffic.batch();
        requests += BATCH;
        if arguments.decode {
            let records: Vec<Vec<u8>> = batch.iter().map(encode).collect();
            let start = thread_time();
            for bytes in &records {
                if let Decoded::Record(record) = decoder.decode(bytes) {
                    pipeline.record(record);
                }
            }
            events += usage_events(&mut pipeline);
            spent += thread_time().saturating_sub(start);
        } else {
            let start = thread_time();
            events += feed(&mut pipeline, batch);
            spent += thread_time().saturating_sub(start);
        }
    }
    anyhow::ensure!(
        events == requests,
        "{requests} requests gave {events} usage events"
    );
    print(&json!({
        "requests": requests,
        "seconds": spent.as_secs_f64(),
        "requests_per_second": requests as f64 / spent.as_secs_f64(),
        "from": if arguments.decode { "ring record" } else { "chunk" },
        "connections": arguments.connections,
        "tokens": arguments.tokens,
    }))
}

/// CPU time of this thread: "on one core" holds on a busy machine too.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}

pub fn pipeline() -> anyhow::Result<Pipeline> {
    let config = Config::default();
    let host = host::read(std::path::Path::new("/"))?;
    Ok(Pipeline::new(
        super::super::start::limits(&config),
        Observer::new(
            super::super::start::credential(&config),
            Arc::new(Keyring::ephemeral()?),
        ),
        ProcessTable::new(super::super::start::identity(&config))?,
        Points::default(),
        Clock::start(),
        Hook::Fentry,
        Numbering::new("bench".into(), 0, host),
    ))
}

fn feed(pipeline: &mut Pipeline, batch: Vec<Chunk>) -> usize {
    for chunk in batch {
        pipeline.record(Record::Chunk(chunk));
    }
    usage_events(pipeline)
}

fn usage_events(pipeline: &mut Pipeline) -> usize {
    pipeline
        .take_events()
        .iter()
        .filter(|event| matches!(event.body, Body::Usage(_)))
        .count()
}

/// Made-up connections, each with its place in both directions.
pub struct Traffic {
    caller: Caller,
    requests: Vec<Vec<u8>>,
    /// In turn, as the requests are.
    answers: Vec<Vec<u8>>,
    /// Bytes sent, bytes received.
    places: Vec<[u64; 2]>,
    next: usize,
}

impl Traffic {
    /// Exchanges in turn on so many connections. There must be requests and answers.
    pub fn of(
        connections: usize,
        requests: Vec<Vec<u8>>,
        answers: Vec<Vec<u8>>,
    ) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let ticks = scope::start_ticks(pid)
            .ok_or_else(|| anyhow::anyhow!("/proc/{pid}/stat cannot be read"))?;
        let caller = Caller {
            process: ProcessKey {
                pid,
                start: scope::nanoseconds(ticks),
            },
            thread: pid,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            cgroup: own_cgroup().unwrap_or(1),
            network_namespace: 4_026_531_840,
            comm: "bench".into(),
        };
        Ok(Self {
            caller,
            requests,
            answers,
            places: vec![[0; 2]; connections],
            next: 0,
        })
    }

    pub fn batch(&mut self) -> Vec<Chunk> {
        let mut chunks = Vec::with_capacity(2 * BATCH);
        for _ in 0..BATCH {
            let connection = self.next % self.places.len();
            let request = Payload::copy_from(&self.requests[self.next % self.requests.len()]);
            let answer = Payload::copy_from(&self.answers[self.next % self.answers.len()]);
            self.next += 1;
            chunks.push(self.chunk(connection, Direction::Received, request));
            chunks.push(self.chunk(connection, Direction::Sent, answer));
        }
        chunks
    }

    fn chunk(&mut self, connection: usize, direction: Direction, bytes: Payload) -> Chunk {
        let place = &mut self.places[connection][direction.index()];
        let offset = *place;
        *place += bytes.len() as u64;
        let number = connection as u64;
        Chunk {
            time: now(),
            connection: ConnectionKey {
                sock: 0xffff_8880_0000_0000 + number * 2_304,
                inode: 10_000 + number,
            },
            endpoints: Endpoints::Tcp {
                local: SocketAddr::from(([127, 0, 0, 1], 443)),
                peer: SocketAddr::from((
                    [10, 1, (number >> 16) as u8, (number >> 8) as u8],
                    1_024 + number as u16 % 50_000,
                )),
            },
            caller: self.caller.clone(),
            direction,
            offset,
            skipped: 0,
            bytes,
            sequence: (1_000_000 + offset) as u32,
            from_start: true,
            kernel_tls: false,
            end: false,
        }
    }
}

/// 40 characters that are no one's credential, as many different ones as numbers.
fn request(number: usize) -> Vec<u8> {
    let credential = Random(number as u64 + 1).text(40, LETTERS);
    format!(
        "GET /v1/projects/{number}/items?page=2&limit=50 HTTP/1.1\r\nHost: api.example.test\r\n\
         User-Agent: python-requests/2.32.3\r\nAccept-Encoding: gzip, deflate, br\r\nAccept: application/json\r\n\
         Connection: keep-alive\r\nAuthorization: Bearer {credential}\r\nX-Request-Id: 0f4c1a7e-{number:08}\r\n\
         Cache-Control: no-cache\r\n\r\n"
    )
    .into_bytes()
}

/// Inode number of the cgroup v2 folder of this process.
fn own_cgroup() -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let hierarchy = scope::Hierarchy::find().ok()?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(std::fs::metadata(hierarchy.mount.join(path)).ok()?.ino())
}

/// The ring record that a chunk came from.
fn encode(chunk: &Chunk) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<abi::Socket>() + chunk.bytes.len());
    let Endpoints::Tcp { local, peer } = &chunk.endpoints else {
        return bytes;
    };
    let address = |end: &SocketAddr| {
        let mut bytes = [0u8; 16];
        if let std::net::IpAddr::V4(ip) = end.ip() {
            bytes[..4].copy_from_slice(&ip.octets());
        }
        bytes
    };
    let caller = &chunk.caller;
    let mut comm = [0u8; 16];
    comm[..caller.comm.len().min(15)]
        .copy_from_slice(&caller.comm.as_bytes()[..caller.comm.len().min(15)]);
    // In the order of `abi::Socket`, `abi::Header` and `abi::Task`.
    let len = (size_of::<abi::Socket>() + chunk.bytes.len()) as u32;
    bytes.extend(abi::VERSION.to_ne_bytes());
    bytes.extend(abi::kind::SOCKET.to_ne_bytes());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(chunk.time.to_ne_bytes());
    for number in [caller.process.pid, caller.thread, caller.uid, caller.gid] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(caller.process.start.to_ne_bytes());
    bytes.extend(caller.cgroup.to_ne_bytes());
    bytes.extend(caller.network_namespace.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(comm);
    for number in [
        chunk.connection.sock,
        chunk.connection.inode,
        0,
        chunk.offset,
        chunk.skipped,
    ] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(chunk.sequence.to_ne_bytes());
    bytes.extend((chunk.bytes.len() as u32).to_ne_bytes());
    for number in [abi::family::INET, local.port(), peer.port()] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend([chunk.direction.index() as u8, abi::flag::FROM_START]);
    bytes.extend(address(local));
    bytes.extend(address(peer));
    bytes.extend([0; 16]);
    bytes.extend_from_slice(&chunk.bytes);
    bytes
}
