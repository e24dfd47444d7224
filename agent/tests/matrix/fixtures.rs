//! The fixtures by themselves, with no agent: every client gets 200 from every server, and both agree on the socket.
//!
//! Run before a virtual machine is started, it also compiles what the machine will need.

use crate::harmless::{LONG_SUM, SHORT_SUM};
use crate::support::clients::{CLIENTS, Errand};
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::servers::{self, Server, Wire};
use crate::support::{fixtures, nginx, token, turn};
use anyhow::{Result, ensure};

#[test]
fn every_client_gets_200_from_every_server() {
    let Some(_turn) = turn("fixtures") else {
        return;
    };
    let mut cells = Cells::new("fixtures");
    let lab = Lab::without_cgroups("fixtures").unwrap();
    for (name, made) in [
        ("java", fixtures::java_classes()),
        ("calls", fixtures::calls()),
        ("go", fixtures::go_client()),
        ("the oldest Go", fixtures::oldest_go_client()),
        ("quic-go", fixtures::quic_client()),
        ("a crowd in Go", fixtures::go_crowd()),
        ("threads in Go", fixtures::go_lives()),
        ("a short sum", fixtures::sum(SHORT_SUM)),
        ("a long sum", fixtures::sum(LONG_SUM)),
        ("mapped", fixtures::mapped()),
    ] {
        cells.check(&format!("compiled-{name}"), made.map(drop));
    }
    let place = lab.inside();
    let python = servers::python(&lab, &place).unwrap();
    let upstream = python.target(Wire::Clear).address;
    let web = nginx::start(&lab, &place, Some(upstream)).unwrap();
    let aiohttp = servers::aiohttp(&lab, &place);
    let go = servers::go(&lab, &place);
    let rust = servers::rust(&lab, &place);
    for client in &CLIENTS {
        for wire in Wire::ALL.into_iter().filter(|wire| client.speaks(*wire)) {
            for server in [
                Ok(&web),
                Ok(&python),
                aiohttp.as_ref(),
                go.as_ref(),
                rust.as_ref(),
            ] {
                let Ok(server) = server else { continue };
                // git needs the repository, which only nginx has.
                if client.name == "git" && server.name != "nginx" {
                    continue;
                }
                let cell = format!("{}-{}-{}", client.name, server.name, wire.name());
                let errand = Errand {
                    lab: &lab,
                    target: server.target(wire),
                    path: lab.cell_path(&cell),
                    credential: token::opaque(),
                };
                if let Err(missing) = client.call(&errand) {
                    cells.skip(&cell, &format!("{missing:#}"));
                    continue;
                }
                cells.check(
                    &cell,
                    agree(
                        client
                            .run(&errand, &place)
                            .map(|ran| (ran.status, ran.call.path)),
                        server,
                        wire,
                    ),
                );
            }
        }
    }
    for (name, missing) in [
        ("aiohttp", aiohttp.as_ref().err()),
        ("go", go.as_ref().err()),
        ("rust", rust.as_ref().err()),
    ] {
        if let Some(missing) = missing {
            cells.skip(&format!("server-{name}"), &format!("{missing:#}"));
        }
    }
    cells.finish();
}

fn agree(ran: Result<(u16, String)>, server: &Server, wire: Wire) -> Result<()> {
    let (status, path) = ran?;
    ensure!(status == 200, "status {status}");
    let fact = &server.facts(&path, |fact| fact.status == 200)?[0];
    ensure!(
        fact.tls == wire.version(),
        "{} instead of {}",
        fact.tls,
        wire.version()
    );
    ensure!(
        fact.local() == Some(server.target(wire).address),
        "the server's end is {:?}",
        fact.local()
    );
    Ok(())
}
