//! Certificates, keys and API keys of outputs change in practice: a new one is taken by SIGHUP, by a worker that may open
//! no file any more; one that is wrong changes nothing.

use crate::support::agent::{Agent, Options};
use crate::support::expect::stop;
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec, run};
use crate::support::report::Cells;
use crate::support::{fixtures, seconds, turn, wait_for};
use anyhow::{Context, Result};
use rustix::process::Signal;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

#[test]
fn rotate() {
    let Some(_turn) = turn("rotate") else { return };
    let lab = Lab::new("rotate").unwrap();
    let mut cells = Cells::new("rotate");
    let (_server, port) = receiver(&lab).unwrap();
    for (user, id) in [("root", 0), ("nobody", 65_534)] {
        let spool = lab.path(&format!("spool-{user}"));
        std::fs::create_dir(&spool).unwrap();
        std::os::unix::fs::chown(&spool, Some(id), Some(id)).unwrap();
        let cell = |name: &str| format!("{user}-{name}");
        let config = |more: &str| {
            let text = format!(
                "[agent]\nreport_seconds = 1\nuser = \"{user}\"\n[spool]\npath = {spool:?}\n[http]\n\
                 endpoint = \"https://localhost:{port}/{user}\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
                 headers = {{ x-api-key = \"file:{}\" }}\n{more}",
                lab.path("ca.pem"),
                lab.path("agent.pem"),
                lab.path("agent.key"),
                lab.path("api-key").display(),
            );
            std::fs::write(lab.path("agent.toml"), text)
        };
        config("").unwrap();
        put(&lab, ["one.pem", "one.key"], "first").unwrap();
        let mut options = Options::scope_of(&lab).unwrap();
        let path = lab.path("agent.toml").to_string_lossy().into_owned();
        options.args.extend(["--config".to_owned(), path]);
        let agent = Agent::start_with(&lab, &options).unwrap();
        let comes = |who: &str| comes(&lab, &agent, &format!("/{user} CN={who}"));
        cells.check(&cell("before"), comes("one first"));

        put(&lab, ["two.pem", "two.key"], "second").unwrap();
        agent.signal(Signal::HUP).unwrap();
        cells.check(&cell("after"), comes("two second"));

        // The key of another certificate: what there was goes on.
        put(&lab, ["one.pem", "two.key"], "third").unwrap();
        agent.signal(Signal::HUP).unwrap();
        cells.check(
            &cell("wrong"),
            says(&agent, "does not belong to the certificate"),
        );
        cells.check(&cell("goes-on"), comes("two second"));

        put(&lab, ["one.pem", "one.key"], "fourth").unwrap();
        config("batch_events = 7\n[syslog]\naddress = \"udp://127.0.0.1:9\"\n").unwrap();
        agent.signal(Signal::HUP).unwrap();
        cells.check(&cell("again"), comes("one fourth"));
        let restart = "syslog.address has changed, which needs a restart";
        cells.check(&cell("restart"), says(&agent, restart));
        cells.check(&cell("named"), says(&agent, "http.batch_events"));
        stop(agent, &mut cells);
    }
    cells.finish();
}

/// Certificates of two agents, and an nginx that takes both and writes down who has come with which key.
fn receiver(lab: &Lab) -> Result<(Program, u16)> {
    certify(lab, "ca", &[])?;
    for name in ["one", "two", "server"] {
        let authority = ["-CA", "ca.pem", "-CAkey", "ca.key"];
        let leaf = ["basicConstraints=CA:FALSE", "subjectAltName=DNS:localhost"];
        let more = authority
            .into_iter()
            .chain(leaf.into_iter().flat_map(|one| ["-addext", one]));
        certify(lab, name, &more.collect::<Vec<_>>())?;
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let folder = lab.folder().display();
    let config = format!(
        "daemon off; worker_processes 1; pid {folder}/receiver.pid; error_log {folder}/receiver.error;\n\
         events {{}}\nhttp {{ log_format who '$uri $ssl_client_s_dn $http_x_api_key';\n\
         access_log {folder}/receiver.log who; client_body_temp_path {folder}/body; client_max_body_size 0;\n\
         server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;\n\
         ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; location / {{ return 200; }} }} }}\n",
    );
    std::fs::write(lab.path("receiver.conf"), config)?;
    let spec = Spec::new(fixtures::system("/usr/sbin/nginx")?)
        .arg("-p")
        .arg(lab.folder())
        .arg("-c")
        .arg(lab.path("receiver.conf"));
    // Out of the scope: what it reads is no traffic of the test.
    let program = Program::start(&spec, &lab.outside())?.gently();
    let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
    wait_for(seconds(20), listens).with_context(|| format!("nginx: {}", program.stderr()))?;
    Ok((program, port))
}

/// NAME.pem and NAME.key.
fn certify(lab: &Lab, name: &str, more: &[&str]) -> Result<()> {
    let spec = Spec::new(fixtures::system("/usr/bin/openssl")?)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj"])
        .arg(format!("/CN={name}"))
        .args([
            "-out",
            &format!("{name}.pem"),
            "-keyout",
            &format!("{name}.key"),
        ])
        .args(more.iter().copied())
        .folder(lab.folder());
    run(&spec, &Place::default()).map(drop)
}

/// Certificate and key, and the key of the API, each in one step, as those who rotate them do.
fn put(lab: &Lab, [certificate, key]: [&str; 2], api_key: &str) -> Result<()> {
    let text = |name| std::fs::read_to_string(lab.path(name));
    for (name, text) in [
        ("agent.pem", text(certificate)?),
        ("agent.key", text(key)?),
        ("api-key", format!("{api_key}\n")),
    ] {
        let new = lab.path("new");
        std::fs::write(&new, text)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(new, lab.path(name))?;
    }
    Ok(())
}

/// A batch that arrives from now on comes from `who`.
fn comes(lab: &Lab, agent: &Agent, who: &str) -> Result<()> {
    let log = || std::fs::read_to_string(lab.path("receiver.log")).unwrap_or_default();
    let before = log().len();
    let arrived = wait_for(seconds(30), || log()[before..].contains(who).then_some(()));
    arrived.with_context(|| format!("nothing of {who} in {}: {}", log(), agent.stderr()))
}

fn says(agent: &Agent, words: &str) -> Result<()> {
    let said = wait_for(seconds(20), || agent.stderr().contains(words).then_some(()));
    said.with_context(|| format!("nothing says {words:?}: {}", agent.stderr()))
}
