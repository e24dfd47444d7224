//! The bench's server: one nginx worker in the cgroup, cleartext and TLS, which keeps connections as long as wanted.

use crate::demo::cgroup::Cgroup;
use crate::interrupt;
use crate::process::{self, Group};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

pub struct Server {
    _group: Group,
    pub http: u16,
    pub https: u16,
}

impl Server {
    pub fn start(cgroup: &Cgroup, folder: &Path, limit: Duration) -> Result<Self> {
        let openssl = process::which("openssl").context("no openssl")?;
        process::output(
            Command::new(openssl)
                .args(["req", "-x509", "-newkey", "ec"])
                .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
                .args(["-days", "2", "-subj", "/CN=localhost", "-keyout"])
                .arg(folder.join("server.key"))
                .arg("-out")
                .arg(folder.join("server.crt")),
        )?;
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        // Both are held until both are known, so that they differ.
        let (first, second) = (listen()?, listen()?);
        let (http, https) = (first.local_addr()?.port(), second.local_addr()?.port());
        drop((first, second));
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, configure(folder, http, https))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let nginx = process::which("nginx").context("no nginx")?;
        let log = File::create(folder.join("nginx.log"))?;
        let mut command = cgroup.command(&nginx);
        command
            .arg("-e")
            .arg(folder.join("error.log"))
            .arg("-c")
            .arg(&configuration)
            .stdout(log.try_clone()?)
            .stderr(log);
        let group = Group::spawn(&mut command)?;
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, https)).is_err() {
            interrupt::check()?;
            if group.ended() || start.elapsed() > limit {
                let said = fs::read_to_string(folder.join("error.log")).unwrap_or_default();
                bail!("nginx does not listen: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Self {
            _group: group,
            http,
            https,
        })
    }
}

fn configure(folder: &Path, http: u16, https: u16) -> String {
    let folder = folder.display();
    format!(
        r#"daemon off;
pid "{folder}/nginx.pid";
user root;
worker_processes 1;
worker_rlimit_nofile 32768;
events {{ worker_connections 30000; }}
http {{
    access_log off;
    client_body_temp_path "{folder}/body";
    proxy_temp_path "{folder}/proxy";
    fastcgi_temp_path "{folder}/fastcgi";
    uwsgi_temp_path "{folder}/uwsgi";
    scgi_temp_path "{folder}/scgi";
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    ssl_certificate "{folder}/server.crt";
    ssl_certificate_key "{folder}/server.key";
    ssl_protocols TLSv1.3;
    # A new connection is a full handshake.
    ssl_session_cache off;
    ssl_session_tickets off;
    default_type application/json;
    server {{
        listen 127.0.0.1:{http} backlog=16384;
        listen 127.0.0.1:{https} ssl backlog=16384;
        server_name localhost;
        location / {{ return 200 '{{"ok":true}}\n'; }}
    }}
}}
"#
    )
}
