//! What happens on one connection: many exchanges, bodies of every form, other ways to read and write, proxies.

use crate::support::agent::{Agent, Options};
use crate::support::clients::{CURL, Errand, run};
use crate::support::event::Event;
use crate::support::expect::{Expectations, Expected, Side, Who, conclude, stop};
use crate::support::lab::Lab;
use crate::support::process::{Program, Spec};
use crate::support::programs::{Trial, Tried};
use crate::support::report::Cells;
use crate::support::scenario::{Request, Script, both_sides, request, requests};
use crate::support::servers::{self, Server, Target, Wire};
use crate::support::token::{self, Shape};
use crate::support::{fixtures, known, nginx, turn};
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// The tests' cells and expectations side by side.
struct Stage<'a> {
    lab: &'a Lab,
    cells: Cells,
    expected: Expectations,
    /// The hook sees what io_uring does.
    sees_io_uring: bool,
    used_io_uring: bool,
}

impl Stage<'_> {
    /// Runs a scenario whose every exchange has both events; a failure to run is the failure of `cell`.
    fn scenario(
        &mut self,
        name: &'static str,
        cell: &str,
        target: &Target,
        server: &Server,
        requests: &[Request],
    ) {
        let made = Script::new(self.lab, name).and_then(|script| {
            let executable = script.executable();
            let done = script
                .target(target)
                .requests(requests)
                .run(&self.lab.inside())?;
            both_sides(&done, requests, server, &executable)
        });
        self.take(cell, made);
    }

    fn take(&mut self, cell: &str, made: Result<Vec<Expected>>) {
        match made {
            Ok(expected) => self.expected.add(expected),
            Err(error) => self.cells.check(cell, Err(error)),
        }
    }
}

#[test]
fn connections() {
    let Some(_turn) = turn("connections") else {
        return;
    };
    let lab = Lab::new("connections").unwrap();
    let mut agent = Agent::start(&lab).unwrap();
    known::usual(&agent, &lab).unwrap();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let python = servers::python(&lab, &lab.inside()).unwrap();
    let sees_io_uring = agent.hook().unwrap() == "fentry";
    let mut stage = Stage {
        lab: &lab,
        cells: Cells::new("connections"),
        expected: Expectations::default(),
        sees_io_uring,
        used_io_uring: false,
    };

    for wire in Wire::ALL {
        let name = wire.name();
        let target = web.target(wire);
        for (name_of_many, trial) in [
            ("keep-alive", Trial::InARow(20)),
            ("concurrent", Trial::AtOnce(20)),
        ] {
            stage.cells.about(
                &format!("{name_of_many}-{name}"),
                Tried::both("python", "nginx", wire, false, trial),
            );
        }
        stage.scenario(
            "keep_alive",
            "keep-alive",
            &target,
            &web,
            &requests(&lab, &format!("keep-alive-{name}"), 20),
        );
        stage.scenario(
            "concurrent",
            "concurrent",
            &target,
            &web,
            &requests(&lab, &format!("concurrent-{name}"), 20),
        );
        stage.scenario(
            "pipelined",
            "pipelined",
            &target,
            &web,
            &requests(&lab, &format!("pipelined-{name}"), 5),
        );
        stage.scenario(
            "fork_after_connect",
            "fork",
            &target,
            &web,
            &requests(
                &lab,
                &format!("fork-{name}"),
                if wire.is_tls() { 2 } else { 3 },
            ),
        );
        bodies(&mut stage, &python, wire);
        statuses(&mut stage, &web, wire);
        big_answer(&mut stage, &web, wire);
    }
    for wire in [Wire::Tls12, Wire::Tls13] {
        let name = format!("resumption-{}", wire.name());
        stage.scenario(
            "resumption",
            &name,
            &web.target(wire),
            &web,
            &requests(&lab, &name, 3),
        );
    }
    let clear = web.target(Wire::Clear);
    stage.scenario(
        "pass_descriptor",
        "descriptor",
        &clear,
        &web,
        &requests(&lab, "descriptor", 2),
    );
    socket_calls(&mut stage, &web);
    spliced(&mut stage, &python);
    let unix = unix_socket(&mut stage, &web);
    stage.take("unix-socket", unix);
    let proxied = proxy_protocol(&stage, &web);
    stage.take("proxy-protocol", proxied);
    for way in ["mmsg", "io_uring"] {
        let made = c_calls(&mut stage, &web, way);
        stage.take(&format!("call-{way}"), made);
    }
    for wire in Wire::ALL {
        let cell = format!("tunnel-{}", wire.name());
        let made = tunnel(&mut stage, &web, wire, &cell);
        stage.take(&cell, made);
    }

    let Stage {
        mut cells,
        expected,
        used_io_uring,
        ..
    } = stage;
    expected.check(&mut agent, &mut cells).unwrap();
    let claims = agent
        .events
        .iter()
        .filter(|event| event.forwarded("proxy-protocol").is_some())
        .count();
    cells.check(
        "proxy-protocol-claim",
        if claims > 0 {
            Ok(())
        } else {
            Err(anyhow::anyhow!("no event has it"))
        },
    );
    cells.check("resumed", resumed(&lab, &agent.events));
    expected.no_strangers(&agent, &mut cells).unwrap();
    if let Some(stopped) = stop(agent, &mut cells)
        && used_io_uring
        && !sees_io_uring
    {
        let named = stopped
            .events
            .iter()
            .any(|event| event.loss_reason() == Some("unseen"));
        cells.check(
            "io_uring-named",
            if named {
                Ok(())
            } else {
                Err(anyhow::anyhow!("no loss names it as unseen"))
            },
        );
    }
    cells.finish();
}

/// Uploads and answers of every form, one after the other on one connection.
fn bodies(stage: &mut Stage, python: &Server, wire: Wire) {
    let forms = [
        "GET",
        "large",
        "chunked",
        "continue",
        "long_head",
        "HEAD",
        "PUT",
        "DELETE",
        "chunked",
        "GET",
    ];
    let made: Vec<_> = forms
        .iter()
        .enumerate()
        .map(|(number, form)| {
            let cell = format!(
                "body-{}-{number:02}-{}",
                wire.name(),
                form.replace('_', "-").to_lowercase()
            );
            let suffix = if number == 8 { "/chunked" } else { "" };
            request(
                stage.lab,
                &cell,
                json!({"form": form, "suffix": suffix, "filler": 14}),
            )
        })
        .collect();
    stage.scenario(
        "bodies",
        &format!("bodies-{}", wire.name()),
        &python.target(wire),
        python,
        &made,
    );
}

/// Answers of other statuses, one of them without a body, on one connection.
fn statuses(stage: &mut Stage, web: &Server, wire: Wire) {
    let made: Vec<_> = ["401", "204", "404", "500", "401"]
        .iter()
        .enumerate()
        .map(|(number, status)| {
            let cell = format!("status-{}-{number}-{status}", wire.name());
            request(
                stage.lab,
                &cell,
                json!({"suffix": format!("/status/{status}")}),
            )
        })
        .collect();
    stage.scenario(
        "keep_alive",
        &format!("statuses-{}", wire.name()),
        &web.target(wire),
        web,
        &made,
    );
}

/// A body of 2 MB (by sendfile in cleartext), twice, then another request on the same connection.
fn big_answer(stage: &mut Stage, web: &Server, wire: Wire) {
    let made: Vec<_> = ["/big", "/big", ""]
        .iter()
        .enumerate()
        .map(|(number, suffix)| {
            request(
                stage.lab,
                &format!("big-{}-{number}", wire.name()),
                json!({"suffix": suffix}),
            )
        })
        .collect();
    stage.scenario(
        "keep_alive",
        &format!("big-{}", wire.name()),
        &web.target(wire),
        web,
        &made,
    );
}

fn socket_calls(stage: &mut Stage, web: &Server) {
    let ways = [
        "send",
        "write_read",
        "writev_readv",
        "sendmsg_recvmsg",
        "recvmsg_into",
        "peek",
        "wait_all",
        "short",
        "more",
    ];
    let made: Vec<_> = ways
        .iter()
        .map(|way| {
            request(
                stage.lab,
                &format!("call-{}", way.replace('_', "-")),
                json!({"way": way}),
            )
        })
        .collect();
    stage.scenario(
        "socket_calls",
        "socket-calls",
        &web.target(Wire::Clear),
        web,
        &made,
    );
}

/// Bodies by sendfile and splice; an answer that is spliced away has no status at the client, which is no loss of
/// the next exchange.
fn spliced(stage: &mut Stage, python: &Server) {
    let made: Vec<_> = [
        "sendfile",
        "splice-out",
        "splice-in",
        "after-splice",
        "again",
    ]
    .iter()
    .map(|name| request(stage.lab, name, json!({})))
    .collect();
    let target = python.target(Wire::Clear);
    let expected = Script::new(stage.lab, "spliced").and_then(|script| {
        let executable = script.executable();
        let done = script
            .target(&target)
            .requests(&made)
            .run(&stage.lab.inside())?;
        let mut expected = both_sides(&done, &made, python, &executable)?;
        // Of two answers behind each other, of which only the second was seen, nobody knows whose it is: the requests
        // may be two or more.
        for one in expected.iter_mut().filter(|one| {
            ["splice-in", "after-splice"].contains(&one.cell.as_str()) && one.side == Side::Client
        }) {
            one.status = None;
        }
        Ok(expected)
    });
    stage.take("splice", expected);
}

fn unix_socket(stage: &mut Stage, web: &Server) -> Result<Vec<Expected>> {
    let made = requests(stage.lab, "unix-socket", 3);
    let script = Script::new(stage.lab, "keep_alive")?;
    let executable = script.executable();
    let done = script
        .unix_target(stage.lab.path("nginx.sock"))
        .requests(&made)
        .run(&stage.lab.inside())?;
    let mut expected = both_sides(&done, &made, web, &executable)?;
    let errand = Errand {
        lab: stage.lab,
        target: web.target(Wire::Clear),
        path: stage.lab.cell_path("unix-socket-curl"),
        credential: Shape::Slack.generate(),
    };
    let mut call = CURL.call(&errand)?;
    call.spec = call
        .spec
        .arg("--unix-socket")
        .arg(stage.lab.path("nginx.sock"));
    let ran = run(call, &errand, &stage.lab.inside())?;
    let fact = web.fact(&errand.path)?;
    expected.extend(Expected::both(
        "unix-socket-curl",
        &errand.credential,
        &fact,
        web,
        &ran,
    ));
    Ok(expected)
}

fn proxy_protocol(stage: &Stage, web: &Server) -> Result<Vec<Expected>> {
    let mut made = Vec::new();
    for (name, target) in [("clear", "proxied_http"), ("tls13", "proxied_tls13")] {
        for version in [1, 2] {
            let more = json!({"target": target, "proxy_version": version});
            made.push(request(
                stage.lab,
                &format!("proxy-protocol-{name}-v{version}"),
                more,
            ));
        }
    }
    let script = Script::new(stage.lab, "proxy_protocol")?
        .named_target("proxied_http", &web.listener("proxied_http", Wire::Clear))
        .named_target("proxied_tls13", &web.listener("proxied_tls13", Wire::Tls13))
        .requests(&made);
    let executable = script.executable();
    let done = script.run(&stage.lab.inside())?;
    both_sides(&done, &made, web, &executable)
}

/// sendmmsg and recvmmsg; io_uring, which only the fentry rung sees.
fn c_calls(stage: &mut Stage, web: &Server, way: &str) -> Result<Vec<Expected>> {
    #[derive(Deserialize)]
    struct Said {
        pid: u32,
        local: (IpAddr, u16),
        status: u16,
    }
    let cell = format!("call-{way}");
    let (path, credential) = (stage.lab.cell_path(&cell), token::opaque());
    let port = web.port("http").to_string();
    let spec = Spec::new(fixtures::calls()?)
        .args([way, &port, &path])
        .stdin(format!("{credential}\n"));
    let finished = Program::start(&spec, &stage.lab.inside())?.finish()?;
    if finished.status.code() == Some(77) {
        stage.cells.skip(&cell, "this kernel refuses io_uring");
        return Ok(Vec::new());
    }
    if !finished.status.success() {
        bail!("{way}: {}: {}", finished.status, finished.stderr.trim());
    }
    let said: Said = serde_json::from_str(finished.stdout.first().context("its facts")?)?;
    let fact = web.fact(&path)?;
    ensure!(
        fact.remote() == Some(SocketAddr::from(said.local)) && said.status == 200,
        "{cell}: not one socket"
    );
    let who = Who::Is(said.pid);
    let client = Expected::client(&cell, &credential, &fact, who, spec.executable());
    let server = Expected::server(&cell, &credential, &fact, web);
    stage.used_io_uring |= way == "io_uring";
    if way == "io_uring" && !stage.sees_io_uring {
        // Named as unseen at the end; the server's ordinary calls are seen.
        stage.expected.whatever(&credential);
        return Ok(vec![server]);
    }
    Ok(vec![client, server])
}

/// curl through a CONNECT proxy: the credential inside at curl and at nginx, the proxy's own at curl and at the proxy.
fn tunnel(stage: &mut Stage, web: &Server, wire: Wire, cell: &str) -> Result<Vec<Expected>> {
    #[derive(Deserialize)]
    struct Tunnel {
        pid: u32,
        inner_local: (IpAddr, u16),
        inner_peer: (IpAddr, u16),
    }
    let spec = Spec::new(fixtures::python()?).arg(stage.lab.path("proxy.py"));
    let mut proxy = Program::start(&spec, &stage.lab.inside())?;
    let said: Value = serde_json::from_str(&proxy.line()?)?;
    let port = said["port"].as_u64().context("the proxy's port")?;
    let errand = Errand {
        lab: stage.lab,
        target: web.target(wire),
        path: stage.lab.cell_path(cell),
        credential: Shape::GitLab.generate(),
    };
    let for_proxy = Shape::GitHub.generate();
    let mut call = CURL.call(&errand)?;
    call.spec = call
        .spec
        .args(["--noproxy", "", "--proxytunnel", "--proxy"])
        .arg(format!("http://127.0.0.1:{port}"))
        .arg("--proxy-user")
        .arg(format!("x-access-token:{for_proxy}"));
    let ran = run(call, &errand, &stage.lab.inside())?;
    ensure!(ran.status == 200, "status {}", ran.status);
    let tunnel: Tunnel = serde_json::from_str(&proxy.line()?)?;
    let fact = web.fact(&errand.path)?;
    let (curl, accepted) = (
        SocketAddr::from(tunnel.inner_peer),
        SocketAddr::from(tunnel.inner_local),
    );

    let mut both = Expected::both(cell, &errand.credential, &fact, web, &ran);
    both[0].ends = Some((curl, accepted));
    // The two sockets are two connections: each end has an exchange of its own.
    both[1].cell = format!("{cell}-server");
    let mut asked = both[0].clone();
    asked.cell = format!("{cell}-connect");
    asked.credential = for_proxy;
    asked.method = "CONNECT".into();
    asked.path = String::new();
    asked.tls = String::new();
    (asked.carrier, asked.scheme) = ("header:proxy-authorization", "Basic");
    let mut answered = asked.clone();
    answered.side = Side::Server;
    let answered_by = Who::Is(tunnel.pid);
    answered.who = answered_by;
    answered.executable = spec.executable();
    answered.ends = Some((accepted, curl));
    both.extend([asked, answered]);
    if wire == Wire::Clear {
        // The proxy passes on in cleartext what it receives: a server to curl and a client to nginx.
        let mut passed = Expected::server(cell, &errand.credential, &fact, web);
        passed.who = answered_by;
        passed.executable = spec.executable();
        passed.user = both[0].user;
        passed.ends = Some((accepted, curl));
        let cell = &both[1].cell;
        let passing = Expected::client(
            cell,
            &errand.credential,
            &fact,
            answered_by,
            spec.executable(),
        );
        both.extend([passed, passing]);
    }
    Ok(both)
}

/// The second connection of each resumption is known as one that resumed, the first as one that did not.
fn resumed(lab: &Lab, events: &[Event]) -> Result<()> {
    for wire in [Wire::Tls12, Wire::Tls13] {
        for (number, wanted) in [("00", false), ("01", true), ("02", true)] {
            let path = lab.cell_path(&format!("resumption-{}-{number}", wire.name()));
            let event = events
                .iter()
                .find(|event| event.path() == Some(path.as_str()))
                .context("no event")?;
            ensure!(
                event.tls_resumed().unwrap_or(false) == wanted,
                "{path}: resumed {:?}",
                event.tls_resumed()
            );
        }
    }
    Ok(())
}

/// Heads of up to 64 KiB are read where the configuration has that much copied.
#[test]
fn long_heads() {
    let Some(_turn) = turn("long_heads") else {
        return;
    };
    let lab = Lab::new("long-heads").unwrap();
    let config = lab.path("agent.toml");
    std::fs::write(&config, "[capture]\nturn_bytes = 73728\n").unwrap();
    let mut options = Options::scope_of(&lab).unwrap();
    options
        .args
        .extend(["--config".to_owned(), config.display().to_string()]);
    let agent = Agent::start_with(&lab, &options).unwrap();
    let python = servers::python(&lab, &lab.inside()).unwrap();
    let cells = Cells::new("long_heads");
    let mut stage = Stage {
        lab: &lab,
        cells,
        expected: Expectations::default(),
        sees_io_uring: false,
        used_io_uring: false,
    };
    for wire in Wire::ALL {
        let made: Vec<_> = [20, 40, 60]
            .iter()
            .map(|filler| {
                let cell = format!("head-{}-{filler}", wire.name());
                request(&lab, &cell, json!({"form": "long_head", "filler": filler}))
            })
            .collect();
        stage.scenario(
            "bodies",
            &format!("heads-{}", wire.name()),
            &python.target(wire),
            &python,
            &made,
        );
    }
    conclude(&stage.expected, agent, stage.cells);
}
