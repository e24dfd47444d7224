//! What is asked, in the collector's words, and what came of it.

use super::server::Server;
use crate::load::DAY;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Fingerprints that are looked for, in turn.
const NEEDLES: usize = 20;
/// Events of a page.
const PAGE: usize = 1_000;
/// Whole scans are asked less often, but so often at least.
const SCANS: usize = 20;

/// All of it.
pub struct Questions {
    /// Rarely used credentials.
    pub needles: Vec<String>,
    /// Begin of the day that is counted, and end of it, in seconds since the Unix epoch.
    pub day: (i64, i64),
    pub needle_times: usize,
    pub scan_times: usize,
}

/// Names of the questions, in the order of the table.
pub const NEEDLE: &str = "needle";
pub const TRAIL: &str = "trail";
pub const DAY_STATUS: &str = "one day by status";
pub const DAYS_STATUS: &str = "every day by status";
pub const FAILURES: &str = "top failures";
/// With answers that are compared.
pub const COMPARED: [&str; 4] = [NEEDLE, DAY_STATUS, DAYS_STATUS, FAILURES];

/// What came of one question.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Asked {
    pub milliseconds: Vec<f64>,
    /// In a form that all engines' answers can be brought into.
    pub answer: Value,
}

impl Asked {
    /// The nearest rank.
    pub fn percentile(&self, percent: usize) -> Option<f64> {
        let mut sorted = self.milliseconds.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }
}

pub type Answers = BTreeMap<String, Asked>;

fn utc(seconds: i64) -> String {
    let nanos = i128::from(seconds) * 1_000_000_000;
    agent_common::event::Time::from_unix_nanos(nanos).to_string()
}

impl Questions {
    /// `ranks`: fingerprints, from the one that is used most.
    pub fn new(ranks: &[&str], from: i64, days: u32, repeat: usize) -> Self {
        let half = ranks.len() / 2;
        let step = (half / NEEDLES).max(1);
        let needles = ranks[half..].iter().step_by(step).take(NEEDLES);
        let day = DAY / 1_000_000_000;
        let begin = from + i64::from(days / 2) * day;
        Self {
            needles: needles.map(|needle| (*needle).to_owned()).collect(),
            day: (begin, begin + day),
            needle_times: repeat.max(NEEDLES),
            scan_times: (repeat / 5).max(SCANS),
        }
    }

    /// Asks the collector, each question once without counting it first.
    pub fn ask(&self, server: &Server, mut tick: impl FnMut(&str)) -> Result<Answers> {
        let mut answers = Answers::new();
        tick(NEEDLE);
        let mut needle = Asked::default();
        let mut found = BTreeMap::new();
        self.each_needle(|fingerprint, counted| {
            let question = json!({
                "q": format!("kind:usage fingerprint:{fingerprint}"), "limit": PAGE, "order": "oldest",
            });
            let (said, took) = server.ask("/v1/search", &question)?;
            if counted {
                needle.milliseconds.push(milliseconds(took));
            } else {
                found.insert(fingerprint.to_owned(), keys(&said)?);
            }
            Ok(())
        })?;
        needle.answer = json!(found);
        answers.insert(NEEDLE.to_owned(), needle);
        tick(TRAIL);
        let mut trail = Asked::default();
        self.each_needle(|fingerprint, counted| {
            let question = json!({ "fingerprints": [fingerprint] });
            let (_, took) = server.ask("/v1/trail", &question)?;
            if counted {
                trail.milliseconds.push(milliseconds(took));
            }
            Ok(())
        })?;
        answers.insert(TRAIL.to_owned(), trail);
        let (since, until) = (utc(self.day.0), utc(self.day.1));
        let scans = [
            (
                DAY_STATUS,
                json!({ "q": format!("kind:usage since:{since} until:{until}"), "by": "status" }),
            ),
            (
                DAYS_STATUS,
                json!({ "q": "kind:usage", "by": "status", "every": "1d", "limit": 10_000 }),
            ),
            (
                FAILURES,
                json!({ "q": "kind:usage status:>=400 fingerprint:*", "by": "fingerprint", "limit": 20 }),
            ),
        ];
        for (name, mut question) in scans {
            tick(name);
            question["force"] = true.into();
            let mut asked = Asked::default();
            for round in 0..=self.scan_times {
                let (said, took) = server.ask("/v1/stats", &question)?;
                if round == 0 {
                    asked.answer = counts(name, &said)?;
                } else {
                    asked.milliseconds.push(milliseconds(took));
                }
            }
            answers.insert(name.to_owned(), asked);
        }
        Ok(answers)
    }

    /// Every needle once, then in turn as often as it is counted.
    fn each_needle(&self, mut ask: impl FnMut(&str, bool) -> Result<()>) -> Result<()> {
        for needle in &self.needles {
            ask(needle, false)?;
        }
        for needle in self.needles.iter().cycle().take(self.needle_times) {
            ask(needle, true)?;
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The events of a page, by host, sequence and status.
fn keys(page: &[u8]) -> Result<Value> {
    let page: Value = serde_json::from_slice(page)?;
    let events = page["events"].as_array().context("a page has events")?;
    let key = |event: &Value| {
        json!([
            event["producer"]["id"],
            event["producer"]["sequence"],
            event["http"]["response"]["status_code"]
        ])
    };
    let mut keys: Vec<Value> = events.iter().map(key).collect();
    keys.sort_by_key(Value::to_string);
    Ok(keys.into())
}

/// Groups and their counts. Of equally frequent failures any may stand last: their counts are compared.
fn counts(name: &str, said: &[u8]) -> Result<Value> {
    let said: Value = serde_json::from_slice(said)?;
    let rows = said["rows"].as_array().context("counts have rows")?;
    let mut groups: Vec<Value> = rows
        .iter()
        .map(|row| match name {
            FAILURES => row["count"].clone(),
            DAYS_STATUS => {
                let day = row["time"].as_str().and_then(|time| time.get(..10));
                json!([day, row["values"][0], row["count"]])
            }
            _ => json!([row["values"][0], row["count"]]),
        })
        .collect();
    if name != FAILURES {
        groups.sort_by_key(Value::to_string);
    }
    Ok(groups.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let asked = Asked {
            milliseconds: (1..=200).rev().map(f64::from).collect(),
            ..Asked::default()
        };
        assert_eq!(asked.percentile(50), Some(100.0));
        assert_eq!(asked.percentile(99), Some(198.0));
        assert_eq!(Asked::default().percentile(50), None);
    }

    #[test]
    fn needles_are_of_the_rarer_half() {
        let ranks: Vec<String> = (0..1_000).map(|rank| rank.to_string()).collect();
        let ranks: Vec<&str> = ranks.iter().map(String::as_str).collect();
        let questions = Questions::new(&ranks, 0, 3, 5);
        assert_eq!(questions.needles.len(), NEEDLES);
        assert!(
            questions
                .needles
                .iter()
                .all(|needle| needle.len() == 3 && **needle >= *"500")
        );
        assert_eq!(questions.day, (86_400, 172_800));
    }
}
