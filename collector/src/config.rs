//! The collector's configuration; [`agent_common::config`] says how it is made and read.
//!
//! Invariant: with the defaults nothing outside of this machine is listened to.

pub use agent_common::config::{Error, PowerOfTwo, Ranged, Section, load, load_or_default, parse};

use agent_common::section;
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    pub tls: Tls,
    pub inbox: Inbox,
    pub store: Store,
    pub query: Query,
}

section! {
    /// Where the collector listens and keeps what it has.
    pub struct Server {
        /// Address for agents and people, one for both: OTLP/HTTP, NDJSON, and the API. Another address than loopback
        /// needs `certificate` and `key` in [tls], because keys and events pass it.
        pub listen: SocketAddr = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 4318),
        /// Folder of everything: inbox, catalog, keys, and the segments, unless [store] says otherwise. Made with mode
        /// 0700; for one collector only.
        pub data: PathBuf = PathBuf::from("/var/lib/tokentrail-collector"),
        /// What is logged to standard error: "error", "warn", "info", "debug" or "trace". The variable TOKENTRAIL_LOG
        /// goes before it.
        pub log: String = "info".to_owned(),
    }
}

section! {
    /// TLS. Without a certificate the collector speaks cleartext, on loopback only.
    pub struct Tls {
        /// File with the collector's certificate and those above it (PEM).
        pub certificate: Option<PathBuf> = None,
        /// File with its private key (PEM), which only its owner may read.
        pub key: Option<PathBuf> = None,
        /// File with the certificates (PEM) that agents' certificates are signed by. An agent with one of them needs no
        /// ingest key; its name is the certificate's. People and agents without one still use keys.
        pub client_ca: Option<PathBuf> = None,
    }
}

section! {
    /// What has arrived and lies in no segment so far.
    pub struct Inbox {
        /// Bytes of events that may wait. What is over is answered with 503 and Retry-After, so that agents keep it.
        pub max_bytes: Ranged<1_048_576, 68_719_476_736> = Ranged::new(512 * 1024 * 1024),
        /// Bytes of what was refused that are kept for looking at; the oldest leave.
        pub quarantine_bytes: Ranged<0, 1_073_741_824> = Ranged::new(64 * 1024 * 1024),
        /// Bytes of a request after decompression, at most.
        pub request_bytes: Ranged<65_536, 268_435_456> = Ranged::new(32 * 1024 * 1024),
        /// Seconds that a missing event may be late before its absence becomes an event of its own.
        pub hole_seconds: Ranged<1, 604_800> = Ranged::new(600),
    }
}

section! {
    /// Events for months.
    pub struct Store {
        /// Where segments lie: a folder, or "s3://BUCKET/PREFIX" (with the usual AWS_* variables). Without it `store` in
        /// the data folder.
        pub objects: Option<String> = None,
        /// Seconds after which what waits becomes a segment.
        pub seal_seconds: Ranged<1, 3_600> = Ranged::new(5),
        /// Seconds between two looks for segments to merge, and to drop.
        pub tidy_seconds: Ranged<1, 3_600> = Ranged::new(60),
        /// Days that events are kept.
        pub keep_days: Ranged<1, 36_500> = Ranged::new(400),
        /// Bytes of segments that are kept; the oldest leave. 0: no such limit.
        pub keep_bytes: Ranged<0, 1_125_899_906_842_624> = Ranged::new(0),
    }
}

section! {
    /// Bounds of one question.
    pub struct Query {
        /// Seconds that it may take.
        pub seconds: Ranged<1, 3_600> = Ranged::new(30),
        /// Bytes of memory that its plan may hold; four are answered at a time.
        pub memory_bytes: Ranged<16_777_216, 1_099_511_627_776> = Ranged::new(512 * 1024 * 1024),
        /// Events that it may have to look at; one that would look at more says so, and can be forced.
        pub scan_rows: Ranged<1_000, 1_000_000_000_000> = Ranged::new(200_000_000),
    }
}

const HEAD: &str = "\
# Every key of the collector's configuration, with its default. What is not said holds as it stands here.
# Where it lies: /etc/tokentrail/collector.toml, or wherever `tokentrail serve --config FILE` looks.
# Only root and the collector's own user may be able to write it.
";

impl Config {
    /// Every section by its name, in the order in which they are shown.
    #[must_use]
    pub fn sections(&self) -> [(&'static str, &dyn Section); 5] {
        [
            ("server", &self.server),
            ("tls", &self.tls),
            ("inbox", &self.inbox),
            ("store", &self.store),
            ("query", &self.query),
        ]
    }

    /// Every key with its documentation and its effective value, as TOML that parses back to the same.
    #[must_use]
    pub fn show(&self) -> String {
        agent_common::config::show(&self.sections())
    }

    /// The example configuration, kept as `packaging/collector.example.toml`.
    #[must_use]
    pub fn example() -> String {
        agent_common::config::example(HEAD, &Self::default().sections())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_is_shown_is_read_as_the_same() {
        let mut config = Config::default();
        config.tls.key = Some("/etc/tokentrail/key.pem".into());
        config.store.keep_days = Ranged::new(7);
        for config in [Config::default(), config] {
            assert_eq!(
                parse::<Config>(Path::new("shown"), &config.show()).unwrap(),
                config
            );
        }
    }

    #[test]
    fn the_copy_in_packaging_is_fresh() {
        // `UPDATE_EXPECT=1 cargo test -p collector --lib example` writes it.
        expect_test::expect_file!["../../packaging/collector.example.toml"]
            .assert_eq(&Config::example());
    }

    #[test]
    fn a_key_that_is_none_is_refused_at_its_place() {
        let wrong = "[store]\nkeep_days = 0\n";
        let error = parse::<Config>(Path::new("c.toml"), wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "c.toml:2:13: invalid value: integer `0`, expected an integer from 1 to 36500"
        );
        let error = parse::<Config>(Path::new("c.toml"), "[store]\nkeep = 1\n").unwrap_err();
        assert!(error.to_string().contains("c.toml:2:1"), "{error}");
    }
}
