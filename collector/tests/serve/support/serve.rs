//! `tokentrail serve` as a child, with its own folder and keys.

use super::{PATIENCE, eventually};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The collector; `TOKENTRAIL_PROGRAM` names another build of it.
pub fn program() -> PathBuf {
    std::env::var_os("TOKENTRAIL_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_tokentrail").into(), PathBuf::from)
}

/// What stays when the collector is ended: its data folder, configuration and keys.
pub struct Site {
    pub folder: PathBuf,
    pub data: PathBuf,
    /// Beside `[server]`.
    pub settings: String,
    pub environment: Vec<(String, String)>,
    pub keys: Option<Keys>,
}

/// One of each role that the tests need; made at the first start.
#[derive(Clone, Debug)]
pub struct Keys {
    pub admin: String,
    pub ingest: String,
    pub analyst: String,
}

/// A collector that runs. Ended with it.
pub struct Server {
    child: Child,
    log: PathBuf,
    /// Empty until it is ready.
    pub url: String,
}

impl Site {
    pub fn new(folder: &Path, settings: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            data: folder.join("data"),
            settings: settings.to_owned(),
            environment: Vec::new(),
            keys: None,
        }
    }

    /// Starts it; it may not be ready yet.
    pub fn begin(&self) -> Server {
        let config = self.folder.join("collector.toml");
        fs::write(&config, &self.settings).unwrap();
        let log = self.folder.join("collector.log");
        let file = File::create(&log).unwrap();
        let child = Command::new(program())
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .arg("--data")
            .arg(&self.data)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Server {
            child,
            log,
            url: String::new(),
        }
    }

    /// Starts it, waits until it is ready, and makes keys if it is the first time.
    pub fn start(&mut self) -> Server {
        let mut server = self.begin();
        server.wait();
        if self.keys.is_none() {
            let said = server.said();
            let first = said
                .split_whitespace()
                .find(|word| word.starts_with("ttk_"));
            let first = first.unwrap_or_else(|| panic!("no key at the first start: {said}"));
            let make = |by: &str, role: &str| {
                let wanted = json!({"name": role, "role": role});
                let (status, answer) = server.post("/v1/access/keys", by, &wanted);
                assert_eq!(status, 200, "{answer}");
                answer["key"].as_str().unwrap().to_owned()
            };
            let admin = make(first, "admin");
            self.keys = Some(Keys {
                ingest: make(&admin, "ingest"),
                analyst: make(&admin, "analyst"),
                admin,
            });
        }
        server
    }

    pub fn keys(&self) -> &Keys {
        self.keys.as_ref().unwrap()
    }

    /// A file that its owner alone may read.
    pub fn secret(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options
            .open(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        path
    }

    /// What delivers by a key: a header from a file, as the agent's configuration has it.
    pub fn ingest_header(&self) -> String {
        let text = format!("Bearer {}", self.keys().ingest);
        format!("file:{}", self.secret("ingest.header", &text).display())
    }
}

impl Server {
    /// Whether it says that it is ready; where it listens is known then.
    pub fn ready(&mut self) -> bool {
        let said = self.said();
        let mut whole = said
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let url = whole.find_map(|line| line.strip_prefix("tokentrail ready: "));
        match url {
            Some(url) => {
                self.url = url.trim().to_owned();
                true
            }
            None => false,
        }
    }

    pub fn wait(&mut self) {
        let start = Instant::now();
        while !self.ready() {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "not ready ({ended:?}): {}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "it had ended before: {}",
            self.said()
        );
    }

    /// SIGTERM, as a service manager does it.
    pub fn stop(&mut self) {
        let id = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
    }

    /// Everything on standard error so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn get(&self, path: &str, key: &str) -> (u16, String) {
        let request = agent().get(format!("{}{path}", self.url));
        let mut answer = request
            .header("authorization", format!("Bearer {key}"))
            .call()
            .unwrap();
        (answer.status().as_u16(), text(&mut answer).unwrap())
    }

    pub fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        post(&self.url, path, key, body).unwrap()
    }

    /// Every event that a query takes, as it is found by pages.
    pub fn search(&self, query: &str, key: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut question = json!({"q": query, "limit": 5_000, "force": true});
        loop {
            let (status, mut answer) = self.post("/v1/search", key, &question);
            assert_eq!(status, 200, "{answer}");
            let events = answer["events"].take();
            found.extend(events.as_array().unwrap().iter().map(Value::to_string));
            match answer["cursor"].take() {
                Value::Null => return found,
                cursor => question["cursor"] = cursor,
            }
        }
    }

    /// Counts by the values of one field.
    pub fn count(&self, query: &str, by: &str, key: &str) -> Vec<(String, u64)> {
        let question = json!({"q": query, "by": by, "force": true, "limit": 10_000});
        let (status, answer) = self.post("/v1/stats", key, &question);
        assert_eq!(status, 200, "{answer}");
        let rows = answer["rows"].as_array().unwrap().iter();
        let rows = rows.map(|row| {
            let value = &row["values"][0];
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            (value, row["count"].as_u64().unwrap())
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort();
        rows
    }

    /// One of the numbers for Prometheus.
    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics", "");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("tokentrail_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Waits until one of the numbers is at least so large.
    pub fn reaches(&self, name: &str, least: u64) {
        eventually(name, || match self.metric(name) {
            value if value >= least => Ok(()),
            value => Err(format!("{value} of {least}; {}", self.said())),
        });
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(PATIENCE))
        .build()
        .new_agent()
}

/// A question to a collector that may be killed meanwhile.
pub fn post(url: &str, path: &str, key: &str, body: &Value) -> Result<(u16, Value), ureq::Error> {
    let request = agent().post(format!("{url}{path}"));
    let request = request
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json");
    let mut answer = request.send(body.to_string())?;
    let text = text(&mut answer)?;
    let json = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text));
    Ok((answer.status().as_u16(), json))
}

fn text(answer: &mut ureq::http::Response<ureq::Body>) -> Result<String, ureq::Error> {
    let config = answer.body_mut().with_config().limit(u64::MAX);
    config.read_to_string()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `tokentrail` with arguments.
pub fn tokentrail(arguments: &[&str], key: &Path, server: &str, more: &[(&str, &str)]) -> Output {
    Command::new(program())
        .args(arguments)
        .env("TOKENTRAIL_SERVER", server)
        .env("TOKENTRAIL_KEY_FILE", key)
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
