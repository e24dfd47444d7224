//! Starting and stopping: clean in the middle of traffic, by either signal, with nothing seen; what is refused.

use crate::support::agent::{self, Agent, Options};
use crate::support::expect::{Expectations, stop};
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec};
use crate::support::report::Cells;
use crate::support::scenario::{Script, requests};
use crate::support::servers::Wire;
use crate::support::{nginx, repeat, seconds, turn};
use anyhow::{Result, ensure};
use std::os::unix::fs::PermissionsExt;

#[test]
fn clean_stop() {
    let Some(_turn) = turn("clean_stop") else {
        return;
    };
    let lab = Lab::new("clean-stop").unwrap();
    let mut cells = Cells::new("clean_stop");
    let idle = Agent::start(&lab).unwrap();
    let stopped = stop(idle, &mut cells);
    let usage = stopped.map_or(0, |stopped| {
        stopped
            .events
            .iter()
            .filter(|event| event.is_usage())
            .count()
    });
    cells.check(
        "idle",
        if usage == 0 {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{usage} usage events"))
        },
    );

    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    for (number, wire) in Wire::ALL.into_iter().enumerate() {
        // In the middle of traffic: what is emitted adds up, whatever it is.
        let asked = requests(&lab, &format!("busy-{}", wire.name()), repeat(400));
        let script = Script::new(&lab, "keep_alive")
            .unwrap()
            .target(&web.target(wire))
            .requests(&asked);
        let mut agent = Agent::start(&lab).unwrap();
        let running = script.start(&lab.inside()).unwrap();
        let begun = agent
            .wait_until(seconds(30), |events| {
                events.iter().any(|event| event.is_usage())
            })
            .unwrap();
        cells.check(
            &format!("begun-{}", wire.name()),
            if begun {
                Ok(())
            } else {
                Err(anyhow::anyhow!("no event"))
            },
        );
        let mut expected = Expectations::default();
        for one in &asked {
            expected.whatever(&one.credential);
        }
        // One of two by the other signal.
        let ended = if number == 1 {
            agent.stop_by(rustix::process::Signal::INT)
        } else {
            agent.stop()
        };
        cells.check(&format!("busy-{}", wire.name()), ended.map(drop));
        cells.check(
            &format!("undisturbed-{}", wire.name()),
            running.finish().map(drop),
        );
    }
    cells.finish();
}

#[test]
fn refusals() {
    let Some(_turn) = turn("refusals") else {
        return;
    };
    let lab = Lab::new("refusals").unwrap();
    let mut cells = Cells::new("refusals");
    let scope = Options::scope_of(&lab).unwrap().scope;
    let key = lab.path("readable.key");
    let keygen = Spec::new(agent::program()).arg("keygen").arg(&key);
    crate::support::process::run(&keygen, &Place::default()).unwrap();
    let mode = std::fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    cells.check(
        "key-mode",
        if mode == 0o600 {
            Ok(())
        } else {
            Err(anyhow::anyhow!("mode {mode:o}"))
        },
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let key = key.to_string_lossy().into_owned();
    for (cell, args, words) in [
        ("no-scope", vec!["run"], "--scope"),
        (
            "readable-key",
            vec!["run", "--scope", &scope, "--fingerprint-key", &key],
            "readable.key",
        ),
        (
            "no-key",
            vec![
                "run",
                "--scope",
                &scope,
                "--fingerprint-key",
                "/no/such/key",
            ],
            "/no/such/key",
        ),
        (
            "no-config",
            vec!["run", "--scope", &scope, "--config", "/no/such/config"],
            "/no/such/config",
        ),
        ("keygen-twice", vec!["keygen", &key], "readable.key"),
        (
            "fingerprint-readable-key",
            vec!["fingerprint", "--fingerprint-key", &key],
            "readable.key",
        ),
    ] {
        cells.check(cell, refused(&args, words));
    }
    cells.finish();
}

/// It ends by itself, with a status other than 0 and a message that names the cause.
fn refused(args: &[&str], words: &str) -> Result<()> {
    let program = Program::start(
        &Spec::new(agent::program()).args(args.iter().copied()),
        &Place::default(),
    )?;
    let finished = program.finish()?;
    ensure!(!finished.status.success(), "it was accepted");
    ensure!(
        finished.stderr.contains(words),
        "the message is {:?}",
        finished.stderr
    );
    ensure!(
        !finished.stderr.contains("panicked"),
        "it panicked: {}",
        finished.stderr
    );
    Ok(())
}
