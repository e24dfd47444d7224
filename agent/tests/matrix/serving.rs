//! Web servers that people run, each by its own TLS: one request over every protocol that it speaks, many on one
//! connection. Both ends of every exchange.

use crate::support::agent::Agent;
use crate::support::clients::{CURL, Errand, run};
use crate::support::expect::{Expectations, Expected, conclude};
use crate::support::lab::Lab;
use crate::support::process::Place;
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::scenario::{Request, Script, both_sides, over_http2, request, requests};
use crate::support::servers::{self, Server, Wire};
use crate::support::token::Shape;
use crate::support::web;
use crate::support::{known, nginx, repeat, turn};
use anyhow::{Result, ensure};
use serde_json::json;

/// How curl is to speak, and to which listener.
struct Way {
    name: &'static str,
    listener: &'static str,
    wire: Wire,
    options: &'static [&'static str],
    /// The version that the server is to answer with.
    version: &'static str,
    servers: &'static [&'static str],
}

const EVERY: &[&str] = &[
    "apache",
    "haproxy",
    "uvicorn",
    "hypercorn",
    "granian",
    "deno",
    "go",
    "node",
];
const WITH_HTTP2: &[&str] = &[
    "apache",
    "haproxy",
    "hypercorn",
    "granian",
    "deno",
    "go",
    "node",
];
/// With HTTP/2 in cleartext.
const WITH_H2C: &[&str] = &["apache", "haproxy", "hypercorn", "granian", "deno"];

const WAYS: [Way; 6] = [
    Way {
        name: "http",
        listener: "clear",
        wire: Wire::Clear,
        options: &["--http1.1"],
        version: "1.1",
        servers: EVERY,
    },
    Way {
        name: "tls12",
        listener: "tls",
        wire: Wire::Tls12,
        options: &["--http1.1", "--tls-max", "1.2"],
        version: "1.1",
        servers: EVERY,
    },
    Way {
        name: "tls13",
        listener: "tls",
        wire: Wire::Tls13,
        options: &["--http1.1"],
        version: "1.1",
        servers: EVERY,
    },
    Way {
        name: "h2",
        listener: "tls",
        wire: Wire::Tls13,
        options: &["--http2"],
        version: "2",
        servers: WITH_HTTP2,
    },
    Way {
        name: "h2c",
        listener: "clear",
        wire: Wire::Clear,
        options: &["--http2-prior-knowledge"],
        version: "2",
        servers: WITH_H2C,
    },
    // HTTP/1.1 asks, HTTP/2 answers.
    Way {
        name: "upgrade",
        listener: "clear",
        wire: Wire::Clear,
        options: &["--http2"],
        version: "2",
        servers: &["apache", "hypercorn"],
    },
];

#[test]
fn serving() {
    let Some(_turn) = turn("serving") else { return };
    let lab = Lab::new("serving").unwrap();
    let mut cells = Cells::new("serving");
    let mut expected = Expectations::default();
    let agent = Agent::start(&lab).unwrap();
    known::usual(&agent, &lab).unwrap();
    // The first handshake of a file may be over before the file is known: here that of curl's and node's.
    let first = nginx::start(&lab, &lab.inside(), None).unwrap();
    let asked = requests(&lab, "first", 1);
    expected.whatever(&asked[0].credential);
    node(&lab, &first, "h2", "concurrent", &asked).unwrap();

    for (name, start) in starts() {
        match start(&lab, &lab.inside()) {
            Ok(server) => {
                // And that of the server's.
                known::settled(&agent);
                serve(&lab, &server, &mut cells, &mut expected);
            }
            Err(error) => {
                let tried = Tried::server(name, Wire::Tls13, false, Trial::One);
                cells.about(name, [tried]);
                cells.check(name, Err(error));
            }
        }
    }
    conclude(&expected, agent, cells);
}

type Start = Box<dyn Fn(&Lab, &Place) -> Result<Server>>;

/// Every server of this test, each with listeners `clear` and `tls`.
fn starts() -> Vec<(&'static str, Start)> {
    // Their names for what these tests call `clear` and `tls`.
    let named = |start: fn(&Lab, &Place) -> Result<Server>| -> Start {
        Box::new(move |lab, place| {
            let server = start(lab, place)?;
            Ok(server.also("clear", "http").also("tls", "h2"))
        })
    };
    let webs = web::ALL.iter().map(|web| -> (&'static str, Start) {
        (web.name, Box::new(|lab, place| web.start(lab, place)))
    });
    webs.chain([("go", named(servers::go)), ("node", named(servers::node))])
        .collect()
}

fn serve(lab: &Lab, server: &Server, cells: &mut Cells, expected: &mut Expectations) {
    for way in WAYS.iter().filter(|way| way.servers.contains(&server.name)) {
        let cell = format!("{}-{}", server.name, way.name);
        let http2 = way.version == "2";
        cells.about(
            &cell,
            Tried::both("curl", server.name, way.wire, http2, Trial::One),
        );
        match curl(lab, server, way, &cell) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&cell, Err(error)),
        }
    }
    for (scenario, trial, count) in [
        ("keep_alive", Trial::InARow(repeat(200)), repeat(200)),
        ("concurrent", Trial::AtOnce(20), 20),
    ] {
        let name = format!("{}-old-{scenario}", server.name);
        cells.about(
            &name,
            Tried::both("python", server.name, Wire::Tls13, false, trial),
        );
        let asked = requests(lab, &name, count);
        match python(lab, server, scenario, &asked) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&name, Err(error)),
        }
    }
    if !WITH_HTTP2.contains(&server.name) {
        return;
    }
    for (scenario, trial, count) in [
        ("sequential", Trial::InARow(repeat(200)), repeat(200)),
        ("concurrent", Trial::AtOnce(20), 20),
    ] {
        let name = format!("{}-{scenario}", server.name);
        cells.about(
            &name,
            Tried::both("node", server.name, Wire::Tls13, true, trial),
        );
        let asked = requests(lab, &name, count);
        match node(lab, server, "tls", scenario, &asked) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&name, Err(error)),
        }
    }
    // Of these, the one that speaks RFC 8441.
    if server.name == "hypercorn" {
        let name = "hypercorn-websocket";
        let forms = [
            ("before", json!({})),
            ("itself", json!({"form": "websocket"})),
        ];
        let asked = forms.map(|(which, form)| request(lab, &format!("{name}-{which}"), form));
        match node(lab, server, "tls", "sequential", &asked) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(name, Err(error)),
        }
    }
}

fn curl(lab: &Lab, server: &Server, way: &Way, cell: &str) -> Result<Vec<Expected>> {
    let errand = Errand {
        lab,
        target: server.listener(way.listener, way.wire),
        path: lab.cell_path(cell),
        credential: Shape::GitHub.generate(),
    };
    let mut call = CURL.call(&errand)?;
    call.spec = call.spec.args(way.options.iter().copied());
    call.spec = call
        .spec
        .args(["--write-out", "%{http_code} %{http_version}\n"]);
    let ran = run(call, &errand, &lab.inside())?;
    // A request that asks for another protocol has two lines in some logs.
    let mut facts = server.facts(&errand.path, |fact| fact.status != 101)?;
    ensure!(facts.len() == 1, "{} lines of it", facts.len());
    let mut fact = facts.remove(0);
    fact.tls = way.wire.version().to_owned();
    ensure!(ran.status == fact.status, "status {}", ran.status);
    let spoken = ran.stdout.iter().any(|line| line.ends_with(way.version));
    ensure!(spoken, "another version was spoken: {:?}", ran.stdout);
    Ok(Expected::both(
        cell,
        &errand.credential,
        &fact,
        server,
        &ran,
    ))
}

/// Python's http.client over HTTP/1.1 and TLS 1.3: one connection, or one for each request.
fn python(
    lab: &Lab,
    server: &Server,
    scenario: &'static str,
    asked: &[Request],
) -> Result<Vec<Expected>> {
    let script = Script::new(lab, scenario)?;
    let executable = script.executable();
    let target = server.listener("tls", Wire::Tls13);
    let done = script.target(&target).requests(asked).run(&lab.inside())?;
    let mut both = both_sides(&done, asked, server, &executable)?;
    for one in &mut both {
        one.tls = Wire::Tls13.version().to_owned();
    }
    Ok(both)
}

/// node, every request a stream of one connection over TLS 1.3.
fn node(
    lab: &Lab,
    server: &Server,
    listener: &str,
    scenario: &'static str,
    asked: &[Request],
) -> Result<Vec<Expected>> {
    let target = server.listener(listener, Wire::Tls13);
    let mut both = over_http2(lab, server, &target, None, scenario, asked)?;
    for one in &mut both {
        one.tls = Wire::Tls13.version().to_owned();
    }
    Ok(both)
}
