//! `kill -9` of the whole collector at random points of starting, receiving, sealing, merging and dropping: 0 lost, 0
//! duplicated, every acknowledged event found.
//!
//! Four agents deliver events that are kept, a fifth delivers older ones until retention by size drops them; each
//! repeats what was not acknowledged, and some of what was. After every kill the folder is read as it lies there
//! (Parquet by the catalog, and the inbox), and the next start must count the same; at the end every event is read
//! through HTTP, byte for byte, and a credential's trail has each of its uses. What retention drops is said in the
//! collector's log, or can be read where a kill came before that: the sum must be exactly what is not there any more.
//!
//! `TOKENTRAIL_KILLS` says how often; without it, for two minutes. `TOKENTRAIL_SEED` says at which random points.

pub mod agents;
pub mod phases;

use super::support::chance::Chance;
use super::support::events::{self, HOUR, Source};
use super::support::serve::{self, Server, Site};
use super::support::stored::{Reader, Stored};
use super::support::{eventually, number, stored};
use agents::Agent;
use phases::{Dropped, Moment, Phases};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokentrail::event::EventKey;
use tokentrail::store::Level;

/// Without a number: so many at least, and no more after so long.
const KILLS: u64 = 15;
const LONG: Duration = Duration::from_secs(120);
/// The agent whose events are dropped.
const OLD: &str = "old";
/// The seals and merges of one run write less of what is kept.
const ROOM: u64 = 800_000;
const SETTINGS: &str = "
[inbox]
max_bytes = 1048576
hole_seconds = 1
[store]
seal_seconds = 1
tidy_seconds = 1
keep_bytes = ";

/// Over hours that are over: each look merges what was sealed since the last one.
fn kept_time(begin: i64, sequence: u64) -> i64 {
    let hour = [2, 26][sequence as usize % 2];
    begin - hour * HOUR + (sequence % 1_000_000) as i64 * 1_000_000
}

fn old_time(begin: i64, sequence: u64) -> i64 {
    begin + sequence as i64 * 1_000_000
}

fn agents() -> Vec<Agent> {
    let begin = events::now() / HOUR * HOUR;
    let kept = ["one", "two", "three", "four"].into_iter();
    let mut agents: Vec<Agent> = kept
        .map(|agent| Source {
            agent: agent.into(),
            epoch: 1,
            time: kept_time,
            begin,
            noise: 0,
        })
        .map(|source| Agent::new(source, 40))
        .collect();
    let old = Source {
        agent: OLD.into(),
        epoch: 1,
        time: old_time,
        begin: begin - 10_000 * HOUR,
        noise: 1_500,
    };
    agents.push(Agent::new(old, 150));
    agents
}

struct Trial {
    site: Site,
    agents: Vec<Agent>,
    reader: Reader,
    phases: Phases,
    chance: Chance,
    dropped: Dropped,
    /// Segments that merges have made, as far as they were seen.
    merges: u64,
    newest: i64,
    runs: u64,
    /// How many events of each agent there were at the last look.
    counts: BTreeMap<String, u64>,
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled() {
    let asked = number("TOKENTRAIL_KILLS", 0);
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut trial = Trial {
        site: Site::new(folder.path(), &format!("{SETTINGS}{ROOM}")),
        agents: agents(),
        reader: Reader::default(),
        phases: Phases::default(),
        chance: Chance(number("TOKENTRAIL_SEED", 20_261_122)),
        dropped: Dropped::default(),
        merges: 0,
        newest: 0,
        runs: 0,
        counts: BTreeMap::new(),
    };
    trial.site.start().stop();
    trial.site.environment = vec![(
        "TOKENTRAIL_LOG".to_owned(),
        "info,tokentrail=debug".to_owned(),
    )];
    let mut kills = 0;
    while kills < asked.max(KILLS) || (asked == 0 && (start.elapsed() < LONG || trial.idle())) {
        kills += 1;
        trial.kill();
        trial.look(&format!("after {kills} kills"));
        if kills % 10 == 0 {
            trial.tell(kills);
        }
    }
    trial.tell(kills);
    trial.end();
    let Trial {
        merges,
        dropped,
        phases,
        ..
    } = trial;
    assert!(merges > 0, "nothing was merged");
    assert!(dropped.rows > 0, "retention dropped nothing");
    if kills >= 200 {
        phases.all_happened();
    }
}

impl Trial {
    /// Whether something that is to be killed has never happened; not for ever.
    fn idle(&self) -> bool {
        self.runs < 100 && (self.merges == 0 || self.dropped.rows == 0)
    }

    /// One run: started, delivered to, killed.
    fn kill(&mut self) {
        let moment = Moment::any(&mut self.chance);
        let after = self.chance.millis(moment.most());
        let mut server = self.site.begin();
        if moment == Moment::Start {
            std::thread::sleep(after);
            return server.kill();
        }
        server.wait();
        self.compare(&server);
        self.deliver(&mut server, moment, after);
    }

    /// The next start counts what was read in the folder, before anybody delivers.
    fn compare(&self, server: &Server) {
        let found = server.count(
            "kind:usage -producer.id:old",
            "producer.id",
            &self.site.keys().analyst,
        );
        let kept = self.counts.iter().filter(|(agent, _)| *agent != OLD);
        let expected: Vec<(String, u64)> =
            kept.map(|(agent, count)| (agent.clone(), *count)).collect();
        assert_eq!(found, expected, "{}", server.said());
    }

    /// They go on until it is killed, and a moment longer.
    fn deliver(&mut self, server: &mut Server, moment: Moment, after: Duration) {
        let url = server.url.clone();
        let store = self.site.data.join("store");
        let stop = AtomicBool::new(false);
        let header = self.site.ingest_header();
        let seeds: Vec<u64> = self.agents.iter().map(|_| self.chance.number()).collect();
        std::thread::scope(|scope| {
            for (agent, seed) in self.agents.iter_mut().zip(seeds) {
                let (stop, header, url) = (&stop, &header, &url);
                scope.spawn(move || agent.deliver(url, header, Chance(seed), stop));
            }
            // Who asks while it is sealed and merged sees each event once, too.
            let (stop, url, key) = (&stop, &url, &self.site.keys().analyst);
            scope.spawn(move || ask(url, key, stop));
            moment.wait(&store);
            std::thread::sleep(after);
            server.kill();
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// Reads the folder, and holds it against what the agents know.
    fn look(&mut self, when: &str) {
        let stored = self.reader.read(&self.site.data);
        let said = std::fs::read_to_string(self.site.folder.join("collector.log")).unwrap();
        self.phases.add(&stored, &self.agents);
        self.dropped
            .add(&said, &stored, &mut self.reader, &self.site.data);
        self.runs += 1;
        let all = stored.catalog.live.iter().chain(&stored.catalog.dropped);
        let fresh = all.clone().filter(|segment| segment.id > self.newest);
        self.merges += fresh
            .filter(|segment| segment.level != Level::Sealed)
            .count() as u64;
        self.newest = all.map(|segment| segment.id).max().unwrap_or(self.newest);
        for (key, count) in &stored.events {
            assert_eq!(*count, 1, "{key} is there {count} times, {when}: {said}");
        }
        self.counts.clear();
        let mut missing = 0;
        for agent in &self.agents {
            let present = present(&stored, agent);
            let name = agent.source.agent.to_string();
            if let Some(last) = present.last() {
                assert!(*last <= agent.sent, "{name}: {last} was never sent, {when}");
            }
            let gone = (1..=agent.acknowledged).filter(|sequence| !present.contains(sequence));
            let gone: Vec<u64> = gone.collect();
            if name == OLD {
                missing = gone.len() as u64;
            } else {
                let some = &gone[..gone.len().min(10)];
                assert!(
                    gone.is_empty(),
                    "{name}: {some:?}… were acknowledged, {when}: {said}"
                );
            }
            if !present.is_empty() {
                self.counts.insert(name, present.len() as u64);
            }
        }
        let dropped = self.dropped.rows;
        assert!(
            missing <= dropped,
            "{missing} of {OLD} are missing, {dropped} were dropped, {when}: {said}"
        );
        self.own(&stored, when);
        // The next run may keep what is to be kept, and little more.
        let begin = self
            .agents
            .iter()
            .map(|agent| agent.source.begin)
            .max()
            .unwrap();
        let kept = stored
            .catalog
            .live
            .iter()
            .filter(|segment| segment.max_time >= begin - 100 * HOUR);
        let bytes: u64 = kept.map(|segment| segment.bytes).sum();
        self.site.settings = format!("{SETTINGS}{}", bytes + ROOM);
    }

    /// The collector's own events are numbered without a hole.
    fn own(&self, stored: &Stored, when: &str) {
        let mut own: BTreeMap<(&str, u64), BTreeSet<u64>> = BTreeMap::new();
        for key in stored.events.keys() {
            if !self
                .agents
                .iter()
                .any(|agent| agent.source.agent == key.agent)
            {
                own.entry((&key.agent, key.epoch))
                    .or_default()
                    .insert(key.sequence);
            }
        }
        for (source, sequences) in own {
            let last = sequences.len() as u64;
            assert_eq!(
                sequences.last(),
                Some(&last),
                "{source:?} has holes, {when}"
            );
        }
    }

    fn tell(&self, kill: u64) {
        println!(
            "after {kill} kills: {:?} of the agents, {} merges, {} rows dropped by retention; killed {}",
            self.counts, self.merges, self.dropped.rows, self.phases
        );
    }

    /// Everything that was not acknowledged is delivered, nothing is killed any more, and every event is looked at.
    fn end(&mut self) {
        let mut server = self.site.start();
        let header = self.site.ingest_header();
        for agent in &mut self.agents {
            agent.finish(&server.url, &header);
        }
        let key = self.site.keys().analyst.clone();
        for agent in self
            .agents
            .iter()
            .filter(|agent| &*agent.source.agent != OLD)
        {
            let query = format!("producer.id:{}", agent.source.agent);
            let mut found: BTreeMap<u64, String> = BTreeMap::new();
            for event in server.search(&query, &key) {
                let value: Value = serde_json::from_str(&event).unwrap();
                let sequence = value["producer"]["sequence"].as_u64().unwrap();
                let twice = found.insert(sequence, event);
                assert_eq!(twice, None, "{query} {sequence} is found twice");
            }
            assert_eq!(found.len() as u64, agent.acknowledged, "{query}");
            for (sequence, event) in &found {
                let sent: Value =
                    serde_json::from_slice(&agent.source.event(*sequence).json).unwrap();
                assert_eq!(*event, sent.to_string(), "{query} {sequence}");
            }
        }
        let asked = events::fingerprint(7);
        let uses = self
            .agents
            .iter()
            .filter(|agent| &*agent.source.agent != OLD)
            .map(|agent| {
                let used = |sequence: &u64| agent.source.fingerprint(*sequence) == asked;
                (1..=agent.acknowledged).filter(used).count() as u64
            });
        let uses: u64 = uses.sum();
        let (status, answer) = server.post("/v1/trail", &key, &json!({"fingerprints": [asked]}));
        assert_eq!(status, 200, "{answer}");
        let counted = server.count(&format!("fp:{asked} -producer.id:{OLD}"), "kind", &key);
        assert_eq!(counted, [("usage".to_owned(), uses)]);
        // What a question had open while it was merged goes when the store is tidied next.
        eventually("segments, and nothing else", || {
            let files = stored::files(&self.site.data.join("store")).len() as u64;
            let segments = server.metric("segments");
            (files == segments)
                .then_some(())
                .ok_or_else(|| format!("{segments} segments, {files} files"))
        });
        server.stop();
        self.look("at the end");
        // What retention has dropped is all that is not there.
        let stored = self.reader.read(&self.site.data);
        let old = self.agents.last().unwrap();
        let there = present(&stored, old).len() as u64;
        let dropped = self.dropped.rows;
        assert_eq!(there + dropped, old.acknowledged, "{dropped} dropped");
        println!(
            "in the end: {:?} of the agents found through HTTP, {uses} uses of one credential; {} segments, {there} of \
             {} old events there and {dropped} dropped",
            self.counts,
            stored.catalog.live.len(),
            old.acknowledged
        );
        assert_eq!(
            stored::files(&self.site.data.join("store")).len(),
            stored.catalog.live.len()
        );
    }
}

/// Events of an agent, as counted, are never more than its last sequence says.
fn ask(url: &str, key: &str, stop: &AtomicBool) {
    let question = json!({"q": "kind:usage -producer.id:old", "by": "producer.id,producer.sequence", "limit": 10_000});
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(500));
        // Killed while it answers.
        let Ok((200, answer)) = serve::post(url, "/v1/stats", key, &question) else {
            continue;
        };
        for row in answer["rows"].as_array().unwrap() {
            assert_eq!(row["count"], 1, "counted twice: {row}");
        }
    }
}

fn present(stored: &Stored, agent: &Agent) -> BTreeSet<u64> {
    let of = |sequence| EventKey {
        agent: agent.source.agent.clone(),
        epoch: agent.source.epoch,
        sequence,
    };
    let range = stored.events.range(of(0)..=of(u64::MAX));
    range.map(|(key, _)| key.sequence).collect()
}
