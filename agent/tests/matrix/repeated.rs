//! Every client many times: as many processes of it at once, whose handshakes fall together, and request after request
//! on one connection. Each request has a credential of its own; both ends of every exchange.

use crate::clients::{Stage, first_handshakes, left_out};
use crate::support::agent::Agent;
use crate::support::clients::{CLIENTS, Call, Client, Errand, Ran, Running, run};
use crate::support::expect::{Expected, Side, stop};
use crate::support::lab::Lab;
use crate::support::programs::{Trial, Tried};
use crate::support::servers::{Server, Wire};
use crate::support::token;
use crate::support::{known, nginx, repeat, say, turn};
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, HashSet};

/// Processes of a client at once.
const AT_ONCE: usize = 20;
/// Requests on one connection.
const IN_A_ROW: usize = 200;

/// A listener of nginx, and what is spoken there.
struct Way {
    listener: &'static str,
    wire: Wire,
    http2: bool,
    /// The clients that speak it there; every one that speaks over its wire if none is named.
    clients: &'static [&'static str],
}

const WAYS: [Way; 4] = [
    Way {
        listener: "http",
        wire: Wire::Clear,
        http2: false,
        clients: &[],
    },
    Way {
        listener: "tls12",
        wire: Wire::Tls12,
        http2: false,
        clients: &[],
    },
    Way {
        listener: "tls13",
        wire: Wire::Tls13,
        http2: false,
        clients: &[],
    },
    Way {
        listener: "h2",
        wire: Wire::Tls13,
        http2: true,
        clients: &[
            "curl",
            "httpx",
            "deno-fetch",
            "uv",
            "primp",
            "reqwest",
            "reqwest-aws-lc",
        ],
    },
];

impl Way {
    fn suits(&self, client: &Client) -> bool {
        client.speaks(self.wire) && (self.clients.is_empty() || self.clients.contains(&client.name))
    }

    fn errands<'a>(&self, lab: &'a Lab, web: &Server, cell: &str, count: usize) -> Vec<Errand<'a>> {
        (0..count)
            .map(|number| Errand {
                lab,
                target: web.listener(self.listener, self.wire),
                path: lab.cell_path(&cell_of(cell, number)),
                credential: token::opaque(),
            })
            .collect()
    }
}

fn cell_of(cell: &str, number: usize) -> String {
    format!("{cell}-{number:02}")
}

#[test]
fn repeated() {
    let Some(_turn) = turn("repeated") else {
        return;
    };
    let lab = Lab::new("repeated").unwrap();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    known::usual(&agent, &lab).unwrap();
    let mut stage = Stage::new(&lab, "repeated");
    first_handshakes(&mut stage, &web, &agent);
    let mut of_many = Vec::new();
    for client in &CLIENTS {
        if let Some(reason) = left_out(client) {
            stage.cells.skip(client.name, reason);
            continue;
        }
        for way in WAYS.iter().filter(|way| way.suits(client)) {
            for (form, trial) in [
                (at_once as Form, Trial::AtOnce(AT_ONCE)),
                (in_a_row, Trial::InARow(repeat(IN_A_ROW))),
            ] {
                let cell = format!("{}-{}-{}", client.name, way.listener, trial.text());
                let Some(made) = form(&lab, &web, client, way, &cell) else {
                    continue;
                };
                let tried = Tried::both(client.name, web.name, way.wire, way.http2, trial);
                stage.cells.about(&cell, tried);
                match made {
                    Ok(mut expected) => {
                        if matches!(trial, Trial::AtOnce(_)) && way.wire != Wire::Clear {
                            may_be_late(&mut expected);
                            of_many.push((client.name, cell, clients_of(&expected)));
                        }
                        stage.expected.add(expected);
                    }
                    Err(error) => stage.cells.check(&cell, Err(error)),
                }
            }
        }
    }
    let expected = stage.expected.check(&mut agent, &mut stage.cells);
    expected.expect("the agent's events can be read");
    let mut all = (0, 0);
    let mut by_client: BTreeMap<&str, usize> = BTreeMap::new();
    for (client, cell, credentials) in &of_many {
        let read = read_of(&agent, credentials).expect("fingerprints can be told");
        all = (all.0 + read, all.1 + credentials.len());
        *by_client.entry(client).or_default() += read;
        say(&format!(
            "{cell}: {read} of {} were read",
            credentials.len()
        ));
    }
    let told = format!(
        "repeated: {} of {} first handshakes of processes at once were read",
        all.0, all.1
    );
    say(&told);
    for (client, read) in by_client {
        let any = (read > 0).then_some(()).context("none was read");
        stage.cells.check(&format!("{client}-read"), any);
    }
    // Over all of them: a machine may stop for as long as those of one cell live.
    let enough = (2 * all.0 >= all.1).then_some(()).context(told);
    stage.cells.check("share", enough);
    let strangers = stage.expected.no_strangers(&agent, &mut stage.cells);
    strangers.expect("fingerprints can be told");
    stop(agent, &mut stage.cells);
    stage.cells.finish();
}

/// Of processes at once some are quicker than whoever attaches, with few processors: a matter of time, which is measured.
fn may_be_late(expected: &mut [Expected]) {
    for one in expected.iter_mut().filter(|one| one.side == Side::Client) {
        one.may_be_late = true;
    }
}

fn clients_of(expected: &[Expected]) -> Vec<String> {
    let clients = expected.iter().filter(|one| one.side == Side::Client);
    clients.map(|one| one.credential.clone()).collect()
}

/// So many of these credentials have an event of the client's.
fn read_of(agent: &Agent, credentials: &[String]) -> Result<usize> {
    let wanted: HashSet<String> = credentials
        .iter()
        .map(|credential| agent.fingerprint(credential))
        .collect::<Result<_>>()?;
    let clients = agent
        .events
        .iter()
        .filter(|event| event.is_usage() && event.direction() == Side::Client.name());
    let seen: HashSet<&str> = clients
        .flat_map(|event| event.fingerprints())
        .filter(|fingerprint| wanted.contains(*fingerprint))
        .collect();
    Ok(seen.len())
}

type Form = fn(&Lab, &Server, &Client, &Way, &str) -> Option<Result<Vec<Expected>>>;

/// A process for each request, all at the same time.
fn at_once(
    lab: &Lab,
    web: &Server,
    client: &Client,
    way: &Way,
    cell: &str,
) -> Option<Result<Vec<Expected>>> {
    Some((|| {
        let errands = way.errands(lab, web, cell, AT_ONCE);
        let calls = errands.iter().map(|errand| client.call(errand));
        let calls: Vec<Call> = calls.collect::<Result<_>>()?;
        let place = lab.inside();
        let started = calls
            .into_iter()
            .map(|call| Running::start(call, lab, &place));
        let mut expected = Vec::new();
        for ((number, errand), running) in
            errands.iter().enumerate().zip(started.collect::<Vec<_>>())
        {
            let ran = running?.finish()?;
            ensure!(ran.status == 200, "a client got the status {}", ran.status);
            let cell = cell_of(cell, number);
            expected.extend(both(&cell, errand, &ran.call.path, web, way, &ran)?);
        }
        Ok(expected)
    })())
}

/// One process, which keeps its connection; `None` if the client cannot.
fn in_a_row(
    lab: &Lab,
    web: &Server,
    client: &Client,
    way: &Way,
    cell: &str,
) -> Option<Result<Vec<Expected>>> {
    let errands = way.errands(lab, web, cell, repeat(IN_A_ROW));
    let call = client.call_in_a_row(&errands)?;
    Some((|| {
        let ran = run(call?, &errands[0], &lab.inside())?;
        let mut expected = Vec::new();
        for (number, errand) in errands.iter().enumerate() {
            let cell = cell_of(cell, number);
            expected.extend(both(&cell, errand, &errand.path, web, way, &ran)?);
        }
        let connections: HashSet<_> = expected.iter().map(|one| one.ends).collect();
        // Both ends of each. Some take another one when an answer's body is not yet put away.
        let most = 2 * errands.len().div_ceil(10);
        ensure!(
            connections.len() <= most,
            "it took {} connections",
            connections.len() / 2
        );
        Ok(expected)
    })())
}

fn both(
    cell: &str,
    errand: &Errand,
    path: &str,
    web: &Server,
    way: &Way,
    ran: &Ran,
) -> Result<Vec<Expected>> {
    let facts = web.facts(path, |fact| fact.status == 200)?;
    let fact = facts.first().context("a fact")?;
    ensure!(
        fact.tls == way.wire.version(),
        "{} was spoken over {}",
        fact.tls,
        way.listener
    );
    let both = Expected::both(cell, &errand.credential, fact, web, ran);
    let version = if way.http2 { "2" } else { "1.1" };
    ensure!(
        both.iter().all(|one| one.http == Some(version)),
        "{} was spoken, not {version}",
        fact.http
    );
    Ok(both)
}
