//! The table of columns.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a column holds, and how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A JSON string.
    Text,
    /// A JSON string that is an IP address, or a Unix socket's path.
    Address,
    /// Any JSON value, kept as its text: lists and maps.
    Json,
    /// Integers of JSON; one that does not fit goes to `rest`.
    Int16,
    Int32,
    Int64,
    /// `true` or `false`.
    Bool,
    /// RFC 3339 in UTC with nine digits: a timestamp in microseconds and, in `…_nanos`, the rest.
    Time,
    /// A list of fingerprints: the first, and the others as JSON.
    Fingerprints,
}

/// How a column's values are written, before all are compressed. Measured: `tests/cost.rs` prints what each costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stored {
    /// Each value once, and numbers of them: what repeats, as what a time has below a microsecond does.
    #[default]
    Dictionary,
    /// Differences: what grows.
    Delta,
    /// As it is: numbers that repeat in runs alone, which the compression finds.
    Plain,
    /// What it has in common with the one before, and the rest: what begins alike in rows that follow each other.
    Prefix,
}

/// One value of the contract.
#[derive(Debug)]
pub struct Column {
    /// Where the contract has it, dotted.
    pub path: &'static str,
    /// The column's name in batches and files.
    pub name: String,
    pub kind: Kind,
    /// Whether people may search by it.
    pub searchable: bool,
    /// Short names in the search language, beside `path` and `name`.
    pub short: &'static [&'static str],
    pub stored: Stored,
}

use Kind::{Address, Bool, Fingerprints, Int16, Int32, Int64, Json, Text, Time};

/// Searchable by path and name only.
const BY_PATH: Option<&[&str]> = Some(&[]);

type Line = (&'static str, Kind, Option<&'static [&'static str]>);

/// In the order of the contract's JSON. New lines go where the contract has the new field, old ones never move.
const TABLE: &[Line] = &[
    ("version", Int16, None),
    ("time", Time, BY_PATH),
    ("observed_time", Time, BY_PATH),
    ("producer.id", Text, Some(&["agent"])),
    ("producer.name", Text, BY_PATH),
    ("producer.version", Text, BY_PATH),
    ("producer.epoch", Int64, Some(&["epoch"])),
    ("producer.sequence", Int64, Some(&["sequence"])),
    ("host.id", Text, BY_PATH),
    ("host.name", Text, Some(&["host"])),
    ("host.boot_id", Text, Some(&["boot"])),
    ("kind", Text, BY_PATH),
    ("direction", Text, BY_PATH),
    ("exchange.id", Text, Some(&["exchange"])),
    ("exchange.outcome", Text, Some(&["outcome"])),
    ("coverage.scope", Text, BY_PATH),
    ("coverage.reason", Text, BY_PATH),
    ("coverage.detail", Text, BY_PATH),
    ("coverage.protocol", Text, BY_PATH),
    ("coverage.library", Text, BY_PATH),
    ("coverage.connections.seen", Int64, BY_PATH),
    ("coverage.connections.read", Int64, BY_PATH),
    ("coverage.connections.unread", Int64, BY_PATH),
    ("coverage.from", Time, BY_PATH),
    ("coverage.to", Time, BY_PATH),
    ("loss.stage", Text, BY_PATH),
    ("loss.probe", Text, BY_PATH),
    ("loss.reason", Text, BY_PATH),
    ("loss.count", Int64, BY_PATH),
    ("loss.unit", Text, BY_PATH),
    ("loss.from", Time, BY_PATH),
    ("loss.to", Time, BY_PATH),
    ("loss.intentional", Bool, BY_PATH),
    ("loss.events.agent", Text, BY_PATH),
    ("loss.events.epoch", Int64, BY_PATH),
    ("loss.events.first", Int64, BY_PATH),
    ("loss.events.last", Int64, BY_PATH),
    ("audit.action", Text, Some(&["action"])),
    ("audit.scope", Json, BY_PATH),
    ("audit.kernel", Text, Some(&["kernel"])),
    ("audit.hook", Text, BY_PATH),
    ("audit.key_ids", Json, BY_PATH),
    ("audit.counters", Json, None),
    ("audit.sinks", Json, None),
    ("audit.actor", Text, Some(&["actor"])),
    ("audit.fingerprints", Json, Some(&["asked"])),
    ("audit.detail", Text, BY_PATH),
    ("process.pid", Int64, Some(&["pid"])),
    ("process.creation.time", Time, BY_PATH),
    ("process.parent_pid", Int64, Some(&["ppid"])),
    ("process.executable.path", Text, Some(&["exe"])),
    ("process.executable.deleted", Bool, Some(&["deleted"])),
    ("process.executable.hash.sha256", Text, Some(&["sha256"])),
    ("process.executable.hash_absent", Text, BY_PATH),
    ("process.command_args", Json, Some(&["args"])),
    ("process.command_args_truncated", Bool, BY_PATH),
    ("process.real_user.id", Int64, Some(&["uid"])),
    ("process.real_user.name", Text, Some(&["user"])),
    ("process.real_group_id", Int64, Some(&["gid"])),
    ("process.linux.cgroup", Text, Some(&["cgroup"])),
    ("process.linux.cgroup_id", Int64, BY_PATH),
    ("process.linux.network_namespace", Int64, BY_PATH),
    ("process.ancestors", Json, Some(&["ancestors"])),
    ("container.id", Text, Some(&["container"])),
    ("container.runtime.name", Text, Some(&["runtime"])),
    ("systemd.unit", Text, Some(&["unit"])),
    ("systemd.user_unit", Text, BY_PATH),
    ("systemd.slice", Text, Some(&["slice"])),
    ("systemd.owner_uid", Int64, BY_PATH),
    ("systemd.session", Text, BY_PATH),
    ("k8s.pod.uid", Text, Some(&["pod"])),
    ("thread.id", Int64, Some(&["tid"])),
    ("thread.name", Text, Some(&["thread"])),
    ("network.transport", Text, Some(&["transport"])),
    ("network.type", Text, BY_PATH),
    ("network.local.address", Address, Some(&["local"])),
    ("network.local.port", Int32, Some(&["local_port"])),
    ("network.peer.address", Address, Some(&["peer"])),
    ("network.peer.port", Int32, Some(&["peer_port"])),
    ("network.protocol.name", Text, BY_PATH),
    ("network.protocol.version", Text, BY_PATH),
    ("server.address", Text, Some(&["server", "dst"])),
    ("server.port", Int32, Some(&["port", "dst_port"])),
    ("client.address", Address, Some(&["client", "src"])),
    ("client.port", Int32, Some(&["src_port"])),
    ("tls.protocol.name", Text, BY_PATH),
    ("tls.protocol.version", Text, Some(&["tls"])),
    ("tls.cipher", Text, Some(&["cipher"])),
    ("tls.next_protocol", Text, Some(&["alpn"])),
    ("tls.client.server_name", Text, Some(&["sni"])),
    ("tls.resumed", Bool, BY_PATH),
    ("http.request.method", Text, Some(&["method"])),
    ("http.response.status_code", Int16, Some(&["status"])),
    ("rpc.system", Text, Some(&["rpc"])),
    ("rpc.service", Text, Some(&["service"])),
    ("rpc.method", Text, BY_PATH),
    ("rpc.grpc.status_code", Int16, Some(&["grpc"])),
    ("url.scheme", Text, BY_PATH),
    ("url.path", Text, Some(&["path"])),
    ("url.query", Text, Some(&["query"])),
    ("url.template", Text, Some(&["template"])),
    ("user_agent.original", Text, Some(&["user_agent"])),
    (
        "token.fingerprints",
        Fingerprints,
        Some(&["fingerprint", "fp"]),
    ),
    ("token.provider", Text, Some(&["provider"])),
    ("token.class", Text, Some(&["class"])),
    ("token.scheme", Text, Some(&["scheme"])),
    ("token.carrier", Text, Some(&["carrier"])),
    ("token.user", Text, Some(&["login"])),
    ("token.public", Json, Some(&["public"])),
    ("token.unresolved", Text, Some(&["unresolved"])),
    ("evidence.socket", Text, BY_PATH),
    ("evidence.provider", Text, BY_PATH),
    ("evidence.identity", Text, BY_PATH),
    ("evidence.hook", Text, BY_PATH),
    ("evidence.library", Text, Some(&["library"])),
    ("forwarded", Json, Some(&["forwarded"])),
    ("correlation", Json, Some(&["correlation"])),
];

/// What is not stored by dictionary.
const STORED: &[(&str, Stored)] = &[
    ("time", Stored::Delta),
    ("observed_time", Stored::Delta),
    ("producer.sequence", Stored::Delta),
    ("exchange.id", Stored::Prefix),
    ("process.pid", Stored::Plain),
    ("process.linux.cgroup_id", Stored::Plain),
    ("thread.id", Stored::Plain),
    ("network.local.port", Stored::Plain),
    ("network.peer.port", Stored::Plain),
    ("client.port", Stored::Plain),
];

/// See the module.
pub static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    TABLE
        .iter()
        .map(|&(path, kind, search)| Column {
            path,
            name: match kind {
                Kind::Fingerprints => super::FINGERPRINT.to_owned(),
                _ => path.replace('.', "_"),
            },
            kind,
            searchable: search.is_some(),
            short: search.unwrap_or_default(),
            stored: STORED
                .iter()
                .find(|(of, _)| *of == path)
                .map_or(Stored::Dictionary, |&(_, stored)| stored),
        })
        .collect()
});

/// An object of the contract, whose values are in columns.
pub(super) struct Node {
    /// Its path, dotted; empty for the event itself.
    pub path: String,
    /// By key, in the contract's order.
    pub children: Vec<(&'static str, Child)>,
    places: HashMap<&'static str, usize>,
}

pub(super) enum Child {
    Node(Node),
    /// Its place in [`COLUMNS`].
    Leaf(usize),
}

impl Node {
    fn new(path: String) -> Self {
        Self {
            path,
            children: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The child by `key`. Keys come in the contract's order, so the one after `last` is tried first.
    pub fn child(&self, key: &str, last: usize) -> Option<(usize, &Child)> {
        let place = match self.children.get(last) {
            Some((next, _)) if *next == key => last,
            _ => *self.places.get(key)?,
        };
        self.children.get(place).map(|(_, child)| (place, child))
    }

    fn insert(&mut self, path: &'static str, leaf: usize) {
        let (key, below) = match path.split_once('.') {
            Some((key, below)) => (key, Some(below)),
            None => (path, None),
        };
        let place = match self.places.get(key) {
            Some(&place) => place,
            None => {
                let child = match below {
                    Some(_) if self.path.is_empty() => Child::Node(Self::new(key.to_owned())),
                    Some(_) => Child::Node(Self::new(format!("{}.{key}", self.path))),
                    None => Child::Leaf(leaf),
                };
                self.places.insert(key, self.children.len());
                self.children.push((key, child));
                self.children.len() - 1
            }
        };
        if let (Some(below), Some((_, Child::Node(node)))) = (below, self.children.get_mut(place)) {
            node.insert(below, leaf);
        }
    }
}

/// The table as a tree, by the nesting of the contract.
pub(super) static TREE: LazyLock<Node> = LazyLock::new(|| {
    let mut root = Node::new(String::new());
    for (leaf, (path, _, _)) in TABLE.iter().enumerate() {
        root.insert(path, leaf);
    }
    root
});
