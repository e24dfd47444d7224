//! Bad input: after it the agent runs, its counters add up, and what is good is still seen.

use crate::support::agent::{Agent, Options};
use crate::support::clients::{CURL, Errand};
use crate::support::expect::{Expectations, Expected, stop};
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::scenario::{Script, requests};
use crate::support::servers::{self, Server, Wire};
use crate::support::token::Shape;
use crate::support::{nginx, turn};
use anyhow::{Result, ensure};

/// curl over each wire: both events of each.
fn still_seen(lab: &Lab, web: &Server, after: &str, expected: &mut Expectations) -> Result<()> {
    for wire in Wire::ALL {
        let cell = format!("after-{after}-{}", wire.name());
        let errand = Errand {
            lab,
            target: web.target(wire),
            path: lab.cell_path(&cell),
            credential: Shape::GitHub.generate(),
        };
        let ran = CURL.run(&errand, &lab.inside())?;
        let fact = web.fact(&errand.path)?;
        expected.add(Expected::both(&cell, &errand.credential, &fact, web, &ran));
    }
    Ok(())
}

#[test]
fn hostile() {
    let Some(_turn) = turn("hostile") else { return };
    let lab = Lab::new("hostile").unwrap();
    let mut cells = Cells::new("hostile");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let python = servers::python(&lab, &lab.inside()).unwrap();
    let mut agent = Agent::start(&lab).unwrap();

    let asked = requests(&lab, "hostile", 1);
    expected.whatever(&asked[0].credential);
    let script = Script::new(&lab, "hostile").unwrap().requests(&asked);
    let script = script
        .named_target("nginx", &web.target(Wire::Clear))
        .named_target("nginx-tls12", &web.target(Wire::Tls12))
        .named_target("nginx-tls13", &web.target(Wire::Tls13))
        .named_target("python", &python.target(Wire::Clear))
        .named_target("proxied", &web.listener("proxied_http", Wire::Clear));
    cells.check("garbage-sent", script.run(&lab.inside()).map(drop));
    still_seen(&lab, &web, "garbage", &mut expected).unwrap();

    for wire in [Wire::Tls12, Wire::Tls13] {
        let script = Script::new(&lab, "half_handshakes")
            .unwrap()
            .target(&web.target(wire));
        cells.check(
            &format!("half-handshakes-sent-{}", wire.name()),
            script.run(&lab.inside()).map(drop),
        );
    }
    still_seen(&lab, &web, "half-handshakes", &mut expected).unwrap();

    let script = Script::new(&lab, "truncated_library").unwrap();
    let mut mapped = script
        .with("library", "/usr/lib/x86_64-linux-gnu/libssl.so.3")
        .start(&lab.inside())
        .unwrap();
    cells.check("damaged-libraries-mapped", mapped.reach("mapped"));
    still_seen(&lab, &web, "damaged-libraries", &mut expected).unwrap();
    drop(mapped);

    cells.check(
        "agent-runs",
        if agent.is_running() {
            Ok(())
        } else {
            Err(anyhow::anyhow!(agent.stderr()))
        },
    );
    expected.check(&mut agent, &mut cells).unwrap();
    let quiet = !agent.stderr().contains("panicked");
    cells.check(
        "no-panic",
        if quiet {
            Ok(())
        } else {
            Err(anyhow::anyhow!(agent.stderr()))
        },
    );
    stop(agent, &mut cells);
    cells.finish();
}

/// Standard output is on a full disk: the agent goes on, counts, and says so.
#[test]
fn full_disk() {
    let Some(_turn) = turn("full_disk") else {
        return;
    };
    let lab = Lab::new("full-disk").unwrap();
    let mut cells = Cells::new("full_disk");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let options = Options {
        stdout: Some("/dev/full".into()),
        ..Options::scope_of(&lab).unwrap()
    };
    let agent = Agent::start_with(&lab, &options).unwrap();
    let mut unseen = Expectations::default();
    still_seen(&lab, &web, "start", &mut unseen).unwrap();
    cells.check("counted", counted(agent));
    cells.finish();
}

fn counted(mut agent: Agent) -> Result<()> {
    ensure!(agent.is_running(), "it ended: {}", agent.stderr());
    let (status, stderr) = agent.end()?;
    ensure!(!stderr.contains("panicked"), "it panicked: {stderr}");
    ensure!(
        stderr.contains("No space left on device"),
        "the cause is not named: {stderr}"
    );
    ensure!(
        stderr.contains(" lost "),
        "the loss is not counted: {stderr}"
    );
    ensure!(
        status.code() == Some(1),
        "events were lost, and it ended with {status}"
    );
    Ok(())
}
