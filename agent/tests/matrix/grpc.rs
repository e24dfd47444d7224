//! gRPC by grpcio, both ends: what was called, and what came of it, which the HTTP status does not tell.

use crate::support::agent::Agent;
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, Who, stop};
use crate::support::fixtures;
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::servers::{self, Server, Wire};
use crate::support::token::Shape;
use crate::support::{known, repeat, turn};
use anyhow::{Context, Result, ensure};
use serde_json::json;

/// One call, and how it is to end.
struct Call {
    path: String,
    credential: String,
    status: u16,
    /// Rides in `x-api-token-bin`, as bytes, instead of `authorization`.
    binary: bool,
}

#[test]
fn grpc() {
    let Some(_turn) = turn("grpc") else { return };
    let lab = Lab::new("grpc").unwrap();
    let mut cells = Cells::new("grpc");
    if let Err(missing) = fixtures::venv_python() {
        cells.about(
            "grpcio",
            Tried::both("grpc", "grpc", Wire::Tls13, true, Trial::One),
        );
        cells.skip("grpcio", &format!("{missing:#}"));
        return cells.finish();
    }
    let mut expected = Expectations::default();
    let server = servers::grpc(&lab, &lab.inside()).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    // The first handshake of a file may be over before the file is known.
    let first = calls(&lab, "first", Wire::Tls13, 1);
    expected.whatever(&first[0].credential);
    run(&lab, &server, Wire::Tls13, &first, false).unwrap();
    known::settled(&agent);

    let mut made = Vec::new();
    for wire in [Wire::Clear, Wire::Tls13] {
        for (scenario, trial, count) in [
            ("sequential", Trial::InARow(repeat(200)), repeat(200)),
            ("concurrent", Trial::AtOnce(20), 20),
        ] {
            let tried = Tried::both("grpc", "grpc", wire, true, trial);
            cells.about(
                &lab.cell_path(&format!("{scenario}-{}", wire.name())),
                tried.clone(),
            );
            cells.about(&format!("{scenario}-{}", wire.name()), tried);
            let calls = calls(&lab, scenario, wire, count);
            let cell = format!("{scenario}-{}", wire.name());
            match run(&lab, &server, wire, &calls, scenario == "concurrent") {
                Ok(both) => {
                    expected.add(both);
                    made.extend(calls);
                }
                Err(error) => cells.check(&cell, Err(error)),
            }
        }
    }
    expected.check(&mut agent, &mut cells).unwrap();
    for call in &made {
        let fingerprint = agent.fingerprint(&call.credential).unwrap();
        let cell = format!("ended{}", call.path.replace('/', "-"));
        cells.check(&cell, ended(call, &fingerprint, &agent.events));
    }
    expected.no_strangers(&agent, &mut cells).unwrap();
    stop(agent, &mut cells);
    cells.finish();
}

/// Of every kind: answered, refused, not known, with a stream as answer, with a credential of bytes.
fn calls(lab: &Lab, scenario: &str, wire: Wire, count: usize) -> Vec<Call> {
    let make = |number: usize| Call {
        path: format!(
            "{}{}",
            lab.cell_path(&format!("{scenario}-{}-{number}", wire.name())),
            if number % 5 == 3 { "-stream" } else { "" }
        ),
        credential: Shape::GitHub.generate(),
        status: match number % 5 {
            1 => 7,
            2 => 16,
            _ => 0,
        },
        binary: number % 5 == 4,
    };
    (0..count).map(make).collect()
}

fn run(
    lab: &Lab,
    server: &Server,
    wire: Wire,
    calls: &[Call],
    concurrent: bool,
) -> Result<Vec<Expected>> {
    let list = calls.iter().map(|call| {
        let metadata = if call.binary {
            ["x-api-token-bin".to_owned(), call.credential.clone()]
        } else {
            [
                "authorization".into(),
                format!("Bearer {}", call.credential),
            ]
        };
        json!({ "path": call.path, "status": call.status, "metadata": [metadata] })
    });
    let plan = json!({
        "target": server.target(wire).address.to_string(),
        "ca": wire.is_tls().then(|| lab.certificate()),
        "concurrent": concurrent,
        "calls": list.collect::<Vec<_>>(),
    });
    let spec = Spec::new(fixtures::venv_python()?)
        .arg(lab.path("client_grpc.py"))
        .stdin(format!("{plan}\n"));
    let program = Program::start(&spec, &lab.inside())?;
    let pid = program.pid();
    let finished = program.finish()?;
    finished.said_200()?;
    let mut both = Vec::new();
    for call in calls {
        let mut fact = server.fact(&call.path)?;
        // grpcio speaks TLS 1.3 where both ends can, and does not tell.
        fact.tls = wire.version().into();
        let executable = spec.executable();
        let who = Who::Is(pid);
        for mut one in [
            Expected::client(&call.path, &call.credential, &fact, who, executable),
            Expected::server(&call.path, &call.credential, &fact, server),
        ] {
            one.host = None;
            if call.binary {
                (one.carrier, one.scheme) = ("header:x-api-token", "api-key");
            }
            both.push(one);
        }
    }
    Ok(both)
}

/// Both ends say the service, the method and the status.
fn ended(call: &Call, fingerprint: &str, events: &[Event]) -> Result<()> {
    let (service, method) = call.path[1..].rsplit_once('/').context("a method")?;
    let of_call: Vec<_> = events
        .iter()
        .filter(|event| event.fingerprints().contains(&fingerprint))
        .collect();
    ensure!(of_call.len() == 2, "{} events", of_call.len());
    for event in of_call {
        let said = event.rpc();
        ensure!(
            said == (
                Some("grpc"),
                Some(service),
                Some(method),
                Some(u64::from(call.status))
            ),
            "{said:?}"
        );
        ensure!(event.protocol_version() == Some("2"), "not HTTP/2");
    }
    Ok(())
}
