//! What is not read must be listed, with its reason: Java, mbedTLS, a suite of no AEAD, what is no HTTP.

use crate::support::agent::Agent;
use crate::support::clients::{CURL, Errand, MBEDTLS, run};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, stop, unread_in};
use crate::support::fixtures;
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::scenario::{Request, Script};
use crate::support::servers::{Fact, Server, Target, Wire};
use crate::support::token;
use crate::support::{known, nginx, turn};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::PathBuf;

/// One connection that must be listed.
struct Listed {
    cell: String,
    local: SocketAddr,
    peer: SocketAddr,
    executable: PathBuf,
    reasons: &'static [&'static str],
    /// Name of the library, where it must be known.
    library: Option<&'static str>,
    /// Something that the detail must name.
    detail: Option<&'static str>,
}

const NOT_READ_YET: &[&str] = &["library_unsupported", "no_key_log_point", "no_secret"];

#[test]
fn unread() {
    let Some(_turn) = turn("unread") else { return };
    let lab = Lab::new("unread").unwrap();
    let mut cells = Cells::new("unread");
    let mut expected = Expectations::default();
    let mut listed = Vec::new();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    introduce(&lab, &web, &agent, &mut expected);

    for wire in [Wire::Tls12, Wire::Tls13] {
        let cell = format!("jsse-client-{}", wire.name());
        cells.about(&cell, [Tried::client("java", wire, false, Trial::Listed)]);
        match foreign_client(&lab, &web, wire, &cell) {
            Ok(None) => cells.skip(&cell, "not installed"),
            Ok(Some((fact, executable, server_event))) => {
                listed.push(Listed {
                    cell,
                    local: fact.remote().unwrap(),
                    peer: fact.local().unwrap(),
                    executable,
                    reasons: NOT_READ_YET,
                    library: Some("jsse"),
                    detail: None,
                });
                expected.add([server_event]);
            }
            Err(error) => cells.check(&cell, Err(error)),
        }
    }
    match mbedtls(&lab, &web) {
        Ok(None) => cells.skip("mbedtls-client", "not installed"),
        Ok(Some((one, server_event))) => {
            listed.push(one);
            expected.add([server_event]);
        }
        Err(error) => cells.check("mbedtls-client", Err(error)),
    }
    // Java in cleartext is read like everything else.
    let tried = Tried::client("java", Wire::Clear, false, Trial::One);
    cells.about("java-cleartext", [tried]);
    match clear_client(&lab, &web, "java-cleartext") {
        Ok(Some(both)) => expected.add(both),
        Ok(None) => cells.skip("java-cleartext", "not installed"),
        Err(error) => cells.check("java-cleartext", Err(error)),
    }
    match cbc(&lab, &web) {
        Ok((both, credential)) => {
            listed.extend(both);
            expected.whatever(&credential);
        }
        Err(error) => cells.check("curl", Err(error)),
    }
    expected.check(&mut agent, &mut cells).unwrap();
    expected.no_strangers(&agent, &mut cells).unwrap();
    if let Some(stopped) = stop(agent, &mut cells) {
        for one in &listed {
            cells.check(&one.cell, check(one, &stopped.events));
        }
    }
    cells.finish();
}

/// The agent gets to know the programs' files first: what it says of a program that has ended before is another thing.
fn introduce(lab: &Lab, web: &Server, agent: &Agent, expected: &mut Expectations) {
    // What cannot be run is told by its own cell.
    let java = errand(lab, web.target(Wire::Tls13), "java-introduced");
    expected.whatever(&java.credential);
    let _ = status_of(&java);
    let mbedtls = errand(lab, web.target(Wire::Tls12), "mbedtls-introduced");
    expected.whatever(&mbedtls.credential);
    if let Ok(call) = MBEDTLS.call(&mbedtls) {
        let _ = run(call, &mbedtls, &lab.inside());
    }
    known::settled(agent);
}

fn check(one: &Listed, events: &[Event]) -> Result<()> {
    let event = unread_in(events, one.local, one.peer, one.reasons)?;
    let path = one.executable.display().to_string();
    ensure!(
        event.executable() == Some(path.as_str()),
        "listed for {:?}, not {path}",
        event.executable()
    );
    if let Some(library) = one.library {
        ensure!(
            event.coverage_library() == Some(library),
            "listed with the library {:?}",
            event.coverage_library()
        );
    }
    if let Some(detail) = one.detail {
        let said = event.coverage_detail().unwrap_or_default();
        ensure!(
            said.contains(detail),
            "the detail is {said:?}, without {detail}"
        );
    }
    Ok(())
}

fn errand<'a>(lab: &'a Lab, target: Target, cell: &str) -> Errand<'a> {
    Errand {
        lab,
        target,
        path: lab.cell_path(cell),
        credential: token::opaque(),
    }
}

fn java_client(errand: &Errand) -> Result<Spec> {
    Ok(Spec::new(fixtures::system("/usr/bin/java")?)
        .args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Xmx64m", "-cp"])
        .arg(fixtures::java_classes()?)
        .arg("Client")
        .arg(errand.target.url(&errand.path))
        .env("TEST_CREDENTIAL", &errand.credential))
}

/// Runs the Java client; `None` where it cannot be had.
fn status_of(errand: &Errand) -> Result<Option<(u32, Spec)>> {
    let Ok(spec) = java_client(errand) else {
        return Ok(None);
    };
    let program = Program::start(&spec, &errand.lab.inside())?;
    let pid = program.pid();
    let finished = program.finish()?;
    finished.said_200()?;
    Ok(Some((pid, spec)))
}

/// The client's end is not read; nginx's end of the same connection is.
fn foreign_client(
    lab: &Lab,
    web: &Server,
    wire: Wire,
    cell: &str,
) -> Result<Option<(Fact, PathBuf, Expected)>> {
    let errand = errand(lab, web.target(wire), cell);
    let Some((_, spec)) = status_of(&errand)? else {
        return Ok(None);
    };
    let fact = web.fact(&errand.path)?;
    let event = Expected::server(&format!("{cell}-at-nginx"), &errand.credential, &fact, web);
    Ok(Some((fact, spec.executable(), event)))
}

/// The same of a program whose library is one of the unread, in a wheel.
fn mbedtls(lab: &Lab, web: &Server) -> Result<Option<(Listed, Expected)>> {
    let cell = "mbedtls-client";
    let errand = errand(lab, web.target(Wire::Tls12), cell);
    let Ok(call) = MBEDTLS.call(&errand) else {
        return Ok(None);
    };
    let ran = run(call, &errand, &lab.inside())?;
    ensure!(ran.status == 200, "status {}", ran.status);
    let fact = web.fact(&errand.path)?;
    let (server, client) = fact.local().zip(fact.remote()).context("ends")?;
    let listed = Listed {
        cell: cell.to_owned(),
        local: client,
        peer: server,
        executable: ran.call.executable,
        reasons: NOT_READ_YET,
        library: Some("mbedtls"),
        detail: None,
    };
    let event = Expected::server(&format!("{cell}-at-nginx"), &errand.credential, &fact, web);
    Ok(Some((listed, event)))
}

fn clear_client(lab: &Lab, web: &Server, cell: &str) -> Result<Option<Vec<Expected>>> {
    let errand = errand(lab, web.target(Wire::Clear), cell);
    let Some((pid, spec)) = status_of(&errand)? else {
        return Ok(None);
    };
    let fact = web.fact(&errand.path)?;
    let who = crate::support::expect::Who::Is(pid);
    Ok(Some(vec![
        Expected::client(cell, &errand.credential, &fact, who, spec.executable()),
        Expected::server(cell, &errand.credential, &fact, web),
    ]))
}

/// curl by a TLS 1.2 suite with CBC, which is not read: both ends must be listed, and the suite named.
fn cbc(lab: &Lab, web: &Server) -> Result<(Vec<Listed>, String)> {
    let errand = errand(lab, web.listener("tls12", Wire::Tls12), "cbc");
    let mut call = CURL.call(&errand)?;
    call.spec = call.spec.args(["--ciphers", "ECDHE-ECDSA-AES256-SHA384"]);
    let ran = run(call, &errand, &lab.inside())?;
    ensure!(ran.status == 200, "status {}", ran.status);
    let fact = web.fact(&errand.path)?;
    let (server, client) = fact.local().zip(fact.remote()).context("ends")?;
    let listed = |end: &str, local, peer, executable: &PathBuf| Listed {
        cell: format!("cbc-{end}"),
        local,
        peer,
        executable: executable.clone(),
        reasons: &["cipher_unsupported"],
        library: None,
        detail: Some("CBC"),
    };
    let both = vec![
        listed("client", client, server, &ran.call.executable),
        listed("server", server, client, &web.executable),
    ];
    Ok((both, errand.credential))
}

/// Neither HTTP nor TLS: no event, and listed as what it is.
#[test]
fn no_http() {
    let Some(_turn) = turn("no_http") else { return };
    let lab = Lab::new("no-http").unwrap();
    let mut cells = Cells::new("no_http");
    let mut expected = Expectations::default();
    let agent = Agent::start(&lab).unwrap();
    let asked = Request {
        cell: "chatter".into(),
        path: "/none".into(),
        credential: token::opaque(),
        more: serde_json::json!({}),
    };
    let done = Script::new(&lab, "chatter")
        .unwrap()
        .requests([&asked])
        .run(&lab.inside())
        .unwrap();
    expected.never("chatter", &asked.credential);
    let mut agent = agent;
    expected.check(&mut agent, &mut cells).unwrap();
    expected.no_strangers(&agent, &mut cells).unwrap();
    let exchange = done.first().context("what it did").unwrap();
    let (local, peer) = (exchange.local().unwrap(), exchange.peer().unwrap());
    if let Some(stopped) = stop(agent, &mut cells) {
        cells.check(
            "chatter-listed",
            unread_in(&stopped.events, local, peer, &["not_http"]).map(drop),
        );
    }
    cells.finish();
}
