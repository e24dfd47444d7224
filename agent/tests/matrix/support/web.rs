//! More web servers: each with a listener `clear` and a listener `tls`, and a line of facts for each request.

use super::fixtures;
use super::lab::Lab;
use super::nginx::{free_ports, user_id};
use super::process::{Place, Program, Spec};
use super::servers::{Server, own_user};
use super::{seconds, wait_for};
use anyhow::{Context, Result, bail};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

/// How a server is started, with a port for each listener.
type Start = fn(&Lab, &Ports) -> Result<Started>;

pub struct Web {
    pub name: &'static str,
    start: Start,
}

pub struct Ports {
    clear: u16,
    tls: u16,
    log: PathBuf,
}

struct Started {
    /// One command, or one for each listener.
    specs: Vec<Spec>,
    executable: PathBuf,
    user: u32,
}

pub const ALL: [Web; 6] = [
    Web {
        name: "apache",
        start: apache,
    },
    Web {
        name: "haproxy",
        start: haproxy,
    },
    Web {
        name: "uvicorn",
        start: uvicorn,
    },
    Web {
        name: "hypercorn",
        start: hypercorn,
    },
    Web {
        name: "granian",
        start: granian,
    },
    Web {
        name: "deno",
        start: deno,
    },
];

impl Web {
    pub fn start(&self, lab: &Lab, place: &Place) -> Result<Server> {
        let listeners = ["clear", "tls"].map(|name| (name.to_owned(), "127.0.0.1:0"));
        let ports = free_ports(listeners.into_iter())?;
        let log = lab.path(&format!("{}.log", self.name));
        let chosen = Ports {
            clear: ports["clear"],
            tls: ports["tls"],
            log: log.clone(),
        };
        let Started {
            specs,
            executable,
            user,
        } = (self.start)(lab, &chosen)?;
        let mut programs = Vec::new();
        for spec in &specs {
            programs.push(Program::start(&spec.clone().folder(lab.folder()), place)?.gently());
        }
        let ready = wait_for(seconds(30), || {
            if programs.iter_mut().any(|program| !program.is_running()) {
                return Some(false);
            }
            ports.values().all(|port| listens(*port)).then_some(true)
        });
        if ready != Some(true) {
            let said: Vec<_> = programs.iter().map(Program::stderr).collect();
            bail!("{} does not start: {}", self.name, said.join("\n"));
        }
        Ok(Server {
            name: self.name,
            executable,
            user,
            _programs: programs,
            ports,
            log,
        })
    }
}

fn listens(port: u16) -> bool {
    TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

fn written(lab: &Lab, name: &str, text: &str) -> Result<PathBuf> {
    let path = lab.path(name);
    std::fs::write(&path, text).with_context(|| format!("write {name}"))?;
    Ok(path)
}

fn apache(lab: &Lab, ports: &Ports) -> Result<Started> {
    let executable = fixtures::system("/usr/sbin/apache2")?;
    let (folder, log) = (lab.folder().display(), ports.log.display());
    let (certificate, key) = (lab.certificate(), lab.private_key());
    let modules: String = ["mpm_event", "authz_core", "ssl", "http2", "alias"]
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let page = written(lab, "apache.txt", "ok\n")?;
    let config = written(
        lab,
        "apache.conf",
        &format!(
            r#"{modules}
ServerName localhost
ServerRoot {folder}
PidFile {folder}/apache.pid
DefaultRuntimeDir {folder}
Mutex pthread
ErrorLog {folder}/apache.error
User www-data
Group www-data
StartServers 1
ServerLimit 1
MaxRequestWorkers 25
MaxKeepAliveRequests 0
Listen 127.0.0.1:{clear}
Listen 127.0.0.1:{tls}
Protocols h2 h2c http/1.1
H2Upgrade on
LogFormat "{{\"path\":\"%U\",\"method\":\"%m\",\"status\":%>s,\"pid\":%P,\"tls\":\"\",\"remote\":\"%{{c}}a\",\"remote_port\":%{{remote}}p,\"local\":\"%A\",\"local_port\":%{{local}}p}}" facts
CustomLog {log} facts
AliasMatch ^/cell/ {page}
<Directory {folder}>
  Require all granted
</Directory>
<VirtualHost 127.0.0.1:{tls}>
  SSLEngine on
  SSLCertificateFile {certificate}
  SSLCertificateKeyFile {key}
</VirtualHost>
"#,
            clear = ports.clear,
            tls = ports.tls,
            certificate = certificate.display(),
            key = key.display(),
            page = page.display(),
        ),
    )?;
    let spec = Spec::new(&executable)
        .arg("-f")
        .arg(config)
        .arg("-DFOREGROUND");
    Ok(Started {
        specs: vec![spec],
        executable,
        user: user_id("www-data")?,
    })
}

fn haproxy(lab: &Lab, ports: &Ports) -> Result<Started> {
    let executable = fixtures::system("/usr/sbin/haproxy")?;
    // It takes both from one file.
    let mut pem = std::fs::read_to_string(lab.certificate())?;
    pem += &std::fs::read_to_string(lab.private_key())?;
    let pem = written(lab, "haproxy.pem", &pem)?;
    let config = written(
        lab,
        "haproxy.conf",
        &format!(
            r#"global
  log stdout format raw local0
defaults
  mode http
  log global
  timeout client 900s
  timeout connect 10s
  timeout server 900s
  log-format '{{"path":"%HPO","method":"%HM","status":%ST,"pid":%pid,"tls":"","remote":"%ci","remote_port":%cp,"local":"%fi","local_port":%fp}}'
frontend tests
  bind 127.0.0.1:{clear}
  bind 127.0.0.1:{tls} ssl crt {pem} alpn h2,http/1.1
  http-request return status 200 content-type text/plain string ok
"#,
            clear = ports.clear,
            tls = ports.tls,
            pem = pem.display()
        ),
    )?;
    // Its log is its standard output.
    let line = format!(
        "exec {} -db -f {} > {}",
        executable.display(),
        config.display(),
        ports.log.display()
    );
    Ok(Started {
        specs: vec![Spec::new("/bin/sh").arg("-c").arg(line)],
        executable,
        user: own_user(),
    })
}

/// The same application under one of the servers for such, once for each listener.
fn asgi(
    lab: &Lab,
    ports: &Ports,
    module: &str,
    words: fn(&Lab, u16, bool) -> Vec<String>,
) -> Result<Started> {
    let python = fixtures::venv_python()?;
    let spec = |port, tls| {
        Spec::new(&python)
            .args(["-m", module, "server_asgi:app"])
            .args(words(lab, port, tls))
            .env("FACTS", &ports.log)
    };
    let specs = vec![spec(ports.clear, false), spec(ports.tls, true)];
    Ok(Started {
        executable: specs[0].executable(),
        specs,
        user: own_user(),
    })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn uvicorn(lab: &Lab, ports: &Ports) -> Result<Started> {
    asgi(lab, ports, "uvicorn", |lab, port, tls| {
        let mut words = vec!["--host=127.0.0.1".into(), format!("--port={port}")];
        words.push("--no-access-log".into());
        if tls {
            words.push(format!("--ssl-certfile={}", text(&lab.certificate())));
            words.push(format!("--ssl-keyfile={}", text(&lab.private_key())));
        }
        words
    })
}

fn hypercorn(lab: &Lab, ports: &Ports) -> Result<Started> {
    asgi(lab, ports, "hypercorn", |lab, port, tls| {
        let mut words = vec![format!("--bind=127.0.0.1:{port}")];
        if tls {
            words.push(format!("--certfile={}", text(&lab.certificate())));
            words.push(format!("--keyfile={}", text(&lab.private_key())));
        }
        words
    })
}

/// Its TLS is rustls.
fn granian(lab: &Lab, ports: &Ports) -> Result<Started> {
    asgi(lab, ports, "granian", |lab, port, tls| {
        let mut words = vec!["--interface=asgi".into(), "--host=127.0.0.1".into()];
        words.push(format!("--port={port}"));
        words.push("--ssl-protocol-min=tls1.2".into());
        if tls {
            words.push(format!("--ssl-certificate={}", text(&lab.certificate())));
            words.push(format!("--ssl-keyfile={}", text(&lab.private_key())));
        }
        words
    })
}

/// Its TLS is rustls.
fn deno(lab: &Lab, ports: &Ports) -> Result<Started> {
    let config = serde_json::json!({
        "certificate": lab.certificate(), "key": lab.private_key(), "log": ports.log,
        "clear": ports.clear, "tls": ports.tls,
    });
    let spec = Spec::new(fixtures::venv_program("deno")?)
        .args(["run", "--quiet", "--allow-all", "--no-config", "--no-lock"])
        .arg(lab.path("server_deno.mjs"))
        .env("DENO_DIR", lab.path("deno"))
        .env("DENO_NO_UPDATE_CHECK", "1")
        .env("CONFIG", config.to_string());
    Ok(Started {
        executable: spec.executable(),
        specs: vec![spec],
        user: own_user(),
    })
}
