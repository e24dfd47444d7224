//! A receiver of OTLP/HTTP that only acknowledges: it counts what comes over the wire, and when which event came.
//!
//! Design: HTTP/1.1 with `content-length`, one thread per connection, and the empty answer that OTLP takes for a full
//! acceptance. It does not understand what it is sent. Events are told apart by the path of their request
//! ([`path`]), which is searched for in the body: so they must be sent without compression for that.
//!
//! Invariant: listens on loopback only, and keeps one request of many, the largest.

use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Before the number of a request, in its path.
const MARK: &str = "/latency/";
/// Of the number: always so many, since what follows in the body may be a digit, too.
const DIGITS: usize = 8;
/// Longest head that is read.
const HEAD: u64 = 64 * 1024;
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";

pub struct Receiver {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    head_bytes: AtomicU64,
    body_bytes: AtomicU64,
    /// The request with the longest body so far, as it came.
    largest: Mutex<Vec<u8>>,
    arrivals: Mutex<HashMap<u32, Instant>>,
}

/// What came over the wire, above TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    pub head_bytes: u64,
    pub body_bytes: u64,
}

/// The path by which a request's event is known again.
pub fn path(number: u32) -> String {
    format!("{MARK}{number:0DIGITS$}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Receiver {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&serving);
                // The other side may go at any time.
                thread::spawn(move || drop(shared.serve(&stream)));
            }
        });
        Ok(Self { port, shared })
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn wire(&self) -> Wire {
        Wire {
            head_bytes: self.shared.head_bytes.load(Ordering::Relaxed),
            body_bytes: self.shared.body_bytes.load(Ordering::Relaxed),
        }
    }

    /// The largest request so far.
    pub fn largest(&self) -> Vec<u8> {
        lock(&self.shared.largest).clone()
    }

    /// When the event of each request came first.
    pub fn arrivals(&self) -> HashMap<u32, Instant> {
        lock(&self.shared.arrivals).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(256 * 1024, stream);
        let (mut head, mut body) = (Vec::new(), Vec::new());
        while read_message(&mut reader, &mut head, &mut body)? {
            let now = Instant::now();
            (&mut &*stream).write_all(ANSWER.as_bytes())?;
            let bytes = |buffer: &Vec<u8>| buffer.len() as u64;
            self.head_bytes.fetch_add(bytes(&head), Ordering::Relaxed);
            self.body_bytes.fetch_add(bytes(&body), Ordering::Relaxed);
            self.note(&body, now);
            let mut largest = lock(&self.largest);
            if head.len() + body.len() > largest.len() {
                *largest = [&head[..], &body[..]].concat();
            }
        }
        Ok(())
    }

    fn note(&self, body: &[u8], now: Instant) {
        let numbers = numbers(body);
        if !numbers.is_empty() {
            let mut arrivals = lock(&self.arrivals);
            for number in numbers {
                arrivals.entry(number).or_insert(now);
            }
        }
    }
}

/// The numbers of requests that are named.
fn numbers(body: &[u8]) -> Vec<u32> {
    let mark = MARK.as_bytes();
    let mut numbers = Vec::new();
    let mut rest = body;
    // The first byte is rare, and found quickly.
    while let Some(at) = rest.iter().position(|byte| *byte == mark[0]) {
        rest = &rest[at..];
        let Some(after) = rest.strip_prefix(mark) else {
            rest = &rest[1..];
            continue;
        };
        let digits = after
            .get(..DIGITS)
            .and_then(|digits| str::from_utf8(digits).ok());
        numbers.extend(digits.and_then(|digits| digits.parse::<u32>().ok()));
        rest = after;
    }
    numbers
}

/// Head with its empty line, and body. False: the other side has closed.
fn read_message(
    reader: &mut BufReader<&TcpStream>,
    head: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> Result<bool> {
    head.clear();
    body.clear();
    let mut length = None;
    loop {
        let before = head.len();
        let read = reader.by_ref().take(HEAD).read_until(b'\n', head)?;
        if read == 0 || head.len() as u64 > HEAD {
            return Ok(false);
        }
        let line = String::from_utf8_lossy(&head[before..]);
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let Some(length) = length else {
        bail!("a message without content-length");
    };
    body.resize(length, 0);
    reader.read_exact(body)?;
    Ok(true)
}

/// How many such requests per second who listens at `port` answers with success, one after another.
pub fn own_rate(port: u16, request: &[u8], time: Duration) -> Result<f64> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(&stream);
    let (mut head, mut body) = (Vec::new(), Vec::new());
    let (start, mut count) = (Instant::now(), 0u32);
    while start.elapsed() < time {
        (&mut &stream).write_all(request)?;
        let answered = read_message(&mut reader, &mut head, &mut body)?;
        if !answered || !head.starts_with(b"HTTP/1.1 200") {
            bail!("not taken: {}", String::from_utf8_lossy(&head).trim());
        }
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_is_counted_and_told_apart() {
        let receiver = Receiver::start().unwrap();
        let body = format!(
            "x {}2 / /latency/ {}{} /latency/12",
            path(7),
            path(12),
            path(7)
        );
        let request = format!(
            "POST /v1/logs HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let rate = own_rate(receiver.port, request.as_bytes(), Duration::from_millis(20));
        assert!(rate.unwrap() > 0.0);
        // It answers first, and counts then.
        let end = Instant::now() + Duration::from_secs(60);
        while receiver.largest().is_empty() {
            assert!(Instant::now() < end, "nothing is counted");
            thread::sleep(Duration::from_millis(5));
        }
        let mut arrived: Vec<u32> = receiver.arrivals().into_keys().collect();
        arrived.sort_unstable();
        assert_eq!(arrived, [7, 12]);
        assert_eq!(receiver.largest(), request.as_bytes());
        let wire = receiver.wire();
        let one = (request.len() - body.len()) as u64;
        assert_eq!(wire.head_bytes / one, wire.body_bytes / body.len() as u64);
    }

    #[test]
    fn a_refusal_is_no_rate() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(&stream);
            read_message(&mut reader, &mut Vec::new(), &mut Vec::new()).unwrap();
            (&mut &stream)
                .write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
        });
        let request = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n";
        let error = own_rate(port, request, Duration::from_secs(9)).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }
}
