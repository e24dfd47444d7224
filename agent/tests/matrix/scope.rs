//! What the agent may look at, and nothing else: cgroups, units, pids, moves in and out.

use crate::support::agent::{Agent, Options};
use crate::support::cgroup::Cgroup;
use crate::support::clients::{CURL, Errand};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, Side, conclude, stop};
use crate::support::lab::Lab;
use crate::support::process::Place;
use crate::support::report::Cells;
use crate::support::scenario::{Script, both_sides, requests};
use crate::support::servers::{Server, Wire};
use crate::support::token::Shape;
use crate::support::{host_scope, known, nginx, seconds, turn};
use anyhow::{Context, Result, ensure};

/// A whole-machine scope has no outside: the test is one skipped cell.
fn has_outside(test: &'static str) -> bool {
    if host_scope() {
        let mut cells = Cells::new(test);
        cells.skip("all", "with scope host nothing is outside");
        cells.finish();
    }
    !host_scope()
}

/// curl once; both events, of which the caller keeps those of ends in scope.
fn curl(
    lab: &Lab,
    web: &Server,
    wire: Wire,
    cell: &str,
    place: &Place,
) -> Result<(String, Vec<Expected>)> {
    let errand = Errand {
        lab,
        target: web.target(wire),
        path: lab.cell_path(cell),
        credential: Shape::Anthropic.generate(),
    };
    let ran = CURL.run(&errand, place).with_context(|| cell.to_owned())?;
    let fact = web.fact(&errand.path)?;
    let both = Expected::both(cell, &errand.credential, &fact, web, &ran);
    Ok((errand.credential, both))
}

fn only(side: Side, both: Vec<Expected>) -> impl Iterator<Item = Expected> {
    both.into_iter().filter(move |one| one.side == side)
}

#[test]
fn cgroup_scope() {
    let Some(_turn) = turn("cgroup_scope") else {
        return;
    };
    if !has_outside("cgroup_scope") {
        return;
    }
    let lab = Lab::new("cgroup-scope").unwrap();
    let cells = Cells::new("cgroup_scope");
    let mut expected = Expectations::default();
    let inner = nginx::start(&lab, &lab.inside(), None).unwrap();
    let outer_lab = Lab::without_cgroups("cgroup-scope").unwrap();
    let outer = nginx::start(&outer_lab, &lab.outside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();

    for wire in Wire::ALL {
        let name = wire.name();
        let cell = format!("client-alone-{name}");
        let (_, both) = curl(&outer_lab, &outer, wire, &cell, &lab.inside()).unwrap();
        expected.add(only(Side::Client, both));
        let cell = format!("server-alone-{name}");
        let (_, both) = curl(&lab, &inner, wire, &cell, &lab.outside()).unwrap();
        expected.add(only(Side::Server, both));
        let cell = format!("outside-{name}");
        let (credential, _) = curl(&outer_lab, &outer, wire, &cell, &lab.outside()).unwrap();
        expected.never(&cell, &credential);
        let cell = format!("nowhere-{name}");
        let (credential, _) = curl(&outer_lab, &outer, wire, &cell, &Place::default()).unwrap();
        expected.never(&cell, &credential);
    }
    let child = lab.scope().unwrap().child("made-later").unwrap();
    let (_, both) = curl(
        &outer_lab,
        &outer,
        Wire::Tls13,
        "made-later",
        &child.place(),
    )
    .unwrap();
    expected.add(only(Side::Client, both));

    // One process: outside, inside, outside again; on new connections, and on one that stays open.
    for (name, scenario, wire) in [
        ("moves", "anew", Wire::Clear),
        ("moves-tls13", "anew", Wire::Tls13),
        ("moves-connected", "stepped", Wire::Clear),
    ] {
        let asked = requests(&outer_lab, name, 3);
        let script = Script::new(&outer_lab, scenario)
            .unwrap()
            .target(&outer.target(wire))
            .requests(&asked);
        let executable = script.executable();
        let mut running = script.start(&lab.outside()).unwrap();
        let groups = [
            lab.out_of_scope().unwrap(),
            lab.scope().unwrap(),
            lab.out_of_scope().unwrap(),
        ];
        for (number, (request, group)) in asked.iter().zip(groups).enumerate() {
            running.reach(&request.cell).unwrap();
            if number == 2 {
                // Who it was can be told while it is there: its exec was out of scope. What does not come is missed below.
                let inside = Some(asked[1].path.as_str());
                let came = |events: &[Event]| events.iter().any(|event| event.path() == inside);
                agent.wait_until(seconds(10), came).unwrap();
            }
            group.move_here(running.pid()).unwrap();
            known::settled(&agent);
            running.go().unwrap();
        }
        let both = both_sides(&running.finish().unwrap(), &asked, &outer, &executable).unwrap();
        expected.add(
            both.into_iter()
                .filter(|one| one.side == Side::Client && one.cell == asked[1].cell),
        );
        expected.never(&asked[0].cell, &asked[0].credential);
        expected.never(&asked[2].cell, &asked[2].credential);
    }
    conclude(&expected, agent, cells);
}

/// By a unit's name, which is a cgroup's: a restart gives it another cgroup of the same name.
#[test]
fn unit_scope() {
    let Some(_turn) = turn("unit_scope") else {
        return;
    };
    if !has_outside("unit_scope") {
        return;
    }
    let lab = Lab::new("unit-scope").unwrap();
    let cells = Cells::new("unit_scope");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.outside(), None).unwrap();
    let unit = Cgroup::make_with_suffix(".service").unwrap();
    let mut agent =
        Agent::start_with(&lab, &Options::with_scope(format!("unit:{}", unit.name()))).unwrap();
    for (cell, renewed) in [("unit", false), ("unit-restarted", true)] {
        if renewed {
            unit.renew().unwrap();
            // Whoever is quicker than the agent is not seen in the new one.
            let is_back = |event: &Event| event.action() == Some("scope_changed");
            let back = agent.wait_until(seconds(60), |events| events.iter().any(is_back));
            assert!(back.unwrap(), "no audit event of the new cgroup");
        }
        for wire in Wire::ALL {
            let cell = format!("{cell}-{}", wire.name());
            let (_, both) = curl(&lab, &web, wire, &cell, &unit.place()).unwrap();
            expected.add(only(Side::Client, both));
        }
    }
    let (credential, _) = curl(&lab, &web, Wire::Clear, "another", &lab.inside()).unwrap();
    expected.never("another", &credential);
    conclude(&expected, agent, cells);
}

#[test]
fn pid_scope() {
    let Some(_turn) = turn("pid_scope") else {
        return;
    };
    if !has_outside("pid_scope") {
        return;
    }
    let lab = Lab::new("pid-scope").unwrap();
    let mut cells = Cells::new("pid_scope");
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &Place::default(), None).unwrap();
    for wire in Wire::ALL {
        let asked = requests(&lab, &format!("watched-{}", wire.name()), 3);
        let script = Script::new(&lab, "anew")
            .unwrap()
            .target(&web.target(wire))
            .requests(&asked);
        let executable = script.executable();
        let mut watched = script.start(&Place::default()).unwrap();
        watched.reach(&asked[0].cell).unwrap();
        let scope = format!("pid:{}", watched.pid());
        let mut agent = Agent::start_with(&lab, &Options::with_scope(scope)).unwrap();
        let (credential, _) = curl(
            &lab,
            &web,
            wire,
            &format!("another-{}", wire.name()),
            &Place::default(),
        )
        .unwrap();
        watched.go().unwrap();
        for request in &asked[1..] {
            watched.reach(&request.cell).unwrap();
            watched.go().unwrap();
        }
        let both = both_sides(&watched.finish().unwrap(), &asked, &web, &executable).unwrap();
        expected.add(only(Side::Client, both));
        expected.never(&format!("another-{}", wire.name()), &credential);
        expected.check(&mut agent, &mut cells).unwrap();
        expected.no_strangers(&agent, &mut cells).unwrap();
        stop(agent, &mut cells);
        expected = Expectations::default();
    }
    cells.finish();
}

/// Scopes that name nothing are refused in words, not watched in silence.
#[test]
fn refused_scopes() {
    let Some(_turn) = turn("refused_scopes") else {
        return;
    };
    let lab = Lab::new("refused-scopes").unwrap();
    let mut cells = Cells::new("refused_scopes");
    for (cell, scope, word) in [
        ("no-cgroup", "cgroup:/no/such/group", "/no/such/group"),
        ("no-unit", "unit:no-such-unit.service", "no-such-unit"),
        ("no-pid", "pid:4194305", "4194305"),
        ("not-a-pid", "pid:me", "me"),
        ("nothing", "", "scope"),
        ("unknown", "everything", "everything"),
    ] {
        let started = Agent::start_with(&lab, &Options::with_scope(scope.to_owned()));
        cells.check(cell, refused(started.map(drop), word));
    }
    cells.finish();
}

fn refused(started: Result<()>, word: &str) -> Result<()> {
    let Err(error) = started else {
        anyhow::bail!("it started")
    };
    let text = format!("{error:#}");
    ensure!(
        text.contains(word) && !text.contains("panicked"),
        "the message is {text:?}"
    );
    Ok(())
}
