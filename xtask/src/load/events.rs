//! Events, one after another, in the order of their times.

use super::fleet::{Client, Credential, Fleet, Machine, Replica};
use super::random::{Random, mixed};
use super::services::{SERVICES, Service};
use super::shape::Shape;
use agent_common::event::{
    Body, Envelope, Exchange, SocketEvidence, Time, Tls, TlsClient, TlsProtocol, Usage,
};
use serde_json::json;

/// Different values of an `{id}`.
const IDS: usize = 5_000;
/// Requests of a connection, at most.
const KEPT_ALIVE: usize = 60;

/// One event, as its agent would give it away.
pub struct Made<'a> {
    /// The number of its host.
    pub host: usize,
    pub event: &'a Envelope,
}

/// The events of a load.
pub struct Events {
    random: Random,
    fleet: Fleet,
    left: u64,
    now: i64,
    step: f64,
    /// The other end of the exchange before this one.
    answer: Option<Answer>,
}

/// What a server's end of an exchange has of the client's.
struct Answer {
    host: usize,
    process: usize,
    time: i64,
    client: (usize, usize),
}

impl Events {
    pub fn new(seed: u64, shape: &Shape) -> Self {
        let mut random = Random::new(seed);
        let fleet = Fleet::new(&mut random, shape, shape.from);
        Self {
            random,
            fleet,
            left: shape.events,
            now: shape.from,
            step: shape.span as f64 / shape.events.max(1) as f64,
            answer: None,
        }
    }

    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Leaves out the first ones, and stops after so many. They are the same ones all the same.
    pub fn only(&mut self, skip: u64, take: Option<u64>) {
        for _ in 0..skip {
            self.next();
        }
        self.left = self.left.min(take.unwrap_or(u64::MAX));
    }

    /// The next one, until there are as many as the shape says.
    pub fn next(&mut self) -> Option<Made<'_>> {
        self.left = self.left.checked_sub(1)?;
        // Spread over all events, those of servers included.
        self.now += 1 + self.random.exponential(self.step) as i64;
        match self.answer.take() {
            Some(answer) => Some(self.answered(&answer)),
            None => Some(self.asked()),
        }
    }

    /// A client's end.
    fn asked(&mut self) -> Made<'_> {
        let random = &mut self.random;
        let at = random.zipf(self.fleet.credentials.len());
        let credential = &mut self.fleet.credentials[at];
        let user = random.index(credential.users.len());
        let service = &SERVICES[credential.service];
        let replicas = &self.fleet.replicas[credential.service];
        let status = status(random, credential.revoked);
        let Client {
            host,
            process,
            connection,
        } = &mut credential.users[user];
        let (host, process) = (*host, *process);
        let machine = &mut self.fleet.hosts[host];
        if connection.left == 0 {
            connection.left = 1 + random.zipf(KEPT_ALIVE);
            connection.port = 32_768 + random.below(28_232) as u16;
            connection.place = random.next() as u32;
            connection.replica = random.index(replicas.len());
            let ends = (host as u64) << 32 | u64::from(connection.port) << 8 | at as u64 & 0xff;
            connection.id = mixed(ends ^ mixed(connection.replica as u64)).to_be_bytes();
        }
        connection.left -= 1;
        let place = connection.place;
        connection.place = place.wrapping_add(180 + random.below(700) as u32);
        let connection = *connection;
        let replica = &replicas[connection.replica];
        let Credential {
            fingerprint, name, ..
        } = &*credential;
        let event = &mut machine.processes[process];
        machine.sequence += 1;
        event.producer.sequence = machine.sequence;
        event.time = time(self.now);
        let took = 300_000.0 + random.exponential(45e6);
        event.observed_time = time(self.now + took as i64);
        if let Body::Usage(usage) = &mut event.body {
            usage.exchange.id = Exchange::name(connection.id, place, 0);
            usage.token.fingerprints.clear();
            usage.token.fingerprints.push(fingerprint.clone());
            speak(usage, service, replica, connection.port);
            ask(usage, service, name, random);
            if let Some(response) = &mut usage.http.response {
                response.status_code = status;
            }
        }
        if let Some((server, worker)) = replica.watched {
            self.answer = Some(Answer {
                host: server,
                process: worker,
                time: self.now + 120_000 + random.below(400_000) as i64,
                client: (host, process),
            });
        }
        Made {
            host,
            event: &self.fleet.hosts[host].processes[process],
        }
    }

    /// The server's end of the same exchange.
    fn answered(&mut self, answer: &Answer) -> Made<'_> {
        let &Answer {
            host,
            process,
            time: at,
            client,
        } = answer;
        let Body::Usage(asked) = self.fleet.hosts[client.0].processes[client.1].body.clone() else {
            unreachable!("processes have usage events")
        };
        let machine: &mut Machine = &mut self.fleet.hosts[host];
        machine.sequence += 1;
        let event = &mut machine.processes[process];
        event.producer.sequence = machine.sequence;
        // Both are of one moment, by two clocks.
        self.now = self.now.max(at);
        event.time = time(self.now);
        event.observed_time = time(self.now + 200_000 + self.random.exponential(30e6) as i64);
        if let Body::Usage(usage) = &mut event.body {
            let asked = *asked;
            usage.exchange = asked.exchange;
            usage.network.local = asked.network.peer;
            usage.network.peer = asked.network.local;
            usage.server = asked.server;
            usage.client = asked.client;
            usage.tls = asked.tls;
            usage.http = asked.http;
            usage.url = asked.url;
            usage.user_agent = asked.user_agent;
            usage.token = asked.token;
            usage.evidence.socket = asked.evidence.socket;
            usage.evidence.provider = asked.evidence.provider;
        }
        Made {
            host,
            event: &self.fleet.hosts[host].processes[process],
        }
    }
}

fn time(nanos: i64) -> Time {
    Time::from_unix_nanos(nanos.into())
}

/// Mostly success. Who uses a revoked credential is refused, and tries again.
fn status(random: &mut Random, revoked: bool) -> u16 {
    if revoked {
        return if random.below(10) < 9 { 401 } else { 403 };
    }
    match random.below(1_000) {
        0..=899 => 200,
        900..=939 => 201,
        940..=954 => 204,
        955..=979 => 404,
        980..=984 => 429,
        985..=989 => 403,
        990..=993 => 401,
        994..=997 => 500,
        _ => 503,
    }
}

/// Addresses, and what is said to set up.
fn speak(usage: &mut Usage, service: &Service, replica: &Replica, port: u16) {
    let set = |text: &mut String, to: &str| {
        text.clear();
        text.push_str(to);
    };
    if let Some(local) = &mut usage.network.local {
        local.port = Some(port);
    }
    if let Some(client) = &mut usage.client {
        client.port = Some(port);
    }
    if let Some(peer) = &mut usage.network.peer {
        set(&mut peer.address, &replica.address);
        peer.port = Some(service.port);
    }
    set(&mut usage.server.address, service.address);
    usage.server.port = Some(service.port);
    if service.cleartext {
        usage.tls = None;
        usage.evidence.socket = SocketEvidence::Socket;
        set(&mut usage.url.scheme, "http");
        return;
    }
    usage.evidence.socket = SocketEvidence::Record;
    set(&mut usage.url.scheme, "https");
    let tls = usage.tls.get_or_insert_with(|| Tls {
        protocol: Some(TlsProtocol {
            name: "tls".to_owned(),
            version: "1.3".to_owned(),
        }),
        cipher: Some("TLS_AES_256_GCM_SHA384".to_owned()),
        next_protocol: Some("http/1.1".to_owned()),
        client: Some(TlsClient {
            server_name: String::new(),
        }),
        resumed: Some(false),
    });
    if let Some(client) = &mut tls.client {
        set(&mut client.server_name, service.address);
    }
}

/// Request and credential.
fn ask(usage: &mut Usage, service: &Service, name: &str, random: &mut Random) {
    let (method, template) = service.operations[random.zipf(service.operations.len())];
    usage.http.request.method = method.to_owned();
    let path = &mut usage.url.path;
    path.clear();
    for (place, part) in template.split("{id}").enumerate() {
        if place > 0 {
            *path += &(1_000 + random.zipf(IDS)).to_string();
        }
        *path += part;
    }
    usage.url.template = Some(template.to_owned());
    usage.evidence.provider = service.evidence;
    let token = &mut usage.token;
    token.provider = service.provider.map(str::to_owned);
    token.class = service.class.map(str::to_owned);
    token.scheme = service.scheme.to_owned();
    token.carrier = service.carrier.to_owned();
    token.user = (service.scheme == "Basic").then(|| name.to_owned());
    token.public.clear();
    if service.provider == Some("jwt") {
        let issuer = "https://issuer.internal.example";
        token.public.insert("iss".to_owned(), json!(issuer));
        token.public.insert("sub".to_owned(), json!(name));
    }
}
