//! All of it as one table: what was measured, the goal, and the other engines with their ratio.

use super::Filled;
use super::engines::Loaded;
use super::questions::{Answers, COMPARED, DAY_STATUS, DAYS_STATUS, FAILURES, NEEDLE, TRAIL};
use super::server::Usage;
use crate::load::Sent;
use serde_json::{Value, json};

/// Events per second of one core's time, from OTLP bytes to acknowledged.
const INGEST_GOAL: f64 = 150_000.0;
const BYTES_GOAL: f64 = 20.0;
const NEEDLE_GOAL: f64 = 50.0;
const DAY_GOAL: f64 = 500.0;

pub struct Report {
    events: u64,
    pub acknowledged: Option<(Sent, Usage)>,
    pub kept: Option<(Sent, Usage)>,
    pub filled: Filled,
    pub question_memory: u64,
    /// By engine, the collector first.
    pub answers: Vec<(String, Answers)>,
    pub engines: Vec<(&'static str, Loaded)>,
}

impl Report {
    pub fn new(events: u64) -> Self {
        Self {
            events,
            acknowledged: None,
            kept: None,
            filled: Filled::default(),
            question_memory: 0,
            answers: Vec::new(),
            engines: Vec::new(),
        }
    }

    /// Questions whose answers are not those of the collector.
    pub fn differences(&self) -> Vec<String> {
        let Some(((_, own), others)) = self.answers.split_first() else {
            return Vec::new();
        };
        let mut differ = Vec::new();
        for (engine, answers) in others {
            for question in COMPARED {
                let answer = |answers: &Answers| answers.get(question).map(|it| it.answer.clone());
                if answer(own) != answer(answers) {
                    differ.push(format!("{question}: {engine}'s is another one"));
                }
            }
        }
        differ
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut rows = vec![header(&self.engines)];
        rows.extend(self.ingest());
        rows.push(self.sizes());
        rows.extend(self.times());
        rows.push(self.memory());
        let mut text = format!(
            "\n{} events, {} segments after merge; ratios are to the collector's: above 1 it does better\n\n",
            self.events, self.filled.segments
        );
        text += &aligned(&rows);
        let same = self.differences().is_empty() && self.answers.len() > 1;
        if same {
            text += "\nanswers of all engines to the same questions are equal\n";
        }
        text
    }

    fn ingest(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        let mut row = |name: &str, sent: &Sent, used: &Usage, goal: Option<f64>| {
            let per_core = sent.events as f64 / used.cpu_seconds.max(1e-9);
            let shown = format!(
                "{}/s, {}/s per core",
                count(sent.events as f64 / sent.seconds.max(1e-9)),
                count(per_core)
            );
            let goal = goal.map(|goal| verdict(&format!(">= {}/s", count(goal)), per_core >= goal));
            rows.push(line(name, shown, goal));
        };
        if let Some((sent, used)) = &self.acknowledged {
            row("OTLP to acknowledged", sent, used, Some(INGEST_GOAL));
        }
        if let Some((sent, used)) = &self.kept {
            row("OTLP to acknowledged and sealed", sent, used, None);
        }
        if let Some((sent, _)) = self.kept.as_ref().or(self.acknowledged.as_ref()) {
            let events = sent.events.max(1) as f64;
            rows.push(line(
                "bytes per event on the wire, zstd",
                format!(
                    "{:.1} of {:.0}",
                    sent.body_bytes as f64 / events,
                    sent.plain_bytes as f64 / events
                ),
                None,
            ));
        }
        let filled = &self.filled;
        if filled.appended > 0 {
            let rate = filled.appended as f64 / filled.fill_seconds.max(1e-9);
            rows.push(line(
                "NDJSON to sealed, days merged meanwhile, without HTTP",
                format!("{}/s", count(rate)),
                None,
            ));
        }
        rows.push(line(
            "merge of the rest",
            format!("{:.1} s", filled.merge_seconds),
            None,
        ));
        rows
    }

    fn sizes(&self) -> Vec<String> {
        let own = self.filled.bytes as f64 / self.filled.events.max(1) as f64;
        let mut row = line(
            "bytes per stored event, merged",
            format!("{own:.1}"),
            Some(verdict("<= 20", own <= BYTES_GOAL)),
        );
        for (_, loaded) in &self.engines {
            row.push(ratio(
                Some(loaded.bytes as f64 / loaded.rows.max(1) as f64),
                Some(own),
                "",
            ));
        }
        row
    }

    fn times(&self) -> Vec<Vec<String>> {
        let questions = [
            (NEEDLE, 50, None),
            (NEEDLE, 99, Some(NEEDLE_GOAL)),
            (TRAIL, 50, None),
            (TRAIL, 99, None),
            (DAY_STATUS, 50, None),
            (DAY_STATUS, 95, Some(DAY_GOAL)),
            (DAYS_STATUS, 50, None),
            (DAYS_STATUS, 95, Some(DAY_GOAL)),
            (FAILURES, 50, None),
            (FAILURES, 95, None),
        ];
        let time = |answers: &Answers, name: &str, percent| answers.get(name)?.percentile(percent);
        let mut rows = Vec::new();
        for (name, percent, goal) in questions {
            let Some(((_, own), others)) = self.answers.split_first() else {
                continue;
            };
            let took = time(own, name, percent);
            let goal = goal.map(|goal| {
                let at = if name == NEEDLE { " at 100M" } else { "" };
                verdict(
                    &format!("<= {goal:.0} ms{at}"),
                    took.is_some_and(|took| took <= goal),
                )
            });
            let shown = took.map_or_else(String::new, |took| format!("{took:.1} ms"));
            let mut row = line(&format!("{name}, p{percent}, warm"), shown, goal);
            for (_, answers) in others {
                row.push(ratio(time(answers, name, percent), took, " ms"));
            }
            rows.push(row);
        }
        rows
    }

    fn memory(&self) -> Vec<String> {
        let mebi = |bytes: u64| format!("{} MB", bytes / 1_048_576);
        let received = self.kept.as_ref().map(|(_, used)| used.peak_memory);
        let shown = match received {
            Some(received) => format!(
                "{} receiving, {} asked",
                mebi(received),
                mebi(self.question_memory)
            ),
            None => format!("{} asked", mebi(self.question_memory)),
        };
        let mut row = line("peak memory", shown, None);
        row.extend(
            self.engines
                .iter()
                .map(|(_, loaded)| mebi(loaded.peak_memory)),
        );
        row
    }

    pub fn json(&self) -> Value {
        let sent = |of: &Option<(Sent, Usage)>| {
            of.as_ref()
                .map(|(sent, used)| json!({ "sent": sent, "used": used }))
        };
        let answers = self.answers.iter().map(|(engine, answers)| {
            let times = answers.iter().map(|(name, asked)| {
                (
                    name.clone(),
                    json!({
                        "p50": asked.percentile(50), "p95": asked.percentile(95), "p99": asked.percentile(99),
                        "times": asked.milliseconds.len(),
                    }),
                )
            });
            (engine.clone(), Value::Object(times.collect()))
        });
        let engines = self
            .engines
            .iter()
            .map(|(name, loaded)| ((*name).to_owned(), json!(loaded)));
        json!({
            "events": self.events,
            "acknowledged": sent(&self.acknowledged),
            "kept": sent(&self.kept),
            "segments": self.filled.segments,
            "stored_events": self.filled.events,
            "stored_bytes": self.filled.bytes,
            "fill_seconds": self.filled.fill_seconds,
            "merge_seconds": self.filled.merge_seconds,
            "question_memory": self.question_memory,
            "questions": Value::Object(answers.collect()),
            "engines": Value::Object(engines.collect()),
            "differences": self.differences(),
        })
    }
}

fn header(engines: &[(&'static str, Loaded)]) -> Vec<String> {
    let mut header = line("", "measured".to_owned(), Some("goal".to_owned()));
    header.extend(
        engines
            .iter()
            .map(|(name, loaded)| format!("{name} {}", loaded.version)),
    );
    header
}

fn line(name: &str, measured: String, goal: Option<String>) -> Vec<String> {
    vec![name.to_owned(), measured, goal.unwrap_or_default()]
}

fn verdict(goal: &str, met: bool) -> String {
    if met {
        goal.to_owned()
    } else {
        format!("{goal}: missed")
    }
}

/// Another engine's number, and how often the collector's own fits into it.
fn ratio(other: Option<f64>, own: Option<f64>, unit: &str) -> String {
    match (other, own) {
        (Some(other), Some(own)) if own > 0.0 => format!("{other:.1}{unit} ({:.2})", other / own),
        _ => String::new(),
    }
}

fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As a table of Markdown.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for (at, row) in rows.iter().enumerate() {
        for column in 0..columns {
            let cell = row.get(column).map_or("", String::as_str);
            text += &format!("| {cell:<0$} ", width(column));
        }
        text += "|\n";
        if at == 0 {
            for column in 0..columns {
                text += &format!("|{}", "-".repeat(width(column) + 2));
            }
            text += "|\n";
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::questions::Asked;
    use super::*;

    fn asked(answer: Value) -> Answers {
        let asked = |answer: &Value| Asked {
            milliseconds: vec![10.0, 20.0],
            answer: answer.clone(),
        };
        COMPARED
            .iter()
            .map(|name| ((*name).to_owned(), asked(&answer)))
            .collect()
    }

    #[test]
    fn a_goal_that_is_missed_and_an_answer_that_differs_are_said() {
        let mut report = Report::new(1_000);
        let sent = Sent {
            events: 1_000,
            seconds: 0.01,
            ..Sent::default()
        };
        let used = Usage {
            cpu_seconds: 0.1,
            peak_memory: 0,
        };
        report.acknowledged = Some((sent, used));
        report.filled.bytes = 43_000;
        report.filled.events = 1_000;
        report.answers = vec![("tokentrail".to_owned(), asked(json!([1])))];
        let loaded = Loaded {
            version: "2".to_owned(),
            load_seconds: 1.0,
            rows: 1_000,
            bytes: 86_000,
            peak_memory: 0,
        };
        report.engines = vec![("DuckDB", loaded)];
        report
            .answers
            .push(("DuckDB".to_owned(), asked(json!([2]))));
        assert_eq!(report.differences().len(), COMPARED.len());
        let table = report.table();
        for said in [
            "100,000/s, 10,000/s per core",
            ">= 150,000/s: missed",
            "<= 20: missed",
            "86.0 (2.00)",
            "<= 50 ms at 100M ",
        ] {
            assert!(table.contains(said), "{said} in {table}");
        }
        report.answers[1].1 = asked(json!([1]));
        assert!(report.table().contains("are equal"));
    }

    #[test]
    fn numbers_are_parted_by_thousands() {
        let numbers = [1.0, 999.6, 1_234_567.0].map(count);
        assert_eq!(numbers, ["1", "1,000", "1,234,567"]);
    }
}
