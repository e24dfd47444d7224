//! Events as a host with several programs has them: for measuring what comes after the pipeline.
//!
//! The pipeline makes them of made-up exchanges that differ in method, path, host, credential, software and status, on
//! many connections. The pipeline sees one process only, this one, so each event is then given to one of some programs
//! with user, unit or container, as `identity` would have found it.
//!
//! Invariant: credentials are generated; no event is of anything that happened.

use super::replay::{Traffic, pipeline};
use agent_common::event::{
    Ancestor, Body, Cgroup, Container, ContainerRuntime, Envelope, Executable, Hash, Hex,
    Principal, Process, ProcessCreation, Systemd, Time, Usage, User,
};
use std::sync::Arc;
use tokentrail_agent::kernel::record::Record;

const CONNECTIONS: usize = 1_000;
/// Different exchanges: each event of one has its own time, connection and exchange id.
const EXCHANGES: usize = 4_000;

/// `count` usage events.
pub fn events(count: usize) -> anyhow::Result<Vec<Envelope>> {
    let mut pipeline = pipeline()?;
    let mut random = Random(1);
    let (requests, answers) = (0..EXCHANGES)
        .map(|_| exchange(&mut random))
        .unzip::<_, _, Vec<_>, Vec<_>>();
    let mut traffic = Traffic::of(CONNECTIONS, requests, answers)?;
    let programs: Vec<Arc<Principal>> = (0..PROGRAMS.len())
        .map(|at| Arc::new(principal(at, &mut random)))
        .collect();
    let mut events = Vec::new();
    while events.len() < count {
        for chunk in traffic.batch() {
            pipeline.record(Record::Chunk(chunk));
        }
        for mut event in pipeline.take_events() {
            if let Body::Usage(usage) = &mut event.body {
                dress(usage, &programs, &mut random);
                events.push(event);
            }
        }
    }
    events.truncate(count);
    Ok(events)
}

/// Name of the thread, path and arguments, user, unit (or a container, where that is empty).
struct Program(
    &'static str,
    &'static [&'static str],
    (u32, &'static str),
    &'static str,
);

const PROGRAMS: &[Program] = &[
    Program(
        "nginx",
        &["/usr/sbin/nginx"],
        (33, "www-data"),
        "nginx.service",
    ),
    Program(
        "gunicorn",
        &[
            "/usr/bin/python3.11",
            "-m",
            "gunicorn",
            "shop.wsgi",
            "--workers",
            "4",
        ],
        (33, "www-data"),
        "shop.service",
    ),
    Program(
        "node",
        &["/usr/local/bin/node", "/srv/gateway/dist/server.js"],
        (1000, ""),
        "",
    ),
    Program(
        "envoy",
        &["/usr/local/bin/envoy", "-c", "/etc/envoy/envoy.yaml"],
        (101, ""),
        "",
    ),
    Program(
        "python3",
        &["/usr/bin/python3.11", "/opt/sync/pull.py", "--all"],
        (998, "sync"),
        "sync.service",
    ),
    Program(
        "curl",
        &[
            "/usr/bin/curl",
            "--silent",
            "--fail",
            "https://api.example.test/v1/status",
        ],
        (0, "root"),
        "cron.service",
    ),
    Program(
        "php-fpm8.2",
        &["/usr/sbin/php-fpm8.2", "--nodaemonize"],
        (33, "www-data"),
        "php8.2-fpm.service",
    ),
    Program(
        "ruby",
        &["/usr/local/bin/ruby", "bin/rails", "server"],
        (1000, ""),
        "",
    ),
];

fn principal(at: usize, random: &mut Random) -> Principal {
    let Program(_, arguments, (user, name), unit) = &PROGRAMS[at];
    let pid = 700 + random.below(30_000) as u32;
    let created = |ago: u64| {
        let nanos = Time::now().unix_nanos() - i128::from(ago) * 1_000_000;
        ProcessCreation {
            time: Time::from_unix_nanos(nanos),
        }
    };
    let container = unit.is_empty().then(|| random.text(64, HEX));
    let cgroup = match &container {
        Some(id) => format!("/system.slice/docker-{id}.scope"),
        None => format!("/system.slice/{unit}"),
    };
    let program = |path: &str, random: &mut Random| Executable {
        path: Some(path.to_owned()),
        hash: Some(Hash {
            sha256: Hex(std::array::from_fn(|_| random.below(256) as u8)),
        }),
        ..Executable::default()
    };
    Principal {
        process: Process {
            pid,
            creation: created(random.below(900_000_000)),
            parent_pid: Some(pid - 1),
            executable: program(arguments[0], random),
            command_args: Some(arguments.iter().map(ToString::to_string).collect()),
            command_args_truncated: false,
            real_user: User {
                id: *user,
                name: (!name.is_empty()).then(|| (*name).to_owned()),
            },
            real_group_id: *user,
            linux: Cgroup {
                cgroup: Some(cgroup),
                cgroup_id: 2_000 + random.below(10_000),
                network_namespace: 4_026_531_840 + at as u32,
            },
            ancestors: [(pid - 1, arguments[0]), (1, "/usr/lib/systemd/systemd")]
                .map(|(pid, path)| Ancestor {
                    pid,
                    creation: created(1_000_000_000),
                    executable: Executable {
                        path: Some(path.to_owned()),
                        ..Executable::default()
                    },
                })
                .to_vec(),
        },
        systemd: Some(Systemd {
            unit: container
                .as_ref()
                .map(|id| format!("docker-{id}.scope"))
                .or(Some((*unit).to_owned())),
            slice: Some("system.slice".into()),
            ..Systemd::default()
        }),
        container: container.map(|id| Container {
            id,
            runtime: Some(ContainerRuntime {
                name: "docker".into(),
            }),
        }),
        k8s: None,
    }
}

fn dress(usage: &mut Usage, programs: &[Arc<Principal>], random: &mut Random) {
    // Few programs do most of the work.
    let at = random
        .below(programs.len() as u64)
        .min(random.below(programs.len() as u64)) as usize;
    usage.principal = Arc::clone(&programs[at]);
    if let Some(thread) = &mut usage.thread {
        thread.id = programs[at].process.pid + random.below(4) as u32;
        thread.name = Some(PROGRAMS[at].0.to_owned());
    }
}

const HEX: &[u8] = b"0123456789abcdef";
pub const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

/// Request and answer.
fn exchange(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let (number, id) = (random.below(100_000), random.text(32, HEX));
    let target = match random.below(8) {
        0 => format!("/v1/projects/{number}/items?page=2&limit=50"),
        1 => format!("/v1/customers/{number}"),
        2 => format!("/repos/acme/shop/issues/{number}/comments"),
        3 => "/v1/chat/completions".to_owned(),
        4 => format!("/orders/{number}/lines?expand=product"),
        5 => "/api/v4/projects?membership=true&per_page=100".to_owned(),
        6 => format!("/v1/secret/data/service-{}", number % 40),
        _ => "/v1/status".to_owned(),
    };
    let method = random.one_of(&["GET", "GET", "GET", "POST", "PUT", "DELETE"]);
    let host = random.one_of(&[
        "api.example.test",
        "shop.example.test",
        "git.example.test",
        "vault.internal.test:8200",
        "llm.example.test",
    ]);
    let software = random.one_of(&[
        "python-requests/2.32.3",
        "curl/7.88.1",
        "node",
        "okhttp/4.12.0",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ]);
    let credential = match random.below(5) {
        0 => format!("Authorization: token {}", random.text(40, HEX)),
        1 => format!("X-Api-Key: {}", random.text(48, LETTERS)),
        _ => format!("Authorization: Bearer {}", random.text(40, LETTERS)),
    };
    let status = random.one_of(&[
        "200 OK",
        "200 OK",
        "200 OK",
        "201 Created",
        "401 Unauthorized",
        "404 Not Found",
        "429 Too Many Requests",
    ]);
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {software}\r\nAccept: application/json\r\n\
         {credential}\r\nX-Request-Id: {id}\r\nContent-Length: 0\r\n\r\n"
    );
    let answer = format!(
        "HTTP/1.1 {status}\r\nServer: nginx/1.22.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
         Connection: keep-alive\r\n\r\n{{}}"
    );
    (request.into_bytes(), answer.into_bytes())
}

/// Steele and Vigna's SplitMix64: the same events each time.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// So many characters of these.
    pub fn text(&mut self, count: usize, of: &[u8]) -> String {
        (0..count)
            .map(|_| char::from(of[self.below(of.len() as u64) as usize]))
            .collect()
    }
}
