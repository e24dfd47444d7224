//! Programs, certificates and places for them.

pub mod arrived;
pub mod feed;
pub mod proxy;
pub mod server;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starting a program takes long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether tests with real programs are asked for; said, if not.
pub fn asked(test: &str) -> bool {
    let asked = std::env::var("TOKENTRAIL_RECEIVERS").is_ok_and(|value| value == "1");
    if !asked {
        println!("skipped {test}: set TOKENTRAIL_RECEIVERS=1 (after `cargo xtask setup --test`)");
    }
    asked
}

/// What `cargo xtask setup --test` made.
pub fn fixture(path: &str) -> PathBuf {
    let folder = std::env::var_os("TOKENTRAIL_FIXTURES").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/tokentrail/fixtures"),
        PathBuf::from,
    );
    let path = folder.join(path);
    assert!(
        path.exists(),
        "{} is not there: cargo xtask setup --test",
        path.display()
    );
    path
}

/// A program that is ended with its test.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let file = fs::File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Waits until `ready`; a program that ended is not waited for.
    pub fn wait_until(&mut self, ready: impl Fn() -> bool) {
        let start = Instant::now();
        while !ready() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "not ready ({ended:?}): {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Ports that were free just now.
pub fn ports<const N: usize>() -> [u16; N] {
    let held: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    std::array::from_fn(|at| held[at].local_addr().unwrap().port())
}

/// Waits until `check` says something.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > PATIENCE => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A certificate authority with a server (`localhost`, 127.0.0.1) and an agent, and an agent of another authority.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    pub fn make(folder: &Path) -> Self {
        let made = Self {
            folder: folder.to_owned(),
        };
        for authority in ["ca", "other-ca"] {
            made.openssl(&format!(
                "req -x509 {KEY} -days 2 -subj /CN={authority} -addext basicConstraints=critical,CA:TRUE \
                 -keyout {authority}.key -out {authority}.pem"
            ));
        }
        for (name, authority) in [("server", "ca"), ("agent", "ca"), ("stranger", "other-ca")] {
            let names = format!(
                "subjectAltName=DNS:{name}.test,DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n\
                 extendedKeyUsage=serverAuth,clientAuth\n"
            );
            fs::write(folder.join("extensions"), names).unwrap();
            made.openssl(&format!(
                "req {KEY} -subj /CN={name}.test -keyout {name}.key -out {name}.csr"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 \
                 -extfile extensions -out {name}.pem"
            ));
        }
        made
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    }

    /// Of `ca`, `server`, `agent`, `stranger`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// openssl makes it with mode 0600.
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
