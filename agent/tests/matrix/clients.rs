//! Every client against nginx over cleartext, TLS 1.2 and TLS 1.3; curl against every server, over IPv6, as another
//! user, through a gateway, with every cipher suite.

use crate::support::agent::Agent;
use crate::support::clients::{CLIENTS, CURL, Client, Errand, Ran, run};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, LATE, Side, Who, stop, unread_in};
use crate::support::lab::Lab;
use crate::support::process::Place;
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::servers::{self, Server, Target, Wire};
use crate::support::token::Shape;
use crate::support::{brief, known, nginx, say, turn};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;

/// What cells of clients share.
pub struct Stage<'a> {
    pub lab: &'a Lab,
    pub cells: Cells,
    pub expected: Expectations,
    number: usize,
}

/// One cell: a client, told to reach a listener of a server.
struct Cell<'a> {
    name: String,
    client: &'a Client,
    server: &'a Server,
    target: Target,
    place: Place,
    /// Further arguments of the client.
    args: &'a [&'a str],
    /// The listener speaks HTTP/2 to whom it suits.
    offers_http2: bool,
}

impl<'a> Stage<'a> {
    pub fn new(lab: &'a Lab, test: &'static str) -> Self {
        Self {
            lab,
            cells: Cells::new(test),
            expected: Expectations::default(),
            number: 0,
        }
    }

    fn errand(&mut self, cell: &Cell) -> (Errand<'a>, Shape) {
        self.number += 1;
        let shape = Shape::nth(self.number);
        let errand = Errand {
            lab: self.lab,
            target: cell.target.clone(),
            path: self.lab.cell_path(&cell.name),
            credential: shape.generate(),
        };
        (errand, shape)
    }

    /// Runs the client; what it made is expected, what it did not make is a failure of the cell.
    fn cell(&mut self, cell: Cell) {
        let (errand, shape) = self.errand(&cell);
        let (client, server, wire) = (cell.client.name, cell.server.name, cell.target.wire);
        let about = |http2| Tried::both(client, server, wire, http2, Trial::One);
        let mut call = match cell.client.call(&errand) {
            Ok(call) => call,
            Err(missing) => {
                self.cells.about(&cell.name, about(cell.offers_http2));
                return self.cells.skip(&cell.name, &format!("{missing:#}"));
            }
        };
        call.spec = call.spec.args(cell.args.iter().copied());
        let made =
            run(call, &errand, &cell.place).and_then(|ran| expect(&cell, &errand, shape, &ran));
        let spoken = match &made {
            Ok(expected) => expected.iter().any(|one| one.http == Some("2")),
            Err(_) => cell.offers_http2,
        };
        self.cells.about(&cell.name, about(spoken));
        match made {
            Ok(expected) => self.expected.add(expected),
            Err(error) => self.cells.check(&cell.name, Err(error)),
        }
    }
}

/// Clients whose TLS code is in files that the agent meets only when they run.
const OWN_FILES: [&str; 17] = [
    "curl_cffi",
    "cryptography",
    "psycopg2",
    "node-fetch",
    "bun-fetch",
    "go",
    "go-1.20",
    "deno-fetch",
    "uv",
    "primp",
    "impit",
    "node-16",
    "chromium",
    "reqwest",
    "reqwest-aws-lc",
    "sentry-cli",
    "workerd",
];

/// One for each form of TLS code: OpenSSL, GnuTLS, Go, rustls with either of its cryptographies; and curl with each
/// carrier. A machine that is many times slower has no time for the others.
const OF_EACH_FORM: [&str; 9] = [
    "curl",
    "curl-key-header",
    "curl-query",
    "curl-basic",
    "wget",
    "requests",
    "go",
    "reqwest",
    "reqwest-aws-lc",
];

/// Why a client is left out here, if it is.
pub fn left_out(client: &Client) -> Option<&'static str> {
    (brief() && !OF_EACH_FORM.contains(&client.name))
        .then_some("this machine is slow, and others stand for its TLS code")
}

/// One request by each client with TLS code of its own: the first handshake of a file may be over before the file is
/// known, the second must be read. Gives what the first ones would have been.
pub fn first_handshakes(stage: &mut Stage, web: &Server, agent: &Agent) -> Vec<Expected> {
    let mut first = Vec::new();
    for own in OWN_FILES {
        let Some(client) = CLIENTS
            .iter()
            .find(|client| client.name == own && left_out(client).is_none())
        else {
            continue;
        };
        let name = format!("first-{}", client.name);
        let target = web.target(Wire::Tls13);
        let cell = Cell {
            name,
            client,
            server: web,
            target,
            place: stage.lab.inside(),
            args: &[],
            offers_http2: false,
        };
        let (errand, shape) = stage.errand(&cell);
        let made = client
            .run(&errand, &cell.place)
            .and_then(|ran| expect(&cell, &errand, shape, &ran));
        if let Ok(made) = made {
            stage.expected.whatever(&errand.credential);
            first.extend(made.into_iter().filter(|one| one.side == Side::Client));
        }
    }
    known::settled(agent);
    first
}

/// A measure, and no test: how many of the first handshakes were read.
fn tell_share(first: &[Expected], fingerprints: &[String], events: &[Event]) {
    let is_read = |(one, fingerprint): &(&Expected, &String)| {
        events.iter().any(|event| one.is_about(fingerprint, event))
    };
    let read = first.iter().zip(fingerprints).filter(is_read).count();
    say(&format!(
        "clients: {read} of {} first handshakes of files never met were read",
        first.len()
    ));
}

/// Read, or listed: the program was quicker than the agent, or ended before its files were searched.
fn read_or_late(first: &Expected, fingerprint: &str, events: &[Event]) -> Result<()> {
    if events
        .iter()
        .any(|event| first.is_about(fingerprint, event))
    {
        return Ok(());
    }
    let (local, peer) = first.ends.context("its ends")?;
    unread_in(events, local, peer, &LATE).map(drop)
}

/// Both ends' events, and that curl and the server agree about the socket.
fn expect(cell: &Cell, errand: &Errand, shape: Shape, ran: &Ran) -> Result<Vec<Expected>> {
    ensure!(
        ran.status == 200,
        "the client got the status {}",
        ran.status
    );
    let facts = cell
        .server
        .facts(&ran.call.path, |fact| fact.status == 200)?;
    let fact = facts.first().context("a fact")?;
    ensure!(
        fact.tls == cell.target.wire.version(),
        "{} was spoken",
        fact.tls
    );
    if cell.client.name.starts_with("curl") {
        let ends = curl_ends(ran);
        if ends.is_some() {
            ensure!(
                ends == fact.remote().zip(fact.local()),
                "curl says {ends:?}, the server {fact:?}"
            );
        }
    }
    let mut both = Expected::both(&cell.name, &errand.credential, fact, cell.server, ran);
    for one in &mut both {
        one.provider = shape.provider();
        if let (Side::Client, Some(user)) = (one.side, cell.place.user) {
            one.user = user;
        }
    }
    Ok(both)
}

/// curl's own word for both ends.
fn curl_ends(ran: &Ran) -> Option<(SocketAddr, SocketAddr)> {
    let words: Vec<_> = ran.stdout.last()?.split_whitespace().collect();
    let end = |ip: &str, port: &str| Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
    Some((
        end(words.get(1)?, words.get(2)?)?,
        end(words.get(3)?, words.get(4)?)?,
    ))
}

const NOBODY: u32 = 65534;

#[test]
fn clients() {
    let Some(_turn) = turn("clients") else { return };
    let lab = Lab::new("clients").unwrap();
    // nginx is found as a running process, the Python servers when they start.
    let python_before = servers::python(&lab, &lab.inside()).unwrap();
    let upstream = python_before.target(Wire::Clear).address;
    let web = nginx::start(&lab, &lab.inside(), Some(upstream)).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    known::usual(&agent, &lab).unwrap();
    let aiohttp = servers::aiohttp(&lab, &lab.inside());
    let go = servers::go(&lab, &lab.inside());
    let ring = servers::rust(&lab, &lab.inside());
    let aws_lc = servers::rust_aws_lc(&lab, &lab.inside());
    let mut stage = Stage::new(&lab, "clients");

    let first = first_handshakes(&mut stage, &web, &agent);
    for client in &CLIENTS {
        if let Some(reason) = left_out(client) {
            stage.cells.skip(client.name, reason);
            continue;
        }
        for wire in Wire::ALL.into_iter().filter(|wire| client.speaks(*wire)) {
            let name = format!("{}-{}", client.name, wire.name());
            if brief() && !wire.is_tls() && !client.name.starts_with("curl") {
                let reason = "cleartext is the same whoever writes it, and this machine is slow";
                stage.cells.skip(&name, reason);
                continue;
            }
            stage.cell(Cell {
                name,
                client,
                server: &web,
                target: web.target(wire),
                place: lab.inside(),
                args: &[],
                offers_http2: false,
            });
        }
    }
    // Who offers HTTP/2 gets it.
    for client in CLIENTS
        .iter()
        .filter(|client| client.speaks(Wire::Tls13) && client.name != "git")
        .filter(|client| left_out(client).is_none())
    {
        stage.cell(Cell {
            name: format!("{}-alpn", client.name),
            client,
            server: &web,
            target: web.listener("h2", Wire::Tls13),
            place: lab.inside(),
            args: &[],
            offers_http2: true,
        });
    }
    for wire in Wire::ALL {
        for (name, server) in [
            ("python", Ok(&python_before)),
            ("aiohttp", aiohttp.as_ref()),
            ("go", go.as_ref()),
            ("rust", ring.as_ref()),
            ("rust-aws-lc", aws_lc.as_ref()),
        ] {
            let server = match server {
                Ok(server) => server,
                Err(missing) => {
                    let name = format!("curl-to-{name}-{}", wire.name());
                    stage.cells.skip(&name, &format!("{missing:#}"));
                    continue;
                }
            };
            let name = format!("curl-to-{}-{}", server.name, wire.name());
            let target = server.target(wire);
            stage.cell(Cell {
                name,
                client: &CURL,
                server,
                target,
                place: lab.inside(),
                args: &[],
                offers_http2: false,
            });
        }
        let name = format!("curl-v6-{}", wire.name());
        let target = web.target_v6(wire);
        stage.cell(Cell {
            name,
            client: &CURL,
            server: &web,
            target,
            place: lab.inside(),
            args: &[],
            offers_http2: false,
        });
        let name = format!("curl-as-nobody-{}", wire.name());
        let target = web.target(wire);
        stage.cell(Cell {
            name,
            client: &CURL,
            server: &web,
            target,
            place: lab.inside_as(NOBODY),
            args: &[],
            offers_http2: false,
        });
    }
    suites(&mut stage, &web);
    let gateway = through_gateway(&mut stage, &web, &python_before);
    if let Err(error) = gateway {
        stage.cells.check("gateway", Err(error));
    }

    let Stage {
        mut cells,
        expected,
        ..
    } = stage;
    expected.check(&mut agent, &mut cells).unwrap();
    cells.check("query-redacted", query_redacted(&agent.events));
    cells.check("arguments-redacted", arguments_redacted(&agent.events));
    expected.no_strangers(&agent, &mut cells).unwrap();
    let fingerprints: Vec<_> = first
        .iter()
        .map(|one| agent.fingerprint(&one.credential).unwrap())
        .collect();
    if let Some(stopped) = stop(agent, &mut cells) {
        tell_share(&first, &fingerprints, &stopped.events);
        for (one, fingerprint) in first.iter().zip(fingerprints) {
            cells.check(&one.cell, read_or_late(one, &fingerprint, &stopped.events));
        }
    }
    cells.finish();
}

/// Every cipher suite that is read, a handshake that begins anew, and one suite that is not read is in `unread`.
fn suites(stage: &mut Stage, web: &Server) {
    let table: [(&str, Wire, &str, &[&str]); 6] = [
        (
            "suite-12-aes128",
            Wire::Tls12,
            "tls12",
            &["--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"],
        ),
        (
            "suite-12-aes256",
            Wire::Tls12,
            "tls12",
            &["--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"],
        ),
        (
            "suite-12-chacha",
            Wire::Tls12,
            "tls12",
            &["--ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        ),
        (
            "suite-13-aes128",
            Wire::Tls13,
            "tls13",
            &["--tls13-ciphers", "TLS_AES_128_GCM_SHA256"],
        ),
        (
            "suite-13-chacha",
            Wire::Tls13,
            "tls13",
            &["--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"],
        ),
        ("hello-retry", Wire::Tls13, "hrr", &[]),
    ];
    for (name, wire, listener, args) in table {
        let (target, place) = (web.listener(listener, wire), stage.lab.inside());
        stage.cell(Cell {
            name: name.into(),
            client: &CURL,
            server: web,
            target,
            place,
            args,
            offers_http2: false,
        });
    }
}

/// curl to nginx over TLS, nginx to the Python server in cleartext: nginx is a server and a client, in one credential.
fn through_gateway(stage: &mut Stage, web: &Server, behind: &Server) -> Result<()> {
    let path = stage.lab.cell_path("gateway");
    let errand = Errand {
        lab: stage.lab,
        target: web.target(Wire::Tls13),
        path: format!("/gateway{path}"),
        credential: Shape::GitHub.generate(),
    };
    let ran = CURL.run(&errand, &stage.lab.inside())?;
    let (front, back) = (web.fact(&ran.call.path)?, behind.fact(&path)?);
    stage.expected.add(Expected::both(
        "gateway",
        &errand.credential,
        &front,
        web,
        &ran,
    ));
    let mut passing = Expected::client(
        "gateway-behind",
        &errand.credential,
        &back,
        Who::Is(front.pid),
        web.executable.clone(),
    );
    passing.user = web.user;
    stage.expected.add([
        passing,
        Expected::server("gateway-behind", &errand.credential, &back, behind),
    ]);
    Ok(())
}

/// The credential in a query is replaced, the rest of the query is not.
fn query_redacted(events: &[Event]) -> Result<()> {
    let queries: Vec<_> = events
        .iter()
        .filter(|event| event.carrier() == Some("query:access_token"))
        .collect();
    ensure!(
        !queries.is_empty(),
        "no event has the carrier query:access_token"
    );
    for event in queries {
        ensure!(
            event.query() == Some("page=2&access_token={secret}"),
            "the query is {:?}",
            event.query()
        );
    }
    Ok(())
}

/// curl was given its credential as an argument: its arguments are recorded without it.
fn arguments_redacted(events: &[Event]) -> Result<()> {
    let of_curl = |event: &&Event| event.is_usage() && event.executable() == Some("/usr/bin/curl");
    let event = events.iter().find(of_curl).context("no event of curl")?;
    ensure!(
        event.command_args().contains(&"-sS"),
        "arguments are {:?}",
        event.command_args()
    );
    Ok(())
}
