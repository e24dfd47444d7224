//! kTLS: nginx leaves the records to the kernel, so that its calls move plaintext: in both directions with TLS 1.2, with
//! TLS 1.3 what it sends (OpenSSL 3.0 opens such records itself). Its clients know nothing of that.

use crate::support::agent::Agent;
use crate::support::clients::{CURL, Errand};
use crate::support::expect::{Expectations, Expected, Side, conclude};
use crate::support::lab::Lab;
use crate::support::report::Cells;
use crate::support::scenario::{Script, both_sides, requests};
use crate::support::servers::{Server, Wire};
use crate::support::token::Shape;
use crate::support::{known, nginx, repeat, turn};
use anyhow::{Context, Result, ensure};
use std::process::Command;

const LISTENERS: [(&str, Wire); 2] = [("ktls12", Wire::Tls12), ("ktls13", Wire::Tls13)];

#[test]
fn kernel_tls() {
    let Some(_turn) = turn("kernel_tls") else {
        return;
    };
    let mut cells = Cells::new("kernel_tls");
    let _ = Command::new("/usr/sbin/modprobe").arg("tls").status();
    let Ok(before) = sockets() else {
        cells.skip("nginx", "this kernel has no kTLS (CONFIG_TLS)");
        cells.finish();
        return;
    };
    let lab = Lab::new("kernel-tls").unwrap();
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let agent = Agent::start(&lab).unwrap();
    known::usual(&agent, &lab).unwrap();
    // The first handshake of a file may be over before the file is known.
    for (listener, wire) in LISTENERS {
        let asked = requests(&lab, &format!("first-{listener}"), 1);
        expected.whatever(&asked[0].credential);
        in_a_row(&lab, &web, listener, wire, &asked).unwrap();
    }
    known::settled(&agent);
    for (listener, wire) in LISTENERS {
        let asked = requests(&lab, &format!("{listener}-row"), repeat(50));
        match in_a_row(&lab, &web, listener, wire, &asked) {
            Ok(both) => expected.add(both),
            Err(error) => cells.check(&format!("{listener}-row"), Err(error)),
        }
        for what in ["small", "medium", "big"] {
            let cell = format!("{listener}-{what}");
            match curl(&lab, &web, listener, wire, &cell, what) {
                Ok(both) => expected.add(both),
                Err(error) => cells.check(&cell, Err(error)),
            }
        }
    }
    cells.check("the-kernel-did-it", used_since(before));
    conclude(&expected, agent, cells);
}

/// Python, all requests on one connection.
fn in_a_row(
    lab: &Lab,
    web: &Server,
    listener: &str,
    wire: Wire,
    asked: &[crate::support::scenario::Request],
) -> Result<Vec<Expected>> {
    let script = Script::new(lab, "keep_alive")?
        .target(&web.listener(listener, wire))
        .requests(asked);
    let executable = script.executable();
    let done = script.run(&lab.inside())?;
    Ok(marked(wire, both_sides(&done, asked, web, &executable)?))
}

fn curl(
    lab: &Lab,
    web: &Server,
    listener: &str,
    wire: Wire,
    cell: &str,
    what: &str,
) -> Result<Vec<Expected>> {
    let path = match what {
        "small" => lab.cell_path(cell),
        file => format!("{}/{file}", lab.cell_path(cell)),
    };
    let errand = Errand {
        lab,
        target: web.listener(listener, wire),
        path,
        credential: Shape::GitHub.generate(),
    };
    let ran = CURL.run(&errand, &lab.inside())?;
    ensure!(ran.status == 200, "status {}", ran.status);
    let fact = web.fact(&errand.path)?;
    let both = Expected::both(cell, &errand.credential, &fact, web, &ran);
    Ok(marked(wire, both))
}

/// With TLS 1.3 the request came in a record that OpenSSL opened.
fn marked(wire: Wire, mut both: Vec<Expected>) -> Vec<Expected> {
    for one in &mut both {
        one.by_kernel = wire == Wire::Tls12 && one.side == Side::Server;
    }
    both
}

/// Sockets that the kernel has made and opened records of, since it runs.
fn sockets() -> Result<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/net/tls_stat")?;
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
        number.with_context(|| format!("no {name}"))
    };
    Ok([of("TlsTxSw")?, of("TlsRxSw")?])
}

fn used_since(before: [u64; 2]) -> Result<()> {
    let after = sockets()?;
    ensure!(
        after[0] >= before[0] + 4 && after[1] >= before[1] + 2,
        "it had {before:?} sockets (sent, received), now {after:?}"
    );
    Ok(())
}
