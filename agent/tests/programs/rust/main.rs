//! reqwest over rustls with ring or, as `rust-aws-lc`, with aws-lc; by the argument `server` a server of hyper over
//! tokio-rustls.
//!
//! The client's standard input and output as in client_requests.py, and "highest" is its highest version of TLS. The
//! server's standard input, output and log as in server.py; its listener `h2` offers HTTP/2.

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use serde_json::{Value, json};
use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const AWS_LC: bool = matches!(env!("CARGO_BIN_NAME").as_bytes(), b"rust-aws-lc");

fn main() -> Result<()> {
    let provider = if AWS_LC {
        rustls::crypto::aws_lc_rs::default_provider()
    } else {
        rustls::crypto::ring::default_provider()
    };
    provider
        .install_default()
        .map_err(|_| "a provider is there already")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match std::env::args().nth(1).as_deref() {
        Some("server") => runtime.block_on(serve()),
        _ => runtime.block_on(ask()),
    }
}

fn text<'a>(plan: &'a Value, name: &str) -> &'a str {
    plan[name].as_str().unwrap_or_default()
}

async fn ask() -> Result<()> {
    let plan: Value = serde_json::from_reader(std::io::stdin())?;
    let roots = std::fs::read(text(&plan, "ca"))?;
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .use_rustls_tls()
        .add_root_certificate(reqwest::Certificate::from_pem(&roots)?);
    if text(&plan, "highest") == "TLSv1.2" {
        builder = builder.max_tls_version(reqwest::tls::Version::TLS_1_2);
    }
    let client = builder.build()?;
    let method: reqwest::Method = text(&plan, "method").parse()?;
    let first = json!([plan["url"], plan["headers"]]);
    let more = plan["more"].as_array().into_iter().flatten();
    for one in std::iter::once(&first).chain(more) {
        let mut request = client.request(method.clone(), one[0].as_str().unwrap_or_default());
        for header in one[1].as_array().into_iter().flatten() {
            let [name, value] = [0, 1].map(|part| header[part].as_str().unwrap_or_default());
            request = request.header(name, value);
        }
        let answer = request.body(text(&plan, "body").to_owned()).send().await?;
        let (status, spoken) = (answer.status(), answer.version());
        answer.bytes().await?;
        println!("{} {spoken:?}", status.as_u16());
    }
    Ok(())
}

async fn serve() -> Result<()> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let config: Value = serde_json::from_str(&line)?;
    let log: Arc<str> = text(&config, "log").into();
    let ways: [(&str, Option<&'static SupportedProtocolVersion>, bool); 4] = [
        ("http", None, false),
        ("tls12", Some(&version::TLS12), false),
        ("tls13", Some(&version::TLS13), false),
        ("h2", Some(&version::TLS13), true),
    ];
    let mut ports = serde_json::Map::new();
    tokio::task::LocalSet::new()
        .run_until(async move {
            for (name, version, http2) in ways {
                for (suffix, address) in [("", "127.0.0.1:0"), ("_v6", "[::1]:0")] {
                    let listener = TcpListener::bind(address).await?;
                    let port = listener.local_addr()?.port();
                    ports.insert(format!("{name}{suffix}"), json!(port));
                    let acceptor = match version {
                        Some(version) => Some(acceptor(&config, version, http2)?),
                        None => None,
                    };
                    tokio::task::spawn_local(listen(listener, acceptor, log.clone()));
                }
            }
            println!("{}", Value::Object(ports));
            // Until the end of standard input.
            tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
            Ok(())
        })
        .await
}

fn acceptor(
    config: &Value,
    version: &'static SupportedProtocolVersion,
    http2: bool,
) -> Result<TlsAcceptor> {
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(text(config, "certificate"))?.collect();
    let private = PrivateKeyDer::from_pem_file(text(config, "key"))?;
    let mut server = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_single_cert(chain?, private)?;
    if http2 {
        server.alpn_protocols = vec![b"h2".to_vec()];
    }
    Ok(TlsAcceptor::from(Arc::new(server)))
}

async fn listen(listener: TcpListener, acceptor: Option<TlsAcceptor>, log: Arc<str>) {
    while let Ok((stream, peer)) = listener.accept().await {
        let Ok(local) = stream.local_addr() else {
            continue;
        };
        let (acceptor, log) = (acceptor.clone(), log.clone());
        tokio::task::spawn_local(async move {
            // What a client does wrong ends its own connection.
            match acceptor {
                None => talk(stream, "", local, peer, log).await,
                Some(acceptor) => {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let spoken = stream.get_ref().1.protocol_version();
                        let tls = match spoken {
                            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
                            _ => "TLSv1.2",
                        };
                        talk(stream, tls, local, peer, log).await;
                    }
                }
            }
        });
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    tls: &'static str,
    local: SocketAddr,
    peer: SocketAddr,
    log: Arc<str>,
) {
    let answer = |request: Request<Incoming>| {
        let log = log.clone();
        async move {
            let fact = json!({
                "path": request.uri().path(), "method": request.method().as_str(), "status": 200,
                "pid": std::process::id(), "tls": tls,
                "remote": peer.ip().to_string(), "remote_port": peer.port(),
                "local": local.ip().to_string(), "local_port": local.port(),
            });
            request.into_body().collect().await?;
            let mut log = std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(&*log)?;
            log.write_all(format!("{fact}\n").as_bytes())?;
            Ok::<_, Box<dyn Error + Send + Sync>>(Response::new(Full::new(Bytes::from("ok\n"))))
        }
    };
    let service = hyper::service::service_fn(answer);
    // It ends when the client does, in whatever way.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
