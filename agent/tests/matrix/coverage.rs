//! The live ledger: what `tokentrail-agent coverage` and Prometheus are told while connections come and go.

use crate::support::agent::{self, Agent, Options};
use crate::support::clients::{CURL, Errand};
use crate::support::expect::stop;
use crate::support::lab::Lab;
use crate::support::process::{Place, Spec, run};
use crate::support::report::Cells;
use crate::support::servers::Wire;
use crate::support::token::Shape;
use crate::support::{fixtures, nginx, seconds, turn, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[test]
fn live() {
    let Some(_turn) = turn("live") else { return };
    let lab = Lab::new("coverage").unwrap();
    let mut cells = Cells::new("coverage");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let (socket, config) = (lab.path("run/agent.sock"), lab.path("agent.toml"));
    let metrics = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    std::fs::write(
        &config,
        format!("[coverage]\nsocket = {socket:?}\nmetrics = \"{metrics}\"\n"),
    )
    .unwrap();
    let mut options = Options::scope_of(&lab).unwrap();
    options
        .args
        .extend(["--config".to_owned(), config.display().to_string()]);
    let agent = Agent::start_with(&lab, &options).unwrap();

    for wire in Wire::ALL {
        let errand = Errand {
            lab: &lab,
            target: web.target(wire),
            path: lab.cell_path(wire.name()),
            credential: Shape::GitHub.generate(),
        };
        CURL.run(&errand, &lab.inside()).unwrap();
    }
    let told = wait_for(seconds(20), || {
        let told = ask(&socket).ok()?;
        // Both ends of three connections, of which curl's have ended.
        (told["total"]["read"].as_u64()? >= 6).then_some(told)
    });
    cells.check(
        "rows",
        told.context("not six connections read")
            .and_then(|told| rows(&told)),
    );
    cells.check("quic", quic(&lab, &socket));
    cells.check("private", private(&socket));
    cells.check("table", table(&socket));
    cells.check("metrics", prometheus(metrics));
    cells.check("nobody-there", nobody(&lab.path("run/none.sock")));
    stop(agent, &mut cells);
    cells.check(
        "socket-is-gone",
        if socket.exists() {
            Err(anyhow::anyhow!("{} is still there", socket.display()))
        } else {
            Ok(())
        },
    );
    cells.finish();
}

fn coverage(socket: &Path) -> Spec {
    Spec::new(agent::program())
        .arg("coverage")
        .arg("--socket")
        .arg(socket)
}

fn ask(socket: &Path) -> Result<Value> {
    let (_, lines) = run(&coverage(socket).arg("--json"), &Place::default())?;
    Ok(serde_json::from_str(&lines.join("\n"))?)
}

fn rows(told: &Value) -> Result<()> {
    let rows = told["rows"].as_array().context("no rows")?;
    let row = |program: &str, protocol: &str| {
        rows.iter()
            .find(|row| row["program"] == program && row["protocol"] == protocol)
            .with_context(|| format!("no row of {program} and {protocol}: {told:#}"))
    };
    for program in ["/usr/bin/curl", "/usr/sbin/nginx"] {
        let (clear, tls) = (row(program, "http")?, row(program, "tls")?);
        ensure!(clear["read"] == 1 && tls["read"] == 2, "{clear} {tls}");
        ensure!(tls["library"] == "openssl", "{tls}");
    }
    for row in rows {
        let unread = row["unread"].as_object().context("no reasons")?;
        let unread: u64 = unread.values().filter_map(Value::as_u64).sum();
        let of = |name: &str| row[name].as_u64().unwrap_or(u64::MAX);
        ensure!(of("seen") == of("read") + of("undecided") + unread, "{row}");
    }
    ensure!(
        told["counters"]["events.usage"].as_u64() >= Some(6),
        "{told:#}"
    );
    Ok(())
}

/// A socket that is connected to port 443 and one that is not, each used twice: two sockets are listed.
const DATAGRAMS: &str = r#"
import socket
there = ("127.0.0.1", 443)
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(there)
free = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(2):
    for send in (lambda: connected.send(b"x"), lambda: free.sendto(b"x", ("::1", 443)), lambda: other.sendto(b"x", ("127.0.0.1", 53))):
        try:
            send()
        except ConnectionRefusedError:
            pass
"#;

fn quic(lab: &Lab, socket: &Path) -> Result<()> {
    let python = fixtures::python()?;
    run(&Spec::new(&python).args(["-c", DATAGRAMS]), &lab.inside())?;
    let told = wait_for(seconds(20), || {
        let told = ask(socket).ok()?;
        let rows = told["rows"].as_array()?;
        let row = rows.iter().find(|row| row["protocol"] == "quic")?;
        (row["seen"].as_u64()? >= 2).then(|| row.clone())
    });
    let row = told.context("no row of quic with two sockets")?;
    ensure!(row["unread"]["quic"] == 2 && row["seen"] == 2, "{row}");
    Ok(())
}

fn private(socket: &Path) -> Result<()> {
    let mode = std::fs::metadata(socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "mode {mode:o}");
    Ok(())
}

fn table(socket: &Path) -> Result<()> {
    let (_, lines) = run(&coverage(socket), &Place::default())?;
    let curl = lines
        .iter()
        .find(|line| line.contains("/usr/bin/curl") && line.contains("openssl"));
    ensure!(curl.is_some(), "{lines:?}");
    Ok(())
}

fn prometheus(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(seconds(10)))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let line = r#"tokentrail_connections_total{program="/usr/bin/curl",protocol="tls",library="openssl",outcome="read",reason=""} 2"#;
    ensure!(text.contains(line) && text.contains("# EOF"), "{text}");
    Ok(())
}

fn nobody(socket: &Path) -> Result<()> {
    let asked = run(&coverage(socket), &Place::default());
    let said = asked
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(said.contains("none.sock"), "{said:?}");
    Ok(())
}
