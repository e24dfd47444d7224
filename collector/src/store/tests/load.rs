//! Realistic events from a seed: hosts with long-lived processes, tokens used by few of them and as unevenly as Zipf's
//! law has it, connections that are used more than once, paths with ids.

use crate::event::Event;
use agent_common::event::{Body, Envelope, Time};
use bytes::Bytes;
use serde_json::json;
use std::sync::Arc;

const TEMPLATE: &str = include_str!("../../../tests/fixtures/events.ndjson");

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A rank by Zipf's law with exponent 1: rank r is met 1/r as often as the first.
    fn zipf(&mut self, ranks: u64) -> u64 {
        ((ranks as f64 + 1.0).powf(self.unit()) as u64).saturating_sub(1)
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            text += &format!("{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

struct Host {
    sequence: u64,
    processes: Vec<Process>,
}

struct Process {
    envelope: Envelope,
    port: u16,
    requests: u64,
}

struct Credential {
    fingerprint: String,
    service: usize,
    users: Vec<(usize, usize)>,
}

/// Host, provider, class, first segments of paths.
const SERVICES: [(&str, Option<&str>, &str, [&str; 4]); 6] = [
    (
        "api.github.com",
        Some("github"),
        "personal_access_token",
        [
            "/repos/acme/{id}/pulls",
            "/user/repos",
            "/repos/acme/{id}/issues/{id}",
            "/rate_limit",
        ],
    ),
    (
        "slack.com",
        Some("slack"),
        "bot_token",
        [
            "/api/chat.postMessage",
            "/api/users.info",
            "/api/conversations.history",
            "/api/auth.test",
        ],
    ),
    (
        "api.stripe.com",
        Some("stripe"),
        "secret_key",
        [
            "/v1/charges/{id}",
            "/v1/customers/{id}",
            "/v1/invoices",
            "/v1/balance",
        ],
    ),
    (
        "vault.internal.example",
        Some("vault"),
        "service_token",
        [
            "/v1/secret/data/app/{id}",
            "/v1/auth/token/renew-self",
            "/v1/secret/data/db",
            "/v1/sys/health",
        ],
    ),
    (
        "orders.internal.example",
        Some("jwt"),
        "jwt",
        [
            "/orders/{id}",
            "/orders/{id}/items",
            "/stock/{id}",
            "/health",
        ],
    ),
    (
        "registry.internal.example",
        None,
        "",
        [
            "/v2/app/manifests/{id}",
            "/v2/app/blobs/{id}",
            "/v2/",
            "/token",
        ],
    ),
];

const PROGRAMS: [&str; 8] = [
    "/usr/bin/python3.11",
    "/usr/bin/node",
    "/usr/lib/jvm/java-17/bin/java",
    "/usr/bin/curl",
    "/usr/local/bin/deploy",
    "/usr/sbin/nginx",
    "/usr/bin/git",
    "/opt/app/server",
];

/// See the module.
pub struct Load {
    random: Random,
    hosts: Vec<Host>,
    credentials: Vec<Credential>,
    /// Nanoseconds since the Unix epoch.
    pub now: i64,
    /// Nanoseconds between events, on average.
    pub step: u64,
}

impl Load {
    pub fn new(seed: u64, hosts: usize, credentials: usize, from: i64, step: u64) -> Self {
        let mut random = Random(seed);
        let template: Envelope = TEMPLATE
            .lines()
            .filter(|line| line.contains(r#""kind":"usage""#) && line.contains(r#""tls":"#))
            .find(|line| line.contains(r#""direction":"client""#))
            .map(|line| serde_json::from_str(line).unwrap())
            .unwrap();
        let hosts: Vec<Host> = (0..hosts)
            .map(|number| host(&template, number, from, &mut random))
            .collect();
        let credentials = (0..credentials)
            .map(|_| Credential {
                fingerprint: format!("tkf1:k5nz79bq:{}", fingerprint(&mut random)),
                service: random.zipf(SERVICES.len() as u64) as usize,
                users: (0..=random.below(4))
                    .map(|_| {
                        let host = random.below(hosts.len() as u64) as usize;
                        (
                            host,
                            random.below(hosts[host].processes.len() as u64) as usize,
                        )
                    })
                    .collect(),
            })
            .collect();
        Self {
            random,
            hosts,
            credentials,
            now: from,
            step,
        }
    }

    pub fn events(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event()).collect()
    }

    pub fn event(&mut self) -> Event {
        let random = &mut self.random;
        self.now += random.below(self.step * 2) as i64;
        let credential = &self.credentials[random.zipf(self.credentials.len() as u64) as usize];
        let &(host, process) = random.pick(&credential.users);
        let host = &mut self.hosts[host];
        host.sequence += 1;
        let process = &mut host.processes[process];
        let mut event = process.envelope.clone();
        let observed = 200_000 + (-(1.0 - random.unit()).ln() * 40e6) as i64;
        event.time = Time::from_unix_nanos(self.now.into());
        event.observed_time = Time::from_unix_nanos((self.now + observed).into());
        event.producer.sequence = host.sequence;
        if process.requests == 0 {
            process.port = 32_768 + random.below(28_232) as u16;
            process.requests = 1 + random.zipf(30);
        }
        process.requests -= 1;
        let (address, provider, class, paths) = SERVICES[credential.service];
        let Body::Usage(usage) = &mut event.body else {
            unreachable!()
        };
        usage.exchange.id = random.hex(32);
        let template = paths[random.zipf(4) as usize];
        let mut path = String::new();
        for (place, part) in template.split("{id}").enumerate() {
            if place > 0 {
                path += &random.zipf(5_000).to_string();
            }
            path += part;
        }
        usage.url.path = path;
        usage.url.template = Some(template.to_owned());
        usage.http.request.method = random.pick(&["GET", "GET", "GET", "POST"]).to_string();
        let status = match random.below(100) {
            0..=93 => 200,
            94 => 401,
            95 => 403,
            96..=98 => 404,
            _ => 429,
        };
        usage.http.response.as_mut().unwrap().status_code = status;
        usage.server.address = address.to_owned();
        usage.server.port = Some(443);
        if let Some(sni) = usage.tls.as_mut().and_then(|tls| tls.client.as_mut()) {
            sni.server_name = address.to_owned();
        }
        let local = usage.network.local.as_mut().unwrap();
        local.port = Some(process.port);
        let client = usage.client.as_mut().unwrap();
        client.address.clone_from(&local.address);
        client.port = local.port;
        let peer = usage.network.peer.as_mut().unwrap();
        peer.address = format!(
            "192.0.2.{}",
            credential.service * 8 + random.below(4) as usize
        );
        peer.port = Some(443);
        usage.token.fingerprints = vec![credential.fingerprint.parse().unwrap()];
        usage.token.provider = provider.map(str::to_owned);
        usage.token.class = provider.map(|_| class.to_owned());
        usage.token.scheme = "Bearer".to_owned();
        usage.token.carrier = "header:authorization".to_owned();
        usage.token.user = None;
        usage.token.public.clear();
        if provider == Some("jwt") {
            let sub = format!("service-{}", credential.users[0].0);
            usage.token.public.insert("sub".into(), json!(sub));
            usage
                .token
                .public
                .insert("iss".into(), json!("https://issuer.internal.example"));
        }
        Event::parse(Bytes::from(serde_json::to_vec(&event).unwrap())).unwrap()
    }
}

fn fingerprint(random: &mut Random) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    (0..43)
        .map(|_| char::from(*random.pick(ALPHABET)))
        .collect()
}

fn host(template: &Envelope, number: usize, from: i64, random: &mut Random) -> Host {
    let mut envelope = template.clone();
    let id = random.hex(32);
    envelope.producer.id = id.as_str().into();
    envelope.producer.epoch = (from / 1_000_000) as u64;
    let mut own = (*envelope.host).clone();
    own.id = Some(id);
    own.name = format!("node-{number:03}.example");
    own.boot_id = format!("{}-0000-4000-8000-{}", random.hex(8), random.hex(12));
    envelope.host = Arc::new(own);
    let processes = (0..12)
        .map(|place| {
            let mut envelope = envelope.clone();
            let Body::Usage(usage) = &mut envelope.body else {
                unreachable!()
            };
            let mut principal = (*usage.principal).clone();
            let process = &mut principal.process;
            let program = *random.pick(&PROGRAMS);
            process.pid = 1_000 + random.below(60_000) as u32;
            process.parent_pid = Some(1);
            process.creation.time =
                Time::from_unix_nanos((from - random.below(1 << 50) as i64).into());
            process.executable.path = Some(program.to_owned());
            process.command_args = Some(vec![
                program.to_owned(),
                "--config".into(),
                format!("/etc/app{place}.toml"),
            ]);
            process.real_user.id = 1_000 + place;
            process.real_user.name = Some(format!("app{place}"));
            process.linux.cgroup = Some(format!("/system.slice/app{place}.service"));
            process.linux.cgroup_id = 4_000 + random.below(9_000);
            process.ancestors.truncate(2);
            if let Some(thread) = &mut usage.thread {
                thread.id = process.pid + random.below(8) as u32;
            }
            usage.principal = Arc::new(principal);
            let local = usage.network.local.as_mut().unwrap();
            local.address = format!("10.1.{}.{}", number / 200, number % 200 + 1);
            Process {
                envelope,
                port: 0,
                requests: 0,
            }
        })
        .collect();
    Host {
        sequence: 0,
        processes,
    }
}
