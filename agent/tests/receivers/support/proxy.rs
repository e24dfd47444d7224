//! A proxy on loopback between a receiver of ours and what it sends to, which does to each request what it is told.
//!
//! It understands HTTP/1.1 as far as a request has to be whole to be passed on twice; what it passes on is the same
//! request line, headers and bytes.

use super::server::{Request, read};
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the other side may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is passed on, and so is its answer.
    None,
    /// Neither it nor anything of it is passed on.
    Drop,
    /// Half of it is passed on, and both connections are closed.
    CutRequest,
    /// It is passed on, and its answer is not.
    LoseAnswer,
    /// It is passed on, and half of its answer.
    CutAnswer,
    /// It is passed on, and its answer comes so much later.
    Delay(Duration),
    /// It is passed on twice; the answer is that to the second one.
    Duplicate,
}

/// Chooses for each request, in the order in which they come.
type Choose = dyn FnMut(&Request) -> Fault + Send;

pub struct Proxy {
    pub port: u16,
    counts: Arc<Mutex<Vec<Fault>>>,
}

impl Proxy {
    /// In front of `127.0.0.1:upstream`.
    pub fn start(upstream: u16, choose: impl FnMut(&Request) -> Fault + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            counts: Arc::default(),
        };
        let counts = Arc::clone(&proxy.counts);
        let choose: Arc<Mutex<Box<Choose>>> = Arc::new(Mutex::new(Box::new(choose)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (choose, counts) = (Arc::clone(&choose), Arc::clone(&counts));
                // Either side may go at any time.
                std::thread::spawn(move || drop(serve(&stream, upstream, &choose, &counts)));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was done to the requests so far.
    pub fn done(&self) -> Vec<Fault> {
        self.counts.lock().unwrap().clone()
    }
}

fn serve(
    stream: &TcpStream,
    upstream: u16,
    choose: &Mutex<Box<Choose>>,
    counts: &Mutex<Vec<Fault>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    loop {
        let request = read(&mut reader)?;
        if request.line.is_empty() {
            return Ok(());
        }
        let fault = choose.lock().unwrap()(&request);
        counts.lock().unwrap().push(fault);
        let bytes = whole(&request);
        let answer = match fault {
            Fault::Drop => return stream.shutdown(Shutdown::Both),
            Fault::CutRequest => {
                TcpStream::connect(("127.0.0.1", upstream))?
                    .write_all(&bytes[..bytes.len() / 2])?;
                return stream.shutdown(Shutdown::Both);
            }
            Fault::Duplicate => pass_on(upstream, &bytes).and_then(|_| pass_on(upstream, &bytes)),
            _ => pass_on(upstream, &bytes),
        };
        // As a gateway says it whose upstream is gone.
        let answer = answer
            .unwrap_or_else(|_| b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n".to_vec());
        match fault {
            Fault::LoseAnswer => return stream.shutdown(Shutdown::Both),
            Fault::CutAnswer => {
                out.write_all(&answer[..answer.len() / 2])?;
                return stream.shutdown(Shutdown::Both);
            }
            Fault::Delay(pause) => std::thread::sleep(pause),
            _ => {}
        }
        out.write_all(&answer)?;
    }
}

/// Over a connection of its own; the whole answer.
fn pass_on(upstream: u16, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", upstream))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut reader = BufReader::new(stream);
    let (mut answer, mut length) = (Vec::new(), None);
    loop {
        let start = answer.len();
        if reader.read_until(b'\n', &mut answer)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = String::from_utf8_lossy(&answer[start..]).to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = Some(value.trim().parse().map_err(Error::other)?);
        } else if line.trim().is_empty() {
            break;
        }
    }
    match length {
        Some(length) => reader.take(length).read_to_end(&mut answer)?,
        None => reader.read_to_end(&mut answer)?,
    };
    Ok(answer)
}

fn whole(request: &Request) -> Vec<u8> {
    let mut bytes = format!("{}\r\n", request.line).into_bytes();
    for (name, value) in &request.headers {
        if !matches!(
            name.as_str(),
            "content-length" | "transfer-encoding" | "connection"
        ) {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
    }
    bytes.extend(
        format!(
            "content-length: {}\r\nconnection: close\r\n\r\n",
            request.body.len()
        )
        .into_bytes(),
    );
    bytes.extend_from_slice(&request.body);
    bytes
}
