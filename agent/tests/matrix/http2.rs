//! HTTP/2 by real programs over cleartext and TLS: one request, many streams of a connection one after the other and at
//! once. Both ends of every exchange.

use crate::support::agent::Agent;
use crate::support::clients::{CURL, Errand, run};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, stop};
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::scenario::{Request, Script, both_sides, request, requests};
use crate::support::servers::{Server, Wire};
use crate::support::token::Shape;
use crate::support::{nginx, pause, repeat, turn};
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
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    // The first handshake of a file may be over before the file is known.
    let first = requests(&lab, "first", 1);
    expected.whatever(&first[0].credential);
    node(&lab, &web, &WAYS[2], "concurrent", &first).unwrap();
    pause(2);

    for way in &WAYS {
        let (wire, listener, options, _) = *way;
        let name = wire.name();
        let cell = format!("curl-{name}");
        match curl(&lab, &web, wire, listener, options, &cell) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&cell, Err(error)),
        }
        for (scenario, count) in [("sequential", repeat(200)), ("concurrent", 20)] {
            let asked = requests(&lab, &format!("{scenario}-{name}"), count);
            let made = node(&lab, &web, way, scenario, &asked);
            match made {
                Ok(both) => expected.add(both),
                Err(error) => cells.check(&format!("{scenario}-{name}"), Err(error)),
            }
        }
    }
    expected.check(&mut agent, &mut cells).unwrap();
    cells.check("version", all_are_http2(&agent.events));
    expected.no_strangers(&agent, &mut cells).unwrap();
    stop(agent, &mut cells);
    cells.finish();
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
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    let first = requests(&lab, "first", 1);
    expected.whatever(&first[0].credential);
    node(&lab, &web, &WAYS[2], "concurrent", &first).unwrap();
    pause(2);

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
    // 24 MB.
    let asked = with_bodies(&lab, "over", 12, json!({"suffix": "/big"}), 1);
    match node(&lab, &web, &WAYS[2], "sequential", &asked) {
        Ok(both) => expected.add(both),
        Err(error) => cells.check("over", Err(error)),
    }
    expected.check(&mut agent, &mut cells).unwrap();
    expected.no_strangers(&agent, &mut cells).unwrap();
    let Some(stopped) = stop(agent, &mut cells) else {
        return cells.finish();
    };
    cells.check("whole", are_whole(&stopped.events, &connections));
    cells.check("counted", is_counted(&stopped.events));
    cells.finish();
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
    let script = Script::node(lab, scenario)?;
    let executable = script.executable();
    let done = script
        .target(&web.listener(listener, *wire))
        .requests(asked)
        .with("max_version", *highest)
        .run(&lab.inside())?;
    both_sides(&done, asked, web, &executable)
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
