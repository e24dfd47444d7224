//! The server of demo and bench: nginx in their cgroup, on loopback, cleartext and TLS, with a certificate of its own.

use crate::demo::cgroup;
use crate::interrupt;
use crate::process::{self, Group};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub struct Server {
    group: Group,
    pub site: Site,
}

/// What a client must know of it.
pub struct Site {
    pub http: u16,
    pub https: u16,
    /// The same, HTTP/2.
    pub http2: u16,
    /// What it must trust.
    pub certificate: PathBuf,
}

/// What is configured beyond that: lines of nginx.conf(5).
pub struct Shape {
    /// Beside `events` and `http`.
    pub main: &'static str,
    pub connections: u32,
    /// In `http`.
    pub http: &'static str,
    /// Of both sockets.
    pub listen: &'static str,
    pub locations: &'static str,
}

impl Server {
    /// In the cgroup `scope`.
    pub fn start(scope: &Path, folder: &Path, shape: &Shape, limit: Duration) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let certificate = certificate(folder)?;
        let [http, https, http2] = free_ports()?;
        let site = Site {
            http,
            https,
            http2,
            certificate,
        };
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, configure(folder, &site, shape))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let nginx = process::which("nginx").context("no nginx")?;
        let log = File::create(folder.join("nginx.log"))?;
        let mut command = cgroup::enter(scope, &nginx);
        command
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(&configuration)
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut server = Self {
            group: Group::spawn(&mut command)?,
            site,
        };
        server.wait_until_it_listens(limit, folder)?;
        Ok(server)
    }

    fn wait_until_it_listens(&mut self, limit: Duration, folder: &Path) -> Result<()> {
        let start = Instant::now();
        // A connection is accepted by the kernel as soon as the socket listens; both are bound before that.
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.site.https)).is_err() {
            interrupt::check()?;
            if self.group.ended() || start.elapsed() > limit {
                let said: String = ["nginx.log", "error.log"]
                    .iter()
                    .filter_map(|name| fs::read_to_string(folder.join(name)).ok())
                    .collect();
                bail!("nginx does not listen: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Of localhost, in the folder, its key beside it.
pub fn certificate(folder: &Path) -> Result<PathBuf> {
    let certificate = folder.join("localhost.crt");
    let openssl = process::which("openssl").context("no openssl")?;
    process::output(
        Command::new(openssl)
            .args(["req", "-x509", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            // rustls takes no authority for a server.
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-keyout")
            .arg(folder.join("localhost.key"))
            .arg("-out")
            .arg(&certificate),
    )
    .context("cannot make the server's certificate")?;
    Ok(certificate)
}

/// Ports that nobody listens on at this moment.
fn free_ports() -> Result<[u16; 3]> {
    let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All are held until all are known, so that they differ.
    let held = [listen()?, listen()?, listen()?];
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Demo and bench: the same server, with other bounds.
fn configure(folder: &Path, site: &Site, shape: &Shape) -> String {
    let folder = folder.display();
    let Site {
        http, https, http2, ..
    } = site;
    let Shape {
        main,
        connections,
        http: lines,
        listen,
        locations,
    } = shape;
    format!(
        r#"daemon off;
pid "{folder}/nginx.pid";
worker_processes 1;
{main}
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path "{folder}/body";
    proxy_temp_path "{folder}/proxy";
    fastcgi_temp_path "{folder}/fastcgi";
    uwsgi_temp_path "{folder}/uwsgi";
    scgi_temp_path "{folder}/scgi";
    ssl_certificate "{folder}/localhost.crt";
    ssl_certificate_key "{folder}/localhost.key";
    {lines}
    default_type application/json;
    server {{
        listen 127.0.0.1:{http} {listen};
        listen 127.0.0.1:{https} ssl {listen};
        listen 127.0.0.1:{http2} ssl http2;
        server_name localhost;
        {locations}
        location / {{ return 200 '{{"ok":true}}\n'; }}
    }}
}}
"#
    )
}
