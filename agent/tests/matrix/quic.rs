//! QUIC is not read, but each connection is listed by the name that its client asks for: hypercorn (aioquic) serves
//! HTTP/3 to the example client of quic-go, on a port of no special number.

use crate::support::agent::Agent;
use crate::support::event::Event;
use crate::support::expect::stop;
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec, run};
use crate::support::report::Cells;
use crate::support::servers::{Fact, Server};
use crate::support::{fixtures, seconds, turn, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::net::UdpSocket;
use std::path::PathBuf;

/// Connections, one after the other, each by a program of its own.
const COUNT: usize = 5;

struct Ends {
    fact: Fact,
    client: PathBuf,
    server: PathBuf,
}

#[derive(Default)]
struct Done {
    ends: Vec<Ends>,
    /// Also those that failed.
    connections: usize,
}

#[test]
fn quic() {
    let Some(_turn) = turn("quic") else { return };
    let mut cells = Cells::new("quic");
    let client = match fixtures::quic_client() {
        Ok(client) => client,
        Err(error) => {
            cells.skip("quic-go-client", &format!("{error:#}"));
            cells.finish();
            return;
        }
    };
    let lab = Lab::new("quic").unwrap();
    let agent = Agent::start(&lab).unwrap();
    let done = connect(&lab, client);
    if let Some(stopped) = stop(agent, &mut cells) {
        match done {
            Ok(done) => {
                for (number, ends) in done.ends.iter().enumerate() {
                    let cell = format!("connection-{number:02}");
                    cells.check(&cell, check(ends, &stopped.events));
                }
                cells.check("nothing-else", nothing_else(&done, &stopped.events));
            }
            Err(error) => cells.check("connections", Err(error)),
        }
    }
    cells.finish();
}

fn connect(lab: &Lab, client: PathBuf) -> Result<Done> {
    let python = fixtures::venv_python()?;
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let log = lab.path("hypercorn.log");
    let spec = Spec::new(&python)
        .args(["-m", "hypercorn", "server_asgi:app"])
        .arg(format!("--quic-bind=127.0.0.1:{port}"))
        .arg(format!("--certfile={}", lab.certificate().display()))
        .arg(format!("--keyfile={}", lab.private_key().display()))
        .env("FACTS", &log)
        .folder(lab.folder());
    let executable = spec.executable();
    let mut running = Program::start(&spec, &lab.inside())?.gently();
    let bound = || UdpSocket::bind(("127.0.0.1", port)).is_err();
    wait_for(seconds(30), || bound().then_some(())).context("hypercorn does not start")?;
    ensure!(running.is_running(), "{}", running.stderr());
    let server = Server::of("hypercorn", running, executable, log);
    let mut done = Done::default();
    for number in 0..COUNT {
        let path = lab.cell_path(&format!("quic-{number}"));
        let spec = Spec::new(&client)
            .args(["-insecure", "-q"])
            .arg(format!("https://localhost:{port}{path}"));
        // It waits for 5 seconds, which an emulated machine may take.
        let mut tries = 0..3;
        let succeeded = tries.any(|_| {
            done.connections += 1;
            run(&spec, &lab.inside()).is_ok()
        });
        ensure!(succeeded, "connection {number} fails each time");
        done.ends.push(Ends {
            fact: server.fact(&path)?,
            client: client.clone(),
            server: server.executable.clone(),
        });
    }
    Ok(done)
}

/// Listed once at each end, by name.
fn check(ends: &Ends, events: &[Event]) -> Result<()> {
    let port = |address: Option<std::net::SocketAddr>| address.map(|address| address.port());
    let (server, client) = (port(ends.fact.local()), port(ends.fact.remote()));
    ensure!(server.is_some() && client.is_some(), "no ports of it");
    for (local, peer, executable) in [
        (client, server, &ends.client),
        (server, client, &ends.server),
    ] {
        let found: Vec<_> = events
            .iter()
            .filter(|event| {
                event.is_connection_coverage() && event.coverage_reason() == Some("quic")
            })
            .filter(|event| port(event.local()) == local && port(event.peer()) == peer)
            .collect();
        let [event] = *found else {
            bail!("{} events of {local:?} to {peer:?}", found.len());
        };
        ensure!(
            event.transport() == Some("udp") && event.server_name() == Some("localhost"),
            "{}",
            event.brief()
        );
        let detail = event.coverage_detail().unwrap_or_default();
        ensure!(detail.contains("h3"), "the detail is {detail:?}");
        ensure!(
            event.executable().map(PathBuf::from).as_ref() == Some(executable),
            "listed for {:?}",
            event.executable()
        );
    }
    Ok(())
}

fn nothing_else(done: &Done, events: &[Event]) -> Result<()> {
    let listed = events
        .iter()
        .filter(|event| event.coverage_reason() == Some("quic") && event.is_connection_coverage());
    let count = listed.count();
    let made = done.connections;
    ensure!(
        count == 2 * made,
        "{count} ends of {made} connections are listed"
    );
    Ok(())
}
