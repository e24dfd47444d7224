//! nginx: every kind of listener, two workers as www-data, and a log that says of each request what it knows.

use super::lab::Lab;
use super::process::{Place, Program, Spec};
use super::servers::{Server, Wire, own_user};
use super::{fixtures, seconds, wait_for};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

const TEMPORARY: [&str; 5] = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];

/// Starts it in the given place.
///
/// `upstream` is a cleartext server that `/gateway/` passes on to.
pub fn start(lab: &Lab, place: &Place, upstream: Option<SocketAddr>) -> Result<Server> {
    let executable = fixtures::system("/usr/sbin/nginx")?;
    std::fs::write(
        lab.path("big.bin"),
        b"big body of the test server\n".repeat(80_000),
    )?;
    std::fs::write(
        lab.path("medium.bin"),
        b"body of the test server\n".repeat(1_700),
    )?;
    dumb_repository(lab)?;
    let mut last = anyhow::anyhow!("not tried");
    // Another program may take a port between its choice and its use.
    for _ in 0..3 {
        let names = [
            "http",
            "tls12",
            "tls13",
            "hrr",
            "h2",
            "h2_clear",
            "ktls12",
            "ktls13",
            "proxied_http",
            "proxied_tls13",
        ];
        let v4 = names.map(|name| (name.to_owned(), "127.0.0.1:0"));
        let v6 = Wire::ALL.map(|wire| (format!("{}_v6", wire.name()), "[::1]:0"));
        let ports = free_ports(v4.into_iter().chain(v6))?;
        std::fs::write(lab.path("nginx.conf"), nginx_config(lab, &ports, upstream))?;
        let _ = std::fs::remove_file(lab.path("nginx.pid"));
        let spec = Spec::new(&executable)
            .arg("-p")
            .arg(lab.folder())
            .arg("-c")
            .arg(lab.path("nginx.conf"));
        let mut program =
            Program::start(&spec.arg("-e").arg(lab.path("nginx.error")), place)?.gently();
        let written =
            || std::fs::read_to_string(lab.path("nginx.pid")).is_ok_and(|pid| pid.ends_with('\n'));
        let running = wait_for(seconds(20), || match program.is_running() {
            true => written().then_some(true),
            false => Some(false),
        });
        if running == Some(true) {
            let user = if rustix::process::geteuid().is_root() {
                user_id("www-data")?
            } else {
                own_user()
            };
            return Ok(Server {
                name: "nginx",
                executable,
                user,
                _programs: vec![program],
                ports,
                log: lab.path("nginx.log"),
            });
        }
        last = anyhow::anyhow!("nginx does not start: {}", program.stderr());
    }
    Err(last)
}

fn nginx_config(lab: &Lab, ports: &BTreeMap<String, u16>, upstream: Option<SocketAddr>) -> String {
    let folder = lab.folder().display();
    let port = |name: &str| ports[name];
    let temporary: String = TEMPORARY
        .iter()
        .map(|name| format!("  {name}_temp_path {folder}/nginx-{name};\n"))
        .collect();
    let gateway = upstream.map_or(String::new(), |upstream| {
        format!(
            "location /gateway/ {{ proxy_pass http://{upstream}/; proxy_http_version 1.1;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}"
        )
    });
    let locations = format!(
        r#"location / {{ return 200 "ok\n"; }}
location ~ /status/204$ {{ return 204; }}
location ~ /status/401$ {{ add_header WWW-Authenticate 'Bearer realm="test"' always; return 401 "no\n"; }}
location ~ /status/404$ {{ return 404 "no\n"; }}
location ~ /status/500$ {{ return 500 "no\n"; }}
location ~ ^/cell/[^/]+/big$ {{ alias {folder}/big.bin; }}
location ~ ^/cell/[^/]+/slow$ {{ sendfile off; limit_rate 3m; alias {folder}/big.bin; }}
location ~ ^/cell/[^/]+/medium$ {{ sendfile off; alias {folder}/medium.bin; }}
location ~ ^/cell/[^/]+/repository\.git/(.*)$ {{
  if ($http_authorization = "") {{ return 401 "no\n"; }}
  add_header WWW-Authenticate 'Basic realm="test"' always;
  alias {folder}/repository.git/$1;
}}
{gateway}
"#
    );
    let server = |listen: &str, more: &str| format!("server {{ {listen} {more}\n{locations} }}\n");
    let tls = |name: &str, version: &str, more: &str| {
        let v6 = ports
            .get(&format!("{name}_v6"))
            .map_or(String::new(), |v6| format!("listen [::1]:{v6} ssl;"));
        server(
            &format!("listen 127.0.0.1:{} ssl; {v6}", port(name)),
            &format!("ssl_protocols {version}; {more}"),
        )
    };
    let servers = [
        server(
            &format!(
                "listen 127.0.0.1:{}; listen [::1]:{}; listen unix:{folder}/nginx.sock;",
                port("http"),
                port("http_v6")
            ),
            "",
        ),
        server(
            &format!("listen 127.0.0.1:{} proxy_protocol;", port("proxied_http")),
            "",
        ),
        server(
            &format!(
                "listen 127.0.0.1:{} ssl proxy_protocol;",
                port("proxied_tls13")
            ),
            "ssl_protocols TLSv1.3;",
        ),
        tls("tls12", "TLSv1.2", ""),
        tls("tls13", "TLSv1.3", ""),
        // Where the kernel can, it makes and opens the records.
        tls("ktls12", "TLSv1.2", "ssl_conf_command Options KTLS;"),
        tls("ktls13", "TLSv1.3", "ssl_conf_command Options KTLS;"),
        server(
            &format!("listen 127.0.0.1:{} ssl http2;", port("h2")),
            "ssl_protocols TLSv1.2 TLSv1.3;",
        ),
        server(&format!("listen 127.0.0.1:{} http2;", port("h2_clear")), ""),
        // A curve that no client offers a share of first: HelloRetryRequest.
        tls("hrr", "TLSv1.3", "ssl_ecdh_curve secp521r1:secp384r1;"),
    ]
    .concat();
    format!(
        r#"daemon off; worker_processes 2; user www-data; pid {folder}/nginx.pid;
error_log {folder}/nginx.error info;
events {{ worker_connections 1024; }}
http {{
  log_format facts escape=json '{{"path":"$uri","method":"$request_method","status":$status,"pid":$pid,'
    '"tls":"$ssl_protocol","http":"$server_protocol","remote":"$remote_addr","remote_port":"$remote_port",'
    '"local":"$server_addr","local_port":"$server_port"}}';
  access_log {folder}/nginx.log facts;
{temporary}
  sendfile on; keepalive_timeout 900; keepalive_requests 100000; client_max_body_size 0;
  client_header_timeout 900; large_client_header_buffers 8 64k;
  ssl_certificate {folder}/certificate.pem; ssl_certificate_key {folder}/private.pem;
  ssl_session_cache shared:tests:1m;
{servers}}}
"#
    )
}

/// A repository that git reads over plain static files.
fn dumb_repository(lab: &Lab) -> Result<()> {
    let folder = lab.path("repository.git");
    std::fs::create_dir_all(folder.join("info"))?;
    std::fs::create_dir_all(folder.join("objects/info"))?;
    std::fs::write(folder.join("HEAD"), "ref: refs/heads/main\n")?;
    std::fs::write(
        folder.join("info/refs"),
        format!("{}\trefs/heads/main\n", "1".repeat(40)),
    )?;
    Ok(())
}

/// All different: each is held until the last is chosen, since nginx takes two listeners on one port for one.
pub(super) fn free_ports<'a>(
    wanted: impl Iterator<Item = (String, &'a str)>,
) -> Result<BTreeMap<String, u16>> {
    let held = wanted
        .map(|(name, any)| {
            let listener = TcpListener::bind(any).with_context(|| format!("bind {any}"))?;
            Ok((name, listener))
        })
        .collect::<Result<Vec<_>>>()?;
    held.iter()
        .map(|(name, listener)| Ok((name.clone(), listener.local_addr()?.port())))
        .collect()
}

pub(super) fn user_id(name: &str) -> Result<u32> {
    let text = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let found = text
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name);
    match found.and_then(|fields| fields.get(2)?.parse().ok()) {
        Some(id) => Ok(id),
        None => bail!("no user {name}"),
    }
}
