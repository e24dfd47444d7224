//! No credential and no TLS secret is in anything that the agent writes, nor in its memory once connections are closed.

use crate::support::agent::{Agent, Options, Stopped};
use crate::support::canary::Canaries;
use crate::support::clients::{CLIENTS, Errand};
use crate::support::expect::{Expectations, Expected, stop};
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::scenario::{Script, both_sides, request, requests};
use crate::support::servers::{self, Wire};
use crate::support::token::Shape;
use crate::support::{nginx, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::Path;

/// One client of each TLS library and carrier, all on files that the agent knows from its start.
const CHOSEN: [&str; 7] = [
    "curl",
    "curl-key-header",
    "curl-query",
    "curl-basic",
    "wget",
    "git",
    "requests",
];

#[test]
fn no_secret_is_kept() {
    let Some(_turn) = turn("canary") else { return };
    let lab = Lab::new("canary").unwrap();
    let mut cells = Cells::new("canary");
    let mut expected = Expectations::default();
    let mut canaries = Canaries::default();
    let key_log = lab.path("key.log");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let python = servers::python(&lab, &lab.inside()).unwrap();
    // Everything that the agent can say, it shall say.
    let options = Options {
        log: Some("trace"),
        ..Options::scope_of(&lab).unwrap()
    };
    let mut agent = Agent::start_with(&lab, &options).unwrap();

    let chosen = CLIENTS
        .iter()
        .filter(|client| CHOSEN.contains(&client.name));
    for (number, client) in chosen.enumerate() {
        for wire in Wire::ALL.into_iter().filter(|wire| client.speaks(*wire)) {
            let cell = format!("{}-{}", client.name, wire.name());
            let errand = Errand {
                lab: &lab,
                target: web.target(wire),
                path: lab.cell_path(&cell),
                credential: Shape::nth(number).generate(),
            };
            canaries.add(
                &format!("credential of {cell}"),
                errand.credential.as_bytes(),
            );
            let Ok(mut call) = client.call(&errand) else {
                cells.skip(&cell, "not installed");
                continue;
            };
            call.spec = call.spec.env("SSLKEYLOGFILE", &key_log);
            match crate::support::clients::run(call, &errand, &lab.inside()) {
                Ok(ran) => {
                    let fact = web
                        .facts(&ran.call.path, |fact| fact.status == 200)
                        .unwrap()
                        .remove(0);
                    expected.add(Expected::both(&cell, &errand.credential, &fact, &web, &ran));
                }
                Err(error) => cells.check(&cell, Err(error)),
            }
        }
    }
    // Form fields, and many on one connection.
    let secret = Shape::Opaque.generate();
    let fields = format!("grant_type=client_credentials&client_id=me&client_secret={secret}");
    let mut form = request(&lab, "form", json!({"form": "fields", "fields": fields}));
    form.credential = String::new();
    canaries.add("form field", secret.as_bytes());
    for wire in Wire::ALL {
        let asked = requests(&lab, &format!("kept-alive-{}", wire.name()), 10);
        for one in &asked {
            canaries.add(&one.cell, one.credential.as_bytes());
        }
        let script = Script::new(&lab, "keep_alive")
            .unwrap()
            .with("keylog", key_log.to_string_lossy().as_ref());
        let executable = script.executable();
        let done = script
            .target(&web.target(wire))
            .requests(&asked)
            .run(&lab.inside())
            .unwrap();
        expected.add(both_sides(&done, &asked, &web, &executable).unwrap());
    }
    let script = Script::new(&lab, "bodies")
        .unwrap()
        .target(&python.target(Wire::Clear))
        .requests([&form]);
    let executable = script.executable();
    let done = script.run(&lab.inside()).unwrap();
    form.credential = secret;
    let mut both = both_sides(&done, &[form], &python, &executable).unwrap();
    for one in &mut both {
        one.carrier = "form:client_secret";
        // What the scheme of a form field is called is the agent's own affair.
        one.scheme = "";
    }
    expected.add(both);

    cells.check("control", control(&lab, &mut canaries));
    let secrets = canaries.add_key_log(&key_log).unwrap();
    let enough = if secrets >= 20 {
        Ok(())
    } else {
        Err(anyhow::anyhow!("only {secrets} TLS secrets are known"))
    };
    cells.check("key-log", enough);
    expected.check(&mut agent, &mut cells).unwrap();
    // Nothing that the servers hold open may keep a connection's state alive: they go first.
    drop(web);
    drop(python);
    let mut gone = Ok(());
    let forgotten = || {
        gone = memory(&canaries, &agent);
        gone.is_ok().then_some(())
    };
    let _ = wait_for(seconds(60), forgotten);
    cells.check("memory", gone);
    let worker = agent.worker_pid().unwrap();
    for (cell, pid) in [("open-files", agent.pid()), ("open-files-worker", worker)] {
        cells.check(cell, open_files(&canaries, pid));
    }
    if let Some(stopped) = stop(agent, &mut cells) {
        cells.check(
            "output",
            canaries.search("standard output", stopped.lines.join("\n").as_bytes()),
        );
        cells.check("log", log(&canaries, &stopped));
        cells.check("files", canaries.search_folder(&stopped.folder));
        let cache = Path::new("/var/cache/tokentrail");
        cells.check(
            "cache",
            if cache.exists() {
                canaries.search_folder(cache)
            } else {
                Ok(())
            },
        );
    }
    cells.finish();
}

/// The search finds what is there: a program of ours that holds a secret.
fn control(lab: &Lab, canaries: &mut Canaries) -> Result<()> {
    let asked = requests(lab, "control", 1);
    canaries.add("control", asked[0].credential.as_bytes());
    let mut holder = Script::new(lab, "idle")?
        .requests(&asked)
        .start(&lab.outside())?;
    holder.reach("idle")?;
    let found = canaries.search_process(holder.pid());
    ensure!(
        found.is_err(),
        "a secret in a program's memory was not found"
    );
    Ok(())
}

fn memory(canaries: &Canaries, agent: &Agent) -> Result<()> {
    for pid in [agent.pid(), agent.worker_pid()?] {
        let searched = canaries.search_process(pid)?;
        ensure!(
            searched > 1 << 20,
            "only {searched} bytes of memory could be searched"
        );
    }
    Ok(())
}

/// Trace was asked for: an empty log would prove nothing.
fn log(canaries: &Canaries, stopped: &Stopped) -> Result<()> {
    ensure!(!stopped.stderr.is_empty(), "standard error is empty");
    canaries.search("standard error", stopped.stderr.as_bytes())
}

/// Regular files that the agent has open, wherever they are (its own program aside).
fn open_files(canaries: &Canaries, pid: u32) -> Result<()> {
    let folder = format!("/proc/{pid}/fd");
    for entry in std::fs::read_dir(&folder).context(folder.clone())? {
        let path = entry?.path();
        let Ok(target) = std::fs::read_link(&path) else {
            continue;
        };
        let regular = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file());
        if regular
            && !target.starts_with("/proc")
            && !target.starts_with("/sys")
            && !target.starts_with("/usr")
        {
            canaries
                .search_file(Path::new(&path))
                .with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}
