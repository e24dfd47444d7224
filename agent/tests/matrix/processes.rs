//! Who it was: short lives, parents, users, files that are gone, units and containers by their cgroups.

use crate::support::agent::Agent;
use crate::support::cgroup::Cgroup;
use crate::support::clients::{CURL, Errand, Ran};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, Who, stop};
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec};
use crate::support::report::Cells;
use crate::support::scenario::{Script, both_sides, requests};
use crate::support::servers::{Fact, Server, Wire};
use crate::support::token::Shape;
use crate::support::{fixtures, nginx, repeat, turn};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::path::PathBuf;

const SHORT_LIVED: usize = 100;

#[test]
fn processes() {
    let Some(_turn) = turn("processes") else {
        return;
    };
    let lab = Lab::new("processes").unwrap();
    let mut cells = Cells::new("processes");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();

    for wire in Wire::ALL {
        let cell = format!("short-lived-{}", wire.name());
        match short_lived(&lab, &web, wire, &cell) {
            Ok(made) => expected.add(made),
            Err(error) => cells.check(&cell, Err(error)),
        }
    }
    match gone_executable(&lab, &web) {
        Ok(made) => expected.add(made),
        Err(error) => cells.check("gone-executable", Err(error)),
    }
    let mut nested = Vec::new();
    for (cell, name) in [
        ("nested", "nested".to_owned()),
        ("unit", "tokentrail-job.service".to_owned()),
        (
            "container",
            format!("libpod-{}.scope", "c0ffee12".repeat(8)),
        ),
    ] {
        let group = lab.scope().unwrap().child(&name).unwrap();
        match curl(&lab, &web, cell, &group.place()) {
            Ok((credential, fact, ran)) => {
                expected.add(Expected::both(cell, &credential, &fact, &web, &ran));
                nested.push((cell, ran.pid, group));
            }
            Err(error) => cells.check(cell, Err(error)),
        }
    }
    expected.check(&mut agent, &mut cells).unwrap();
    for (cell, pid, group) in &nested {
        let of_pid = |event: &&Event| event.is_usage() && event.pid() == Some(u64::from(*pid));
        let event = agent.events.iter().find(of_pid).context("no event");
        cells.check(
            &format!("{cell}-facts"),
            event.and_then(|event| cgroup_facts(cell, event, group)),
        );
    }
    cells.check("executable-hash", executable_hash(&agent.events));
    expected.no_strangers(&agent, &mut cells).unwrap();
    stop(agent, &mut cells);
    drop(nested);
    cells.finish();
}

fn curl(lab: &Lab, web: &Server, cell: &str, place: &Place) -> Result<(String, Fact, Ran)> {
    let errand = Errand {
        lab,
        target: web.target(Wire::Clear),
        path: lab.cell_path(cell),
        credential: Shape::GitHub.generate(),
    };
    let ran = CURL.run(&errand, place)?;
    let fact = web.fact(&errand.path)?;
    Ok((errand.credential, fact, ran))
}

/// A shell starts a hundred curls, one after the other: each lives some milliseconds.
fn short_lived(lab: &Lab, web: &Server, wire: Wire, cell: &str) -> Result<Vec<Expected>> {
    let script = r#"while read -r url credential; do
  curl -q -s -o /dev/null --noproxy '*' --cacert "$0" -H "Authorization: Bearer $credential" "$url" || exit 1
done"#;
    let asked = requests(lab, cell, repeat(SHORT_LIVED));
    let lines: String = asked
        .iter()
        .map(|one| format!("{} {}\n", web.target(wire).url(&one.path), one.credential))
        .collect();
    let spec = Spec::new("/bin/sh")
        .args(["-c", script])
        .arg(lab.certificate())
        .stdin(lines)
        .folder(lab.folder());
    let shell = Program::start(&spec, &lab.inside())?;
    let pid = shell.pid();
    let finished = shell.finish()?;
    ensure!(
        finished.status.success(),
        "{}: {}",
        finished.status,
        finished.stderr
    );
    let executable = fixtures::system("/usr/bin/curl")?;
    let mut expected = Vec::new();
    for one in &asked {
        let fact = web.fact(&one.path)?;
        let who = Who::ChildOf(pid);
        expected.push(Expected::client(
            cell,
            &one.credential,
            &fact,
            who,
            executable.clone(),
        ));
        expected.push(Expected::server(cell, &one.credential, &fact, web));
    }
    Ok(expected)
}

/// The executable's file is removed while its process runs.
fn gone_executable(lab: &Lab, web: &Server) -> Result<Vec<Expected>> {
    let copy = lab.path("gone-python");
    std::fs::copy(std::fs::canonicalize(fixtures::python()?)?, &copy)?;
    let asked = requests(lab, "gone-executable", 1);
    let script = Script::new(lab, "stepped")?
        .program(copy.clone())
        .env("PYTHONHOME", "/usr");
    let mut scenario = script
        .target(&web.target(Wire::Clear))
        .requests(&asked)
        .start(&lab.inside())?;
    scenario.reach(&asked[0].cell)?;
    std::fs::remove_file(&copy)?;
    scenario.go()?;
    both_sides(&scenario.finish()?, &asked, web, &copy)
}

/// What the cgroup's name says of unit and container.
fn cgroup_facts(cell: &str, event: &Event, group: &Cgroup) -> Result<()> {
    let path = group.path_in_hierarchy()?;
    ensure!(
        event.cgroup().map(PathBuf::from) == Some(path.clone()),
        "cgroup {:?}, not {path:?}",
        event.cgroup()
    );
    match cell {
        "unit" => ensure!(
            event.unit() == Some("tokentrail-job.service"),
            "unit {:?}",
            event.unit()
        ),
        "container" => {
            ensure!(
                event.container() == Some("c0ffee12".repeat(8).as_str()),
                "container {:?}",
                event.container()
            );
        }
        _ => ensure!(
            event.container().is_none(),
            "container {:?}",
            event.container()
        ),
    }
    Ok(())
}

/// SHA-256 of curl's file, on one of its events at least: the first may come before the file is hashed.
fn executable_hash(events: &[Event]) -> Result<()> {
    let content = std::fs::read("/usr/bin/curl").context("read /usr/bin/curl")?;
    let wanted: String = Sha256::digest(&content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let of_curl = events
        .iter()
        .filter(|event| event.is_usage() && event.executable() == Some("/usr/bin/curl"));
    let mut hashed = 0;
    for event in of_curl {
        if let Some(sha256) = event.executable_sha256() {
            ensure!(sha256 == wanted, "curl's hash is {sha256}, not {wanted}");
            hashed += 1;
        }
    }
    ensure!(hashed > 0, "no event of curl has its executable's hash");
    Ok(())
}
