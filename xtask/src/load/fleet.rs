//! Who is there: hosts with processes, credentials with those who use them. Made once, from the seed.
//!
//! A process holds an event of its own, whole but for what each request changes, so that an event costs what differs.

use super::random::Random;
use super::services::{PROGRAMS, Program, SERVER, SERVICES, Service};
use super::shape::Shape;
use agent_common::event::{
    Ancestor, Body, Cgroup, Container, ContainerRuntime, Direction, Endpoint, Envelope, Evidence,
    Exchange, Executable, Fingerprint, Hash, Hex, Hook, Host, Http, HttpRequest, HttpResponse,
    IdentitySource, Network, NetworkProtocol, NetworkType, Outcome, Principal, Process,
    ProcessCreation, Producer, Server, SocketEvidence, Systemd, Thread, Time, Token, Transport,
    Url, Usage, User, UserAgent, V1,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Watched programs of a host.
const PROCESSES: u64 = 10;
/// Hosts that a watched service runs on.
const REPLICAS: usize = 2;
/// One credential of so many was revoked, and its users have not noticed.
const REVOKED: u64 = 60;

pub struct Fleet {
    pub hosts: Vec<Machine>,
    /// From the one that is used most.
    pub credentials: Vec<Credential>,
    /// By service: where it answers.
    pub replicas: Vec<Vec<Replica>>,
}

/// A host with its agent.
pub struct Machine {
    /// Of its last event.
    pub sequence: u64,
    pub processes: Vec<Envelope>,
}

pub struct Credential {
    pub fingerprint: Fingerprint,
    pub service: usize,
    /// What its user is called there, or its claims name.
    pub name: String,
    pub revoked: bool,
    pub users: Vec<Client>,
}

/// A process that uses a credential, and its connection.
pub struct Client {
    pub host: usize,
    pub process: usize,
    pub connection: Connection,
}

#[derive(Clone, Copy, Default)]
pub struct Connection {
    pub id: [u8; 8],
    pub port: u16,
    pub replica: usize,
    /// TCP sequence number of the next request.
    pub place: u32,
    /// Requests that it will still carry.
    pub left: usize,
}

/// A server of a service.
pub struct Replica {
    pub address: String,
    /// Host and process, if its host is watched.
    pub watched: Option<(usize, usize)>,
}

impl Fleet {
    /// `from`: nanoseconds since the Unix epoch at which all agents start.
    pub fn new(random: &mut Random, shape: &Shape, from: i64) -> Self {
        let mut hosts: Vec<Machine> = (0..shape.hosts)
            .map(|number| machine(random, number, from))
            .collect();
        let replicas = SERVICES
            .iter()
            .enumerate()
            .map(|(place, service)| replicas(random, &mut hosts, place, service))
            .collect();
        let credentials = (0..shape.fingerprints)
            .map(|number| credential(random, &hosts, number))
            .collect();
        Self {
            hosts,
            credentials,
            replicas,
        }
    }
}

/// Addresses of a host's own network.
fn address(number: usize) -> String {
    format!(
        "10.{}.{}.{}",
        number / 60_000,
        number / 240 % 250,
        number % 240 + 10
    )
}

fn machine(random: &mut Random, number: usize, from: i64) -> Machine {
    let id = random.hex(32);
    // Agents are started within an hour before.
    let epoch = (from / 1_000_000) as u64 - random.below(3_600_000);
    let host = Arc::new(Host {
        id: Some(id.clone()),
        name: format!("node-{number:04}.fleet.example"),
        boot_id: format!(
            "{}-{}-4{}-8{}-{}",
            random.hex(8),
            random.hex(4),
            random.hex(3),
            random.hex(3),
            random.hex(12)
        ),
    });
    let producer = Producer {
        id: id.as_str().into(),
        name: "tokentrail-agent".into(),
        version: "0.1.0".into(),
        epoch,
        sequence: 0,
    };
    let processes = (0..PROCESSES)
        .map(|place| {
            let program = &PROGRAMS[random.zipf(PROGRAMS.len())];
            let principal = principal(random, program, place, from);
            envelope(random, &host, &producer, principal, program, number)
        })
        .collect();
    Machine {
        sequence: 0,
        processes,
    }
}

fn replicas(
    random: &mut Random,
    hosts: &mut [Machine],
    place: usize,
    service: &Service,
) -> Vec<Replica> {
    if !service.watched {
        return (1..=4)
            .map(|number| Replica {
                address: format!("192.0.2.{}", place * 16 + number),
                watched: None,
            })
            .collect();
    }
    (0..REPLICAS)
        .map(|number| {
            let host = (place * REPLICAS + number) % hosts.len();
            let machine = &mut hosts[host];
            let mut own = machine.processes[0].clone();
            if let Body::Usage(usage) = &mut own.body {
                let started = Time::unix_nanos(usage.principal.process.creation.time) as i64;
                usage.direction = Direction::Server;
                usage.principal = Arc::new(principal(random, &SERVER, place as u64, started));
                usage.thread = thread(&usage.principal, &SERVER);
                usage.evidence.library = Some(SERVER.library.to_owned());
            }
            machine.processes.push(own);
            Replica {
                address: address(host),
                watched: Some((host, machine.processes.len() - 1)),
            }
        })
        .collect()
}

fn credential(random: &mut Random, hosts: &[Machine], number: usize) -> Credential {
    let users = (0..=random.zipf(6))
        .map(|_| Client {
            host: random.index(hosts.len()),
            process: random.index(PROCESSES as usize),
            connection: Connection::default(),
        })
        .collect();
    Credential {
        fingerprint: fingerprint(random),
        service: random.zipf(SERVICES.len()),
        name: format!("service-{:03}", number % 400),
        revoked: random.below(REVOKED) == 0,
        users,
    }
}

fn fingerprint(random: &mut Random) -> Fingerprint {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    let mac: String = (0..43)
        .map(|_| char::from(*random.pick(ALPHABET)))
        .collect();
    format!("tkf1:k5nz79bq:{mac}")
        .parse()
        .unwrap_or_else(|_| unreachable!("a fingerprint is made of its alphabet"))
}

/// The same file has the same digest on every host.
fn digest(program: &str) -> [u8; 32] {
    let seed = program.bytes().fold(7, |seed: u64, byte| {
        super::random::mixed(seed ^ u64::from(byte))
    });
    let mut random = Random::new(seed);
    let mut digest = [0; 32];
    for part in digest.chunks_exact_mut(8) {
        part.copy_from_slice(&random.next().to_be_bytes());
    }
    digest
}

fn time(nanos: i64) -> Time {
    Time::from_unix_nanos(nanos.into())
}

fn executable(path: &str) -> Executable {
    Executable {
        path: Some(path.to_owned()),
        ..Executable::default()
    }
}

fn principal(random: &mut Random, program: &Program, place: u64, from: i64) -> Principal {
    let unit = format!("app{place}.service");
    let started = from - 1_000_000_000 - random.below(1 << 50) as i64;
    let container = program.contained.then(|| random.hex(64));
    let cgroup = match &container {
        Some(id) => format!("/system.slice/docker-{id}.scope"),
        None => format!("/system.slice/{unit}"),
    };
    let mut arguments = vec![program.path.to_owned()];
    arguments.extend(program.arguments.iter().map(|&word| word.to_owned()));
    arguments.push(format!("app{place}"));
    let ancestor = |pid: u32, path: &str, nanos: i64| Ancestor {
        pid,
        creation: ProcessCreation { time: time(nanos) },
        executable: executable(path),
    };
    let parent = 900 + random.below(4_000) as u32;
    let process = Process {
        pid: 5_000 + random.below(4_000_000) as u32,
        creation: ProcessCreation {
            time: time(started),
        },
        parent_pid: Some(parent),
        executable: Executable {
            hash: Some(Hash {
                sha256: Hex(digest(program.path)),
            }),
            ..executable(program.path)
        },
        command_args: Some(arguments),
        command_args_truncated: false,
        real_user: User {
            id: 1_000 + place as u32,
            name: container.is_none().then(|| format!("app{place}")),
        },
        real_group_id: 1_000 + place as u32,
        linux: Cgroup {
            cgroup: Some(cgroup),
            cgroup_id: 4_000 + random.below(90_000),
            network_namespace: 4_026_531_840
                + if program.contained {
                    place as u32 + 1
                } else {
                    0
                },
        },
        ancestors: vec![
            ancestor(
                parent,
                if program.contained {
                    "/usr/bin/containerd-shim-runc-v2"
                } else {
                    "/usr/bin/bash"
                },
                started - random.below(1 << 34) as i64,
            ),
            ancestor(1, "/usr/lib/systemd/systemd", started - (1 << 51)),
        ],
    };
    Principal {
        process,
        container: container.clone().map(|id| Container {
            id,
            runtime: Some(ContainerRuntime {
                name: "docker".to_owned(),
            }),
        }),
        systemd: Some(Systemd {
            unit: Some(container.map_or(unit, |id| format!("docker-{id}.scope"))),
            slice: Some("system.slice".to_owned()),
            ..Systemd::default()
        }),
        k8s: None,
    }
}

fn thread(principal: &Principal, program: &Program) -> Option<Thread> {
    let name = program.path.rsplit('/').next().unwrap_or_default();
    Some(Thread {
        id: principal.process.pid,
        name: Some(name.chars().take(15).collect()),
    })
}

fn envelope(
    random: &mut Random,
    host: &Arc<Host>,
    producer: &Producer,
    principal: Principal,
    program: &Program,
    number: usize,
) -> Envelope {
    let own = address(number);
    let usage = Usage {
        direction: Direction::Client,
        exchange: Exchange {
            id: String::new(),
            outcome: Outcome::Answered,
        },
        thread: thread(&principal, program),
        network: Network {
            transport: Transport::Tcp,
            network_type: Some(NetworkType::Ipv4),
            local: Some(Endpoint {
                address: own.clone(),
                port: None,
            }),
            peer: Some(Endpoint {
                address: String::new(),
                port: None,
            }),
            protocol: Some(NetworkProtocol {
                name: "http".to_owned(),
                version: Some("1.1".to_owned()),
            }),
        },
        server: Server {
            address: String::new(),
            port: None,
        },
        client: Some(agent_common::event::Client {
            address: own,
            port: None,
        }),
        tls: None,
        http: Http {
            request: HttpRequest {
                method: String::new(),
            },
            response: Some(HttpResponse { status_code: 200 }),
        },
        rpc: None,
        url: Url {
            scheme: String::new(),
            path: String::new(),
            query: None,
            template: None,
        },
        user_agent: Some(UserAgent {
            original: program.agent.to_owned(),
        }),
        token: Token {
            fingerprints: Vec::new(),
            provider: None,
            class: None,
            scheme: String::new(),
            carrier: String::new(),
            user: None,
            public: BTreeMap::new(),
            unresolved: None,
        },
        evidence: Evidence {
            socket: SocketEvidence::Record,
            provider: None,
            identity: *random.pick(&[IdentitySource::Exec, IdentitySource::Proc]),
            hook: Hook::Fentry,
            library: Some(program.library.to_owned()),
        },
        forwarded: BTreeMap::new(),
        correlation: BTreeMap::new(),
        principal: Arc::new(principal),
    };
    Envelope {
        version: V1,
        time: time(0),
        observed_time: time(0),
        producer: producer.clone(),
        host: host.clone(),
        body: Body::Usage(Box::new(usage)),
    }
}
