//! For tests: events that look like an agent's, a store, and a second, plain
//! interpretation of the search language over JSON.

use super::engine::{Engine, Limits};
use super::fields::Kind;
use super::language::moment::Moment;
use super::language::{Comparison, Query, Term, Test, Value};
use crate::event::Event;
use crate::store::catalog::SqliteCatalog;
use crate::store::{Directory, Entry, Pending, PendingError, Settings, Store};
use serde_json::{Map, Value as Json, json};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// 2026-11-22T00:00:00Z.
pub const BEGIN: i64 = 1_795_305_600_000_000_000;
pub const HOUR: i64 = 3_600_000_000_000;

/// A repeatable choice (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }

    pub fn of<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.below(among.len())].clone()
    }
}

pub fn fingerprint(kid: &str, number: usize) -> String {
    format!("tkf1:{kid}:{number:_>43}")
}

pub const PATHS: [&str; 6] = [
    "/",
    "/admin",
    "/admin/users",
    "/a b/ü",
    "/100%_\\\"x\"",
    "/z\u{10ffff}",
];
pub const ADDRESSES: [&str; 6] = [
    "10.0.0.1",
    "10.1.2.3",
    "192.0.2.7",
    "2001:db8::1",
    "/run/engine.sock",
    "@abstract",
];
pub const ARGS: [&str; 4] = ["curl", "-a\"b", "ü\\", "--verbose"];

/// `count` events of one agent, over 6 hours, in the order of sequence but not of time.
pub fn events(count: usize, seed: u64) -> Vec<Event> {
    let mut dice = Dice(seed);
    (1..=count)
        .map(|sequence| event(sequence, &mut dice))
        .collect()
}

fn time(nanos: i64) -> String {
    agent_common::event::Time::from_unix_nanos(i128::from(nanos)).to_string()
}

fn event(sequence: usize, dice: &mut Dice) -> Event {
    // Some share their microsecond, and some even their time.
    let at = BEGIN
        + dice.below(6 * 60) as i64 * 60_000_000_000
        + dice.of(&[0, 1, 999, 1_000, 999_999_999]);
    let mut event = json!({
        "version": 1, "time": time(at), "observed_time": time(at + 1_000),
        "producer": {"id": dice.of(&["agent-1", "agent-2"]), "name": "tokentrail-agent", "version": "0.1.0",
            "epoch": 1_795_000_000_000_u64, "sequence": sequence},
        "host": {"name": dice.of(&["web-1", "web-2", "db-1"]), "boot_id": "b"},
    });
    let more = if dice.below(8) == 0 {
        json!({"kind": "loss", "loss": {"stage": "kernel", "reason": "ring_full", "count": dice.below(100),
            "unit": "records", "from": time(at - HOUR), "to": time(at), "intentional": dice.below(2) == 0}})
    } else {
        usage(dice)
    };
    extend(&mut event, more);
    canonical(&event)
}

fn usage(dice: &mut Dice) -> Json {
    let provider = dice.of(&[Some("github"), Some("slack"), None]);
    let credential = dice.below(12);
    let mut prints = vec![fingerprint("k2", credential)];
    if dice.below(3) == 0 {
        prints.push(fingerprint("k1", credential));
    }
    if dice.below(20) == 0 {
        prints.clear();
    }
    let (peer, client) = (dice.of(&ADDRESSES), dice.of(&ADDRESSES[..4]));
    let mut usage = json!({
        "kind": "usage", "direction": dice.of(&["client", "server"]),
        "exchange": {"id": format!("{:032x}", dice.below(1 << 20)), "outcome": "answered"},
        "process": {"pid": dice.below(5) + 100, "creation": {"time": time(BEGIN)},
            "executable": {"path": dice.of(&["/usr/bin/curl", "/usr/bin/python3"])},
            "command_args": [dice.of(&ARGS), dice.of(&ARGS)],
            "real_user": {"id": dice.below(3) * 1000}, "real_group_id": 0,
            "linux": {"cgroup": "/", "cgroup_id": 1, "network_namespace": 1}},
        "network": {"transport": "tcp", "peer": {"address": peer}},
        "server": {"address": dice.of(&["api.example", "10.0.0.1"]), "port": 443},
        "client": {"address": client},
        "http": {"request": {"method": dice.of(&["GET", "POST"])}},
        "url": {"scheme": "https", "path": dice.of(&PATHS)},
        "token": {"fingerprints": prints, "scheme": "Bearer", "carrier": "header:authorization"},
        "evidence": {"socket": "record", "identity": "exec", "hook": "fentry"},
        "correlation": {},
    });
    if let Some(provider) = provider {
        usage["token"]["provider"] = provider.into();
    }
    if dice.below(4) > 0 {
        usage["http"]["response"] = json!({"status_code": dice.of(&[200, 401, 403, 404, 500])});
    }
    if dice.below(3) == 0 {
        usage["container"] = json!({"id": format!("{:064}", dice.below(2))});
    }
    if dice.below(2) == 0 {
        usage["correlation"] = json!({"x-request-id": dice.of(&["r-1", "r-2"])});
    }
    usage
}

fn extend(event: &mut Json, more: Json) {
    if let (Some(event), Json::Object(more)) = (event.as_object_mut(), more) {
        event.extend(more);
    }
}

fn canonical(event: &Json) -> Event {
    let envelope: agent_common::event::Envelope = serde_json::from_value(event.clone()).unwrap();
    Event::parse(serde_json::to_vec(&envelope).unwrap().into()).unwrap()
}

/// An inbox in memory.
#[derive(Default)]
struct Memory {
    entries: Mutex<(i64, Vec<Arc<Entry>>)>,
}

impl Memory {
    fn append(&self, events: &[Event]) {
        let mut entries = self.entries.lock().unwrap();
        entries.0 += 1;
        let entry = Entry {
            id: entries.0,
            received: 0,
            origin: "test".into(),
            events: events.to_vec(),
        };
        entries.1.push(Arc::new(entry));
    }
}

impl Pending for Memory {
    fn pending(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().unwrap().1.clone()
    }

    fn remove(&self, through: i64) -> Result<(), PendingError> {
        self.entries
            .lock()
            .unwrap()
            .1
            .retain(|entry| entry.id > through);
        Ok(())
    }
}

/// A store, and what it stands on.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub store: Store,
}

/// All events but the last `pending` are sealed, in two rounds: some hours have two segments.
pub async fn bench(events: &[Event], pending: usize) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let objects = Directory::open(&folder.path().join("data")).unwrap();
    let catalog = SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap();
    let inbox = Arc::new(Memory::default());
    let store = Store::open(
        Arc::new(objects),
        Arc::new(catalog),
        Arc::clone(&inbox) as _,
        Settings::default(),
    );
    let store = store.await.unwrap();
    let (sealed, waiting) = events.split_at(events.len() - pending);
    let (first, second) = sealed.split_at(sealed.len() / 3);
    for round in [first, second] {
        inbox.append(round);
        store.seal().await.unwrap();
    }
    for entry in waiting.chunks(37) {
        inbox.append(entry);
    }
    Bench { folder, store }
}

pub async fn engine(events: &[Event], pending: usize, limits: Limits) -> (Engine, Bench) {
    let bench = bench(events, pending).await;
    let engine = Engine::new(Arc::new(bench.store.clone()), limits).unwrap();
    (engine, bench)
}

/// Whether the event is one that the query takes, by the language's description alone.
pub fn takes(query: &Query, event: &Event, now: i64) -> bool {
    let json: Json = serde_json::from_slice(&event.json).unwrap();
    holds(query, &json, now)
}

fn holds(query: &Query, event: &Json, now: i64) -> bool {
    match query {
        Query::All => true,
        Query::And(queries) => queries.iter().all(|query| holds(query, event, now)),
        Query::Or(queries) => queries.iter().any(|query| holds(query, event, now)),
        Query::Not(query) => !holds(query, event, now),
        Query::Term(term) => term_holds(term, event, now),
    }
}

fn term_holds(Term { field, test }: &Term, event: &Json, now: i64) -> bool {
    let pointer = format!("/{}", field.path.replace('.', "/"));
    let Some(value) = event.pointer(&pointer).filter(|value| !empty(value)) else {
        return false;
    };
    let texts: Vec<&str> = match value {
        Json::String(text) => vec![text],
        Json::Array(all) => all.iter().filter_map(Json::as_str).collect(),
        Json::Object(all) => all
            .iter()
            .flat_map(|(key, value)| [Some(key.as_str()), value.as_str()])
            .flatten()
            .collect(),
        _ => Vec::new(),
    };
    let at = || match field.kind {
        Kind::Time => {
            let time: agent_common::event::Time = texts[0].parse().unwrap();
            i64::try_from(time.unix_nanos()).unwrap()
        }
        _ => value.as_i64().unwrap(),
    };
    let span = |value: &Value| match value {
        Value::Integer(number) => (*number, number.saturating_add(1)),
        Value::Moment(moment) => Moment::span(*moment, now),
        other => panic!("{other:?}"),
    };
    match test {
        Test::Exists => true,
        Test::Equals(Value::Text(text)) => texts.contains(&text.as_str()),
        Test::Equals(Value::Boolean(wanted)) => value.as_bool() == Some(*wanted),
        Test::Equals(value) => (span(value).0..span(value).1).contains(&at()),
        Test::Prefix(prefix) => texts.iter().any(|text| text.starts_with(prefix.as_str())),
        Test::Range(low, high) => {
            low.as_ref().is_none_or(|low| at() >= span(low).0)
                && high.as_ref().is_none_or(|high| at() < span(high).1)
        }
        Test::Compare(Comparison::Less, value) => at() < span(value).0,
        Test::Compare(Comparison::LessOrEqual, value) => at() < span(value).1,
        Test::Compare(Comparison::Greater, value) => at() >= span(value).1,
        Test::Compare(Comparison::GreaterOrEqual, value) => at() >= span(value).0,
        Test::Within(network) => {
            let (first, last) = network.bounds();
            let number = |address: IpAddr| super::language::network::number(address);
            texts[0]
                .parse::<IpAddr>()
                .is_ok_and(|address| (first..=last).contains(&number(address)))
        }
        Test::Since(moment) => at() >= moment.span(now).0,
        Test::Until(moment) => at() < moment.span(now).0,
    }
}

/// Not in the canonical JSON, or with nothing in it.
fn empty(value: &Json) -> bool {
    match value {
        Json::Object(map) => Map::is_empty(map),
        Json::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// A query about what [`events`] makes.
pub fn query(dice: &mut Dice, depth: usize) -> String {
    if depth > 0 && dice.below(3) > 0 {
        let count = 2 + dice.below(2);
        let parts: Vec<String> = (0..count).map(|_| query(dice, depth - 1)).collect();
        return match dice.below(3) {
            0 => format!("({})", parts.join(" ")),
            1 => format!("({})", parts.join(" or ")),
            _ => format!("-({})", parts.join(dice.of(&[" ", " or "]))),
        };
    }
    let minus = if dice.below(4) == 0 { "-" } else { "" };
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let hour = |dice: &mut Dice| {
        format!(
            "2026-11-22T{:02}:{:02}:00.000000{:03}Z",
            dice.below(6),
            dice.below(60),
            dice.of(&[0, 1, 999])
        )
    };
    let print = |dice: &mut Dice| fingerprint(dice.of(&["k1", "k2"]), dice.below(14));
    let path = dice.of(&PATHS);
    let cut = path
        .char_indices()
        .nth(dice.below(path.chars().count()))
        .map_or(0, |(place, _)| place);
    let term = match dice.below(21) {
        0 => format!("provider:{}", dice.of(&["github", "slack", "none"])),
        1 => format!(
            "status:{}",
            dice.of(&[
                "200", "401", "400..499", ">=403", "<401", "..403", "500..", "99999"
            ])
        ),
        2 => format!(
            "src:{}",
            dice.of(&[
                "10.0.0.0/8",
                "10.1.0.0/16",
                "2001:db8::/32",
                "0.0.0.0/0",
                "::/0",
                "10.0.0.1",
                "10.*"
            ])
        ),
        3 => format!(
            "peer:{}",
            dice.of(&[
                "10.0.0.0/15",
                "/run/engine.sock",
                "/run/*",
                "@abstract",
                "::/1",
                "*"
            ])
        ),
        4 => format!("path:{}", quoted(path)),
        5 => format!("path:{}*", quoted(&path[..cut])),
        6 => format!("since:{}", hour(dice)),
        7 => format!("until:{}", hour(dice)),
        8 => format!(
            "time:2026-11-22T{:02}:{:02}Z",
            dice.below(6),
            dice.below(60)
        ),
        9 => format!("time:{}{}", dice.of(&["<", "<=", ">", ">="]), hour(dice)),
        10 => format!("fingerprint:{}", print(dice)),
        11 => format!("fp:{} {}fp:tkf1:k1:*", print(dice), dice.of(&["", "-"])),
        12 => "container:*".to_owned(),
        13 => format!("args:{}", quoted(dice.of(&ARGS))),
        14 => format!("args:{}*", quoted(dice.of(&["-", "c", "ü", "-a\"", "zz"]))),
        15 => format!(
            "correlation:{}",
            dice.of(&["r-1", "x-request-id", "r", "r*", "*"])
        ),
        16 => format!("uid:{}", dice.of(&["0", "1000", ">0", "-5..5"])),
        17 => format!("loss.intentional:{}", dice.of(&["true", "false"])),
        18 => format!(
            "server:{}",
            dice.of(&["api.example", "10.0.0.0/24", "api.*"])
        ),
        19 => format!(
            "{}:{}",
            dice.of(&["kind", "host", "method"]),
            dice.of(&["usage", "loss", "web-*", "db-1", "GET"])
        ),
        _ => format!("since:{}", dice.of(&["30m", "2h", "7d"])),
    };
    format!("{minus}({term})")
}
