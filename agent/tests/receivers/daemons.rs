//! rsyslog and syslog-ng over every transport: what they wrote is what was sent.

use crate::samples;
use crate::support::{Certificates, Program, asked, eventually, fixture, listens, ports};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokentrail_agent::config::{self, Encoding, Ranged};
use tokentrail_agent::sink::batch::{Batch, Outcome, Receiver};
use tokentrail_agent::sink::{ocsf, syslog};

pub struct Daemon {
    name: &'static str,
    command: fn(&Path) -> Command,
    program: Program,
    folder: PathBuf,
    certificates: Certificates,
    udp: u16,
    tcp: u16,
    tls: u16,
}

/// Folder and ports are filled into the configuration.
fn start(
    name: &'static str,
    folder: &Path,
    template: &str,
    command: fn(&Path) -> Command,
) -> Daemon {
    let certificates = Certificates::make(folder);
    let [udp, tcp, tls] = ports();
    let text = template
        .replace("FOLDER", &folder.display().to_string())
        .replace("UDP", &udp.to_string())
        .replace("TCP", &tcp.to_string())
        .replace("TLS", &tls.to_string());
    fs::write(folder.join("daemon.conf"), text).unwrap();
    let program = run(name, folder, [tcp, tls], &mut command(folder));
    Daemon {
        name,
        command,
        program,
        folder: folder.to_owned(),
        certificates,
        udp,
        tcp,
        tls,
    }
}

/// Until it listens; what one that was killed has left behind does not count.
fn run(name: &str, folder: &Path, ports: [u16; 2], command: &mut Command) -> Program {
    let sockets = ["dgram", "stream"].map(|socket| folder.join(socket));
    for left in sockets.iter().chain([&folder.join("daemon.pid")]) {
        let _ = fs::remove_file(left);
    }
    let mut program = Program::start(command, &folder.join("daemon.log"));
    program.wait_until(|| {
        ports.into_iter().all(listens) && sockets.iter().all(|socket| socket.exists())
    });
    println!("{name} listens");
    program
}

const RSYSLOG: &str = r#"
global(workDirectory="FOLDER" maxMessageSize="128k" defaultNetstreamDriverCAFile="FOLDER/ca.pem"
  defaultNetstreamDriverCertFile="FOLDER/server.pem" defaultNetstreamDriverKeyFile="FOLDER/server.key")
module(load="imudp")
module(load="imuxsock" sysSock.Use="off")
module(load="imptcp")
module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1" StreamDriver.AuthMode="x509/name"
  PermittedPeer=["agent.test"])
template(name="line" type="string" string="%app-name% %procid% %msgid% %structured-data% %msg%\n")
ruleset(name="all") { action(type="omfile" file="FOLDER/out" template="line") }
input(type="imudp" address="127.0.0.1" port="UDP" ruleset="all")
input(type="imptcp" address="127.0.0.1" port="TCP" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="TLS" ruleset="all")
input(type="imuxsock" socket="FOLDER/dgram" useSpecialParser="off" ruleset="all")
input(type="imptcp" path="FOLDER/stream" ruleset="all")
"#;

/// It adds structured data of its own to what comes over Unix sockets.
const SYSLOG_NG: &str = r#"
@version: 3.38
options { keep-hostname(yes); log-msg-size(131072); };
source all {
  syslog(ip("127.0.0.1") port(UDP) transport("udp"));
  syslog(ip("127.0.0.1") port(TCP) transport("tcp"));
  syslog(ip("127.0.0.1") port(TLS) transport("tls") tls(key-file("FOLDER/server.key") cert-file("FOLDER/server.pem")
    ca-file("FOLDER/ca.pem") peer-verify(required-trusted)));
  unix-dgram("FOLDER/dgram" flags(syslog-protocol));
  unix-stream("FOLDER/stream" flags(syslog-protocol));
};
destination out { file("FOLDER/out" template(
  "${PROGRAM} ${PID} ${MSGID} [tokentrail@32473 agent=\"${.SDATA.tokentrail@32473.agent}\" epoch=\"${.SDATA.tokentrail@32473.epoch}\" sequence=\"${.SDATA.tokentrail@32473.sequence}\" first=\"${.SDATA.tokentrail@32473.first}\" last=\"${.SDATA.tokentrail@32473.last}\"] ${MSG}\n")); };
log { source(all); destination(out); };
"#;

fn libraries(root: &Path, inner: &[&str]) -> String {
    let folders: Vec<String> = inner
        .iter()
        .map(|inner| root.join(inner).display().to_string())
        .collect();
    folders.join(":")
}

fn rsyslogd(folder: &Path) -> Command {
    let root = fixture("daemons/rsyslog");
    let mut command = Command::new(root.join("usr/sbin/rsyslogd"));
    command
        .arg("-n")
        .arg("-f")
        .arg(folder.join("daemon.conf"))
        .arg("-i")
        .arg(folder.join("daemon.pid"))
        .arg("-M")
        .arg(root.join(format!("{LIBRARIES}/rsyslog")))
        .env("LD_LIBRARY_PATH", libraries(&root, &[LIBRARIES]));
    command
}

fn syslog_ngd(folder: &Path) -> Command {
    let root = fixture("daemons/syslog-ng");
    let modules = fs::read_dir(root.join("usr/lib/syslog-ng"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let mut command = Command::new(root.join("usr/sbin/syslog-ng"));
    command
        .args(["-F", "-e", "--no-caps", "-f"])
        .arg(folder.join("daemon.conf"))
        .arg("-R")
        .arg(folder.join("persist"))
        .arg("-p")
        .arg(folder.join("daemon.pid"))
        .arg("-c")
        .arg(folder.join("control"))
        .arg(format!("--module-path={}", modules.display()))
        .env(
            "LD_LIBRARY_PATH",
            libraries(
                &root,
                &["usr/lib/syslog-ng", LIBRARIES, "lib/x86_64-linux-gnu"],
            ),
        );
    command
}

pub fn rsyslog(folder: &Path) -> Daemon {
    start("rsyslog", folder, RSYSLOG, rsyslogd)
}

pub fn syslog_ng(folder: &Path) -> Daemon {
    start("syslog-ng", folder, SYSLOG_NG, syslog_ngd)
}

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

impl Daemon {
    /// `kill -9`; it stays away until [`start_again`](Self::start_again).
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// At the same ports.
    pub fn start_again(&mut self) {
        let mut command = (self.command)(&self.folder);
        self.program = run(self.name, &self.folder, [self.tcp, self.tls], &mut command);
    }

    pub fn tls_receiver(&self) -> impl Receiver + use<> {
        self.receiver(format!("tls://localhost:{}", self.tls))
    }

    fn config(&self, address: String) -> config::Syslog {
        config::Syslog {
            address: Some(address),
            ca: Some(self.certificates.certificate("ca")),
            certificate: Some(self.certificates.certificate("agent")),
            key: Some(self.certificates.key("agent")),
            datagram_bytes: Ranged::new(60_000),
            ..config::Syslog::default()
        }
    }

    fn receiver(&self, address: String) -> impl Receiver + use<> {
        syslog::from_config(&self.config(address)).unwrap().unwrap()
    }

    /// The whole ones: the daemon writes a long line in parts.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read(self.folder.join("out")).unwrap_or_default();
        String::from_utf8_lossy(&text)
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .map(str::to_owned)
            .collect()
    }
}

/// As the templates above write it.
fn line(batch: &Batch, index: usize, message: &str) -> String {
    let event = &batch.events[index];
    let kind = serde_json::from_slice::<serde_json::Value>(&event.json).unwrap()["kind"].clone();
    format!(
        "tokentrail-agent {} {} [tokentrail@32473 agent=\"{}\" epoch=\"{}\" sequence=\"{}\" first=\"{}\" last=\"{}\"] {message}",
        batch.epoch,
        kind.as_str().unwrap(),
        batch.agent,
        batch.epoch,
        event.sequence,
        batch.first(),
        batch.last(),
    )
}

fn carries_everything(daemon: &Daemon) {
    let mut expected = Vec::new();
    let addresses = [
        format!("udp://127.0.0.1:{}", daemon.udp),
        format!("tcp://127.0.0.1:{}", daemon.tcp),
        format!("tls://localhost:{}", daemon.tls),
        format!("unix:{}", daemon.folder.join("dgram").display()),
        format!("unix-stream:{}", daemon.folder.join("stream").display()),
    ];
    let mut sequence = 1;
    for address in addresses {
        let mut receiver = daemon.receiver(address.clone());
        // Twice, so that the second uses what the first opened.
        for _ in 0..2 {
            let batch = samples::batch(sequence, 1);
            sequence += batch.events.len() as u64;
            let outcome = receiver.send(&batch);
            assert!(
                matches!(outcome, Outcome::Accepted { rejected: 0, .. }),
                "{address}: {outcome:?}"
            );
            for (index, event) in batch.events.iter().enumerate() {
                let json = String::from_utf8_lossy(&event.json);
                expected.push(line(&batch, index, &json));
            }
        }
        // One transport after the other, so that the order in the file is known.
        eventually(&address, || {
            let count = daemon.lines().len();
            if count >= expected.len() {
                Ok(())
            } else {
                Err(format!(
                    "{count} of {}: {}",
                    expected.len(),
                    daemon.program.said()
                ))
            }
        });
    }
    for (at, (written, expected)) in daemon.lines().iter().zip(&expected).enumerate() {
        assert_eq!(written, expected, "line {at}");
    }
    assert_eq!(daemon.lines().len(), expected.len());
}

fn refuses_strangers(daemon: &Daemon) {
    let address = format!("tls://127.0.0.1:{}", daemon.tls);
    let certificates = &daemon.certificates;
    let stranger = config::Syslog {
        certificate: Some(certificates.certificate("stranger")),
        key: Some(certificates.key("stranger")),
        ..daemon.config(address.clone())
    };
    let other_ca = config::Syslog {
        ca: Some(certificates.certificate("other-ca")),
        ..daemon.config(address.clone())
    };
    let other_name = daemon.config(format!("tls://127.0.0.2:{}", daemon.tls));
    let before = daemon.lines().len();
    for (what, config) in [
        ("a stranger", stranger),
        ("another authority", other_ca),
        ("another name", other_name),
    ] {
        let mut receiver = syslog::from_config(&config).unwrap().unwrap();
        for _ in 0..2 {
            let outcome = receiver.send(&samples::small(1, 1));
            assert!(
                matches!(outcome, Outcome::Retry { .. }),
                "{what}: {outcome:?}"
            );
        }
    }
    assert_eq!(daemon.lines().len(), before);
}

fn takes_ocsf(daemon: &Daemon) {
    let before = daemon.lines().len();
    let config = config::Syslog {
        encoding: Encoding::Ocsf,
        ..daemon.config(format!("tls://127.0.0.1:{}", daemon.tls))
    };
    let batch = samples::batch(1, 1);
    let outcome = syslog::from_config(&config).unwrap().unwrap().send(&batch);
    assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
    let lines = eventually("OCSF", || {
        let lines = daemon.lines().split_off(before);
        if lines.len() == batch.events.len() {
            Ok(lines)
        } else {
            Err(format!("{} lines", lines.len()))
        }
    });
    for (index, written) in lines.iter().enumerate() {
        let ocsf = ocsf::encode(&batch.events[index].json).unwrap();
        assert_eq!(
            *written,
            line(&batch, index, &String::from_utf8(ocsf).unwrap())
        );
    }
}

fn large_events_fit_streams_only(daemon: &Daemon) {
    let before = daemon.lines().len();
    let batch = samples::large(77, 70_000);
    for address in [
        format!("udp://127.0.0.1:{}", daemon.udp),
        format!("unix:{}", daemon.folder.join("dgram").display()),
    ] {
        let outcome = daemon.receiver(address).send(&batch);
        assert!(matches!(outcome, Outcome::TooLarge { .. }), "{outcome:?}");
    }
    let outcome = daemon
        .receiver(format!("tls://127.0.0.1:{}", daemon.tls))
        .send(&batch);
    assert!(matches!(outcome, Outcome::Accepted { .. }), "{outcome:?}");
    let json = String::from_utf8_lossy(&batch.events[0].json).into_owned();
    let expected = line(&batch, 0, &json);
    let written = eventually("a large event", || {
        daemon
            .lines()
            .split_off(before)
            .pop()
            .ok_or("nothing".to_owned())
    });
    assert_eq!(written, expected);
}

fn everything(daemon: &Daemon) {
    carries_everything(daemon);
    refuses_strangers(daemon);
    takes_ocsf(daemon);
    large_events_fit_streams_only(daemon);
}

#[test]
fn rsyslog_writes_what_was_sent() {
    if asked("rsyslog") {
        let folder = tempfile::tempdir().unwrap();
        everything(&rsyslog(folder.path()));
    }
}

#[test]
fn syslog_ng_writes_what_was_sent() {
    if asked("syslog-ng") {
        let folder = tempfile::tempdir().unwrap();
        everything(&syslog_ng(folder.path()));
    }
}
