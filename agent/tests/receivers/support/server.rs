//! An HTTP server on loopback that fails as it is told, and keeps what it was sent.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with one request.
#[derive(Clone, Debug)]
pub enum Step {
    /// Status line's end, further header lines, body.
    Answer(&'static str, &'static str, Vec<u8>),
    /// Closes as soon as it is connected to.
    Drop,
    /// Closes in the middle of the request.
    CutRequest,
    /// Closes in the middle of the answer's head, or of its body.
    CutHead,
    CutBody,
    /// Says nothing for so long.
    Delay(Duration),
    /// Answers what is no HTTP.
    Garbage,
}

#[derive(Clone, Debug, Default)]
pub struct Request {
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(each, _)| each == name)?;
        Some(&found.1)
    }
}

pub struct Server {
    pub port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    /// One step for each request; when they are over, everything is answered with 200 and nothing more.
    pub fn start(steps: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            requests: Arc::default(),
            connections: Arc::default(),
        };
        let requests = Arc::clone(&server.requests);
        let connections = Arc::clone(&server.connections);
        let steps: Arc<Mutex<VecDeque<Step>>> = Arc::new(Mutex::new(steps.into_iter().collect()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                *connections.lock().unwrap() += 1;
                let (steps, requests) = (Arc::clone(&steps), Arc::clone(&requests));
                // The other side may go at any time.
                std::thread::spawn(move || drop(serve(&stream.unwrap(), &steps, &requests)));
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whole requests.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

fn serve(
    stream: &TcpStream,
    steps: &Mutex<VecDeque<Step>>,
    requests: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let ended = reader.fill_buf()?.is_empty();
        if ended {
            return Ok(());
        }
        let step = steps.lock().unwrap().pop_front();
        let step = step.unwrap_or(Step::Answer("200 OK", "", Vec::new()));
        if matches!(step, Step::Drop) {
            return stream.shutdown(Shutdown::Both);
        }
        if matches!(step, Step::CutRequest) {
            reader.read_exact(&mut [0; 100])?;
            return stream.shutdown(Shutdown::Both);
        }
        let request = read(&mut reader)?;
        requests.lock().unwrap().push(request);
        let mut out = stream;
        match step {
            Step::Answer(status, headers, body) => {
                write!(
                    out,
                    "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
                    body.len()
                )?;
                out.write_all(&body)?;
            }
            Step::CutHead => {
                out.write_all(b"HTTP/1.1 200 OK\r\ncontent-le")?;
                return stream.shutdown(Shutdown::Both);
            }
            Step::CutBody => {
                out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")?;
                return stream.shutdown(Shutdown::Both);
            }
            Step::Delay(pause) => {
                std::thread::sleep(pause);
                return stream.shutdown(Shutdown::Both);
            }
            Step::Garbage => {
                out.write_all(b"\x15\x03\x01 garbage\r\n\r\n")?;
                return stream.shutdown(Shutdown::Both);
            }
            Step::Drop | Step::CutRequest => {}
        }
    }
}

/// The next request of a connection.
pub fn read(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut request = Request::default();
    let mut line = String::new();
    reader.read_line(&mut line)?;
    request.line = line.trim_end().to_owned();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        request
            .headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if request.header("transfer-encoding") == Some("chunked") {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap_or(0);
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk)?;
            if size == 0 {
                break;
            }
            chunk.truncate(size);
            request.body.append(&mut chunk);
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().unwrap_or(0)];
        reader.read_exact(&mut request.body)?;
    }
    Ok(request)
}
