//! HTTP/2 by real programs over cleartext and TLS: one request, many streams of a connection one after the other and at
//! once. Both ends of every exchange.

use crate::support::agent::Agent;
use crate::support::clients::{CURL, Errand, REQWEST, run};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, Side, Who, conclude, stop};
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec, run as run_program};
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::scenario::{Request, over_http2, request, requests};
use crate::support::servers::{self, Fact, Server, Wire};
use crate::support::token::{self, Shape};
use crate::support::{brief, fixtures, known, nginx, repeat, turn};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// By which listener of nginx, and by which options of curl and which highest version node reaches it.
type Way = (
    Wire,
    &'static str,
    &'static [&'static str],
    Option<&'static str>,
);

const WAYS: [Way; 3] = [
    (Wire::Clear, "h2_clear", &["--http2-prior-knowledge"], None),
    (
        Wire::Tls12,
        "h2",
        &["--http2", "--tls-max", "1.2"],
        Some("TLSv1.2"),
    ),
    (Wire::Tls13, "h2", &["--http2"], None),
];

#[test]
fn http2() {
    let Some(_turn) = turn("http2") else { return };
    let lab = Lab::new("http2").unwrap();
    let mut cells = Cells::new("http2");
    let mut expected = Expectations::default();
    let (web, mut agent) = ready(&lab, &mut expected).unwrap();

    for way in &WAYS {
        let (wire, listener, options, _) = *way;
        let name = wire.name();
        let cell = format!("curl-{name}");
        cells.about(&cell, Tried::both("curl", "nginx", wire, true, Trial::One));
        match curl(&lab, &web, wire, listener, options, &cell) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&cell, Err(error)),
        }
        for (scenario, trial, count) in [
            ("sequential", Trial::InARow(repeat(200)), repeat(200)),
            ("concurrent", Trial::AtOnce(20), 20),
        ] {
            cells.about(
                &format!("{scenario}-{name}"),
                Tried::both("node", "nginx", wire, true, trial),
            );
            let asked = requests(&lab, &format!("{scenario}-{name}"), count);
            let made = node(&lab, &web, way, scenario, &asked);
            match made {
                Ok(both) => expected.add(both),
                Err(error) => cells.check(&format!("{scenario}-{name}"), Err(error)),
            }
        }
    }
    rust(&lab, &web, &agent, &mut cells, &mut expected);
    expected.check(&mut agent, &mut cells).unwrap();
    cells.check("version", all_are_http2(&agent.events));
    expected.no_strangers(&agent, &mut cells).unwrap();
    stop(agent, &mut cells);
    cells.finish();
}

/// reqwest and hyper over rustls: as a client of nginx, and as a server of curl and node.
fn rust(lab: &Lab, web: &Server, agent: &Agent, cells: &mut Cells, expected: &mut Expectations) {
    let server = match servers::rust(lab, &lab.inside()) {
        Ok(server) => server,
        Err(missing) => return cells.skip("rust", &format!("{missing:#}")),
    };
    // The first handshake of its file may be over before the file is known.
    match reqwest(lab, web, Wire::Tls13, "reqwest-first") {
        Ok(both) => both
            .iter()
            .for_each(|one| expected.whatever(&one.credential)),
        Err(error) => cells.check("reqwest-first", Err(error)),
    }
    known::settled(agent);
    for wire in [Wire::Tls12, Wire::Tls13] {
        let cell = format!("reqwest-{}", wire.name());
        cells.about(
            &cell,
            Tried::both("reqwest", "nginx", wire, true, Trial::One),
        );
        match reqwest(lab, web, wire, &cell) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&cell, Err(error)),
        }
    }
    let tried = |client, trial| Tried::both(client, "rust", Wire::Tls13, true, trial);
    cells.about("curl-to-rust", tried("curl", Trial::One));
    cells.about("concurrent-to-rust", tried("node", Trial::AtOnce(20)));
    match curl(
        lab,
        &server,
        Wire::Tls13,
        "h2",
        &["--http2"],
        "curl-to-rust",
    ) {
        Ok(both) => expected.add(both),
        Err(error) => cells.check("curl-to-rust", Err(error)),
    }
    let asked = requests(lab, "concurrent-to-rust", 20);
    match node(lab, &server, &WAYS[2], "concurrent", &asked) {
        Ok(both) => expected.add(both),
        Err(error) => cells.check("concurrent-to-rust", Err(error)),
    }
}

fn reqwest(lab: &Lab, web: &Server, wire: Wire, cell: &str) -> Result<Vec<Expected>> {
    let errand = Errand {
        lab,
        target: web.listener("h2", wire),
        path: lab.cell_path(cell),
        credential: Shape::GitHub.generate(),
    };
    let ran = REQWEST.run(&errand, &lab.inside())?;
    ensure!(ran.status == 200, "status {}", ran.status);
    let fact = web.fact(&errand.path)?;
    ensure!(fact.tls == wire.version(), "{} was spoken", fact.tls);
    Ok(Expected::both(cell, &errand.credential, &fact, web, &ran))
}

/// nginx, and an agent that knows node's file: its first handshake may be over before the file is known.
fn ready(lab: &Lab, expected: &mut Expectations) -> Result<(Server, Agent)> {
    let web = nginx::start(lab, &lab.inside(), None)?;
    let agent = Agent::start(lab)?;
    let first = requests(lab, "first", 1);
    expected.whatever(&first[0].credential);
    known::usual(&agent, lab)?;
    node(lab, &web, &WAYS[2], "concurrent", &first)?;
    known::settled(&agent);
    Ok((web, agent))
}

/// Bodies beside heads: what follows the body of another stream in the same direction is read, until a connection has
/// moved more in a second than is copied of one; that is counted, and what comes after it is read again.
#[test]
fn http2_bodies() {
    let Some(_turn) = turn("http2_bodies") else {
        return;
    };
    let lab = Lab::new("http2_bodies").unwrap();
    let mut cells = Cells::new("http2_bodies");
    let mut expected = Expectations::default();
    let (web, mut agent) = ready(&lab, &mut expected).unwrap();

    let mut connections = Vec::new();
    for way in [&WAYS[0], &WAYS[2]] {
        let name = way.0.name();
        for (cell, asked) in [
            // 800 KiB of answers.
            (
                format!("down-{name}"),
                with_bodies(
                    &lab,
                    &format!("down-{name}"),
                    20,
                    json!({"suffix": "/medium"}),
                    1,
                ),
            ),
            // 600,000 bytes of requests.
            (
                format!("up-{name}"),
                with_bodies(&lab, &format!("up-{name}"), 10, json!({"form": "large"}), 5),
            ),
        ] {
            match node(&lab, &web, way, "warm", &asked) {
                Ok(both) => {
                    connections.extend(both.iter().filter_map(|one| one.ends));
                    expected.add(both);
                }
                Err(error) => cells.check(&cell, Err(error)),
            }
        }
    }
    // 27 MB as quick as it goes, and 14 MB in as many seconds as the budget has to be renewed for.
    for (cell, count, suffix) in [("over", 12, "/big"), ("over-slowly", 6, "/slow")] {
        if brief() {
            cells.skip(
                cell,
                "an agent that is this slow loses calls of so many bytes",
            );
            continue;
        }
        let asked = with_bodies(&lab, cell, count, json!({ "suffix": suffix }), 1);
        match node(&lab, &web, &WAYS[2], "sequential", &asked) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(cell, Err(error)),
        }
    }
    expected.check(&mut agent, &mut cells).unwrap();
    expected.no_strangers(&agent, &mut cells).unwrap();
    let Some(stopped) = stop(agent, &mut cells) else {
        return cells.finish();
    };
    cells.check("whole", are_whole(&stopped.events, &connections));
    if !brief() {
        cells.check("counted", is_counted(&stopped.events));
    }
    cells.finish();
}

/// libcurl through a proxy that it speaks HTTP/2 with, over TLS, to nginx over TLS: what is in the tunnel, and what asked
/// for it.
#[test]
fn http2_tunnel() {
    let Some(_turn) = turn("http2_tunnel") else {
        return;
    };
    let lab = Lab::new("http2_tunnel").unwrap();
    let mut cells = Cells::new("http2_tunnel");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let agent = Agent::start(&lab).unwrap();
    // The first handshake of a file may be over before the file is known.
    for first in [true, false] {
        match through_proxy(&lab, &web, if first { "first" } else { "tunnel" }) {
            Ok(all) if first => all
                .iter()
                .for_each(|one| expected.whatever(&one.credential)),
            Ok(all) => expected.add(all),
            Err(error) => cells.check("tunnel", Err(error)),
        }
        known::settled(&agent);
    }
    conclude(&expected, agent, cells);
}

fn through_proxy(lab: &Lab, web: &Server, cell: &str) -> Result<Vec<Expected>> {
    let proxy_spec = Spec::new(fixtures::system("/usr/bin/node")?)
        .arg(lab.path("proxy_http2.mjs"))
        .stdin(format!(
            "{}\n",
            json!({"certificate": lab.certificate(), "key": lab.private_key()})
        ));
    let mut proxy = Program::start(&proxy_spec, &lab.inside())?;
    let port = proxy.line()?;
    let path = lab.cell_path(cell);
    let (inside, outside) = (token::opaque(), token::opaque());
    let plan = json!({
        "url": web.target(Wire::Tls13).url(&path), "ca": lab.certificate(), "credential": inside,
        "proxy": format!("https://127.0.0.1:{port}"), "proxy_credential": outside,
    });
    let client = Spec::new(fixtures::venv_python()?)
        .arg(lab.path("client_pycurl.py"))
        .stdin(plan.to_string());
    let (pid, said) = run_program(&client, &lab.inside())?;
    ensure!(said.iter().any(|line| line.starts_with("200 ")), "{said:?}");
    let asked: Fact = serde_json::from_str(&proxy.line()?)?;
    let fact = web.fact(&path)?;
    let mut through = Expected::client(cell, &inside, &fact, Who::Is(pid), client.executable());
    through.ends = asked.remote().zip(asked.local());
    let mut asking = Expected::client(cell, &outside, &asked, Who::Is(pid), client.executable());
    let mut answering = asking.clone();
    answering.side = Side::Server;
    answering.who = Who::Is(proxy.pid());
    answering.executable = proxy_spec.executable();
    answering.ends = asked.local().zip(asked.remote());
    for one in [&mut asking, &mut answering] {
        one.cell = format!("{cell}-connect");
        one.carrier = "header:proxy-authorization";
        one.path = String::new();
    }
    // The two sockets are two connections: each end has an exchange of its own.
    let mut answered = Expected::server(cell, &inside, &fact, web);
    answered.cell = format!("{cell}-server");
    Ok(vec![through, asking, answering, answered])
}

/// Requests, the first of every so many with what makes a body.
fn with_bodies(lab: &Lab, name: &str, count: usize, body: Value, every: usize) -> Vec<Request> {
    (0..count)
        .map(|number| {
            let more = if number % every == 0 {
                body.clone()
            } else {
                json!({})
            };
            request(lab, &format!("{name}-{number:02}"), more)
        })
        .collect()
}

/// Nothing of these connections was lost.
fn are_whole(events: &[Event], connections: &[(SocketAddr, SocketAddr)]) -> Result<()> {
    ensure!(!connections.is_empty(), "no connection is known");
    for event in events.iter().filter(|event| event.is_connection_coverage()) {
        let ends = event.local().zip(event.peer());
        ensure!(
            !ends.is_some_and(|ends| connections.contains(&ends)),
            "listed as unread: {}",
            event.brief()
        );
    }
    Ok(())
}

fn is_counted(events: &[Event]) -> Result<()> {
    let losses = events.iter().filter(|event| event.loss_count().is_some());
    let losses: Vec<_> = losses
        .map(|event| (event.loss_reason().unwrap_or_default(), event.loss_count()))
        .collect();
    ensure!(
        losses.iter().any(|(reason, _)| *reason == "over_budget"),
        "nothing was over the budget, but {losses:?}"
    );
    Ok(())
}

/// node, every request a stream of one connection.
fn node(
    lab: &Lab,
    web: &Server,
    (wire, listener, _, highest): &Way,
    scenario: &'static str,
    asked: &[Request],
) -> Result<Vec<Expected>> {
    let target = web.listener(listener, *wire);
    over_http2(lab, web, &target, *highest, scenario, asked)
}

fn curl(
    lab: &Lab,
    web: &Server,
    wire: Wire,
    listener: &str,
    options: &[&str],
    cell: &str,
) -> Result<Vec<Expected>> {
    let errand = Errand {
        lab,
        target: web.listener(listener, wire),
        path: lab.cell_path(cell),
        credential: Shape::GitHub.generate(),
    };
    let mut call = CURL.call(&errand)?;
    call.spec = call.spec.args(options.iter().copied());
    let ran = run(call, &errand, &lab.inside())?;
    ensure!(ran.status == 200, "status {}", ran.status);
    let fact = web.fact(&errand.path)?;
    ensure!(fact.tls == wire.version(), "{} was spoken", fact.tls);
    Ok(Expected::both(cell, &errand.credential, &fact, web, &ran))
}

fn all_are_http2(events: &[Event]) -> Result<()> {
    for event in events.iter().filter(|event| event.is_usage()) {
        let version = event.protocol_version();
        ensure!(version == Some("2"), "an event of HTTP/{version:?}");
    }
    Ok(())
}
