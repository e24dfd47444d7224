//! Real TLS peers on loopback, and a proxy between them that writes down what passes.
//!
//! A program that is missing fails the test.

use crate::flow::Direction;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// One connection as its client saw it.
#[derive(Clone, Default)]
pub struct Recording {
    pub chunks: Vec<(Direction, Vec<u8>)>,
    /// Lines of the key log: label, client random, secret.
    pub secrets: Vec<(String, [u8; 32], Vec<u8>)>,
}

impl Recording {
    /// One direction's bytes.
    pub fn stream(&self, direction: Direction) -> Vec<u8> {
        self.chunks
            .iter()
            .filter(|(of, _)| *of == direction)
            .flat_map(|(_, bytes)| bytes.clone())
            .collect()
    }

    /// Where each record of a direction begins and ends.
    pub fn records(&self, direction: Direction) -> Vec<(usize, usize)> {
        let stream = self.stream(direction);
        let mut found = Vec::new();
        let mut at = 0;
        while at + 5 <= stream.len() {
            let end = at + 5 + usize::from(stream[at + 3]) * 256 + usize::from(stream[at + 4]);
            found.push((at, end));
            at = end;
        }
        assert_eq!(at, stream.len(), "the recording ends with a record");
        found
    }
}

/// A child that is killed when the test is done with it.
pub struct Peer(pub Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Chunks = Arc<Mutex<Vec<(Direction, Vec<u8>)>>>;

/// Forwards connections to a server, one recording each.
pub struct Proxy {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<Chunks>>>,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let chunks = Chunks::default();
                list.lock().unwrap().push(Arc::clone(&chunks));
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                forward(
                    client.try_clone().unwrap(),
                    server.try_clone().unwrap(),
                    Direction::Sent,
                    Arc::clone(&chunks),
                );
                forward(server, client, Direction::Received, chunks);
            }
        });
        Self {
            address,
            connections,
        }
    }

    pub fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// What passed on the connection of this number.
    pub fn chunks(&self, number: usize) -> Vec<(Direction, Vec<u8>)> {
        let chunks = Arc::clone(&self.connections.lock().unwrap()[number]);
        chunks.lock().unwrap().clone()
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, direction: Direction, chunks: Chunks) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            chunks
                .lock()
                .unwrap()
                .push((direction, buffer[..len].to_vec()));
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// A folder with a certificate, made once.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let made = Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=localhost",
                ])
                .args(["-keyout", "key.pem", "-out", "cert.pem"])
                .current_dir(folder.path())
                .stderr(Stdio::null())
                .status()
                .expect("openssl is installed");
            assert!(made.success());
            folder
        })
        .path()
}

/// A file name in the folder that no other test uses.
pub fn fresh(name: &str) -> PathBuf {
    static NEXT: Mutex<u32> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap();
    *next += 1;
    folder().join(format!("{next}-{name}"))
}

/// A child's output, read as it comes.
pub struct Lines(Arc<Mutex<String>>);

impl Lines {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                shared
                    .lock()
                    .unwrap()
                    .push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self(text)
    }

    pub fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }

    /// The rest of the first line that has `mark` in it.
    pub fn wait_for(&self, mark: &str) -> String {
        self.wait_after(0, mark)
    }

    /// The same, of the text from byte `from` on.
    pub fn wait_after(&self, from: usize, mark: &str) -> String {
        wait_until(&format!("{mark:?} in a program's output"), || {
            let text = self.text();
            let (_, after) = text[from..].split_once(mark)?;
            Some(after.split_once('\n')?.0.to_owned())
        })
    }
}

pub fn wait_until<T>(what: &str, mut test: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = test() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `openssl s_server` that sends each line back reversed.
pub fn openssl_server(arguments: &[&str]) -> (Peer, SocketAddr) {
    let (peer, address, _) = openssl_server_with(&[&["-rev"], arguments].concat());
    (peer, address)
}

/// `openssl s_server`, and what it prints.
pub fn openssl_server_with(arguments: &[&str]) -> (Peer, SocketAddr, Lines) {
    let mut child = Command::new("openssl")
        .args([
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-cert",
            "cert.pem",
            "-key",
            "key.pem",
        ])
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    let lines = Lines::of(child.stdout.take().unwrap());
    let address = lines.wait_for("ACCEPT ").trim().parse().unwrap();
    (Peer(child), address, lines)
}

/// A step of an `openssl s_client` conversation.
#[derive(Clone, Copy)]
pub enum Say<'a> {
    /// A line; waits for it to come back reversed.
    Line(&'a str),
    /// A line; waits for it to come out of the server.
    Told(&'a str, &'a Lines),
    /// A command letter; waits for this in the output.
    Command(&'a str, &'a str),
}

/// Has `openssl s_client` say things through `proxy`; the key log is returned.
pub fn openssl_client(
    proxy: &Proxy,
    arguments: &[&str],
    conversation: &[Say<'_>],
) -> Vec<(String, [u8; 32], Vec<u8>)> {
    let log = fresh("keys");
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &proxy.address.to_string(),
            "-keylogfile",
        ])
        .arg(&log)
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    let errors = Lines::of(child.stderr.take().unwrap());
    let peer = Peer(child);
    lines.wait_for("Verify return code");
    for say in conversation {
        match say {
            Say::Line(line) => {
                write_line(&mut stdin, line);
                lines.wait_for(&line.chars().rev().collect::<String>());
            }
            Say::Told(line, server) => {
                let before = server.text().len();
                write_line(&mut stdin, line);
                server.wait_after(before, line);
            }
            Say::Command(letter, mark) => {
                let before = errors.text().len();
                write_line(&mut stdin, letter);
                errors.wait_after(before, mark);
            }
        }
    }
    // End of input ends the client, with close_notify.
    drop(stdin);
    finish(peer);
    key_log(&log)
}

/// A line, in one piece: the program sends what it reads.
fn write_line(stdin: &mut impl Write, line: &str) {
    stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
}

pub fn finish(mut peer: Peer) {
    wait_until("the client's end", || peer.0.try_wait().unwrap());
}

/// Reads an NSS key log.
pub fn key_log(path: &Path) -> Vec<(String, [u8; 32], Vec<u8>)> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        // An `RSA` line has no random, and is not of use.
        .filter(|line| !line.starts_with('#') && !line.starts_with("RSA "))
        .map(|line| {
            let mut words = line.split(' ');
            let label = words.next().unwrap().to_owned();
            (
                label,
                hex(words.next().unwrap()).try_into().unwrap(),
                hex(words.next().unwrap()),
            )
        })
        .collect()
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// One connection of `s_client` to `s_server`.
pub fn openssl(server: &[&str], client: &[&str], conversation: &[Say<'_>]) -> Recording {
    let (_server, address) = openssl_server(server);
    let proxy = Proxy::to(address);
    let secrets = openssl_client(&proxy, client, conversation);
    Recording {
        chunks: proxy.chunks(0),
        secrets,
    }
}

/// A page from `openssl s_server -WWW`, of as many bytes as asked for: request and answer.
pub fn page(server: &[&str], client: &[&str], len: usize) -> (Recording, Vec<u8>) {
    let file = fresh("page.txt");
    let text: Vec<u8> = (0..len).map(|at| b'a' + (at / 7 % 26) as u8).collect();
    std::fs::write(&file, &text).unwrap();
    let (_server, address, _) = openssl_server_with(&[&["-WWW"], server].concat());
    let proxy = Proxy::to(address);
    let log = fresh("keys");
    let child = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &proxy.address.to_string(),
            "-keylogfile",
        ])
        .arg(&log)
        .args(client)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is installed");
    let name = file.file_name().unwrap().to_str().unwrap();
    write!(
        child.stdin.as_ref().unwrap(),
        "GET /{name} HTTP/1.0\r\n\r\n"
    )
    .unwrap();
    finish(Peer(child));
    (
        Recording {
            chunks: proxy.chunks(0),
            secrets: key_log(&log),
        },
        text,
    )
}

/// Runs a Python script that connects through the proxy; `{port}` of the server is the script's first line.
pub fn python(script: &str, arguments: &[&str]) -> Recording {
    let log = fresh("keys");
    let mut child = Command::new("python3")
        .args(["-c", script])
        .arg(&log)
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let lines = Lines::of(child.stdout.take().unwrap());
    let port = lines.wait_for("port ");
    let proxy = Proxy::to(format!("127.0.0.1:{}", port.trim()).parse().unwrap());
    writeln!(child.stdin.as_ref().unwrap(), "{}", proxy.address.port()).unwrap();
    let mut peer = Peer(child);
    let status = wait_until("python's end", || peer.0.try_wait().unwrap());
    assert!(status.success());
    Recording {
        chunks: proxy.chunks(0),
        secrets: key_log(&log),
    }
}

/// `gnutls-serv --echo` and `gnutls-cli` with this priority.
///
/// A line `^rekey^` changes keys. With `-r` there are two connections, of which the second resumes the first; the
/// key log is that of both.
pub fn gnutls(priority: &str, arguments: &[&str], lines: &[&str]) -> Vec<Recording> {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Command::new("gnutls-serv")
        .args([
            "--echo",
            "--quiet",
            "--port",
            &port.to_string(),
            "--x509certfile=cert.pem",
            "--x509keyfile=key.pem",
        ])
        .current_dir(folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("gnutls-serv is installed");
    let _server = Peer(server);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_until("gnutls-serv", || TcpStream::connect(address).ok());
    let proxy = Proxy::to(address);
    let log = fresh("keys");
    let mut child = Command::new("gnutls-cli")
        .args([
            "--insecure",
            "--priority",
            priority,
            "--port",
            &proxy.address.port().to_string(),
            "--inline-commands",
        ])
        .args(arguments)
        .arg("127.0.0.1")
        .env("SSLKEYLOGFILE", &log)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("gnutls-cli is installed");
    let mut stdin = child.stdin.take().unwrap();
    let output = Lines::of(child.stdout.take().unwrap());
    let peer = Peer(child);
    output.wait_for("Simple Client Mode");
    for line in lines {
        let before = output.text().len();
        write_line(&mut stdin, line);
        let rekey = *line == "^rekey^";
        output.wait_after(before, if rekey { "Rekey was completed" } else { line });
    }
    drop(stdin);
    finish(peer);
    let secrets = key_log(&log);
    (0..proxy.connections())
        .map(|number| Recording {
            chunks: proxy.chunks(number),
            secrets: secrets.clone(),
        })
        .collect()
}

/// Has `openssl s_client` try a handshake that fails.
pub fn openssl_refused(proxy: &Proxy, arguments: &[&str]) {
    let status = Command::new("openssl")
        .args(["s_client", "-connect", &proxy.address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(!status.success());
}
