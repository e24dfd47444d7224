//! Numbers to one table and to JSON, goals beside what was measured.

use super::delivery::{self, Delivered};
use super::idle::Memory;
use super::latency::{self, Latency};
use super::load::Traffic;
use super::variant::{Spent, Variant};
use super::{first, points};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One variant in one round.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub rates: Vec<(Traffic, f64)>,
    /// Bytes that the probes copied, per request.
    pub copied: Vec<(Traffic, f64)>,
    pub agent: Option<Spent>,
}

#[derive(Default)]
pub struct Report {
    rounds: BTreeMap<(u32, Variant), Measured>,
    /// By program: `hits` and `nanoseconds_per_hit`.
    pub run_times: Vec<(Variant, Traffic, Value)>,
    /// HTTPS, connections, memory.
    pub memory: Vec<(bool, u32, Memory)>,
    pub replay: Vec<Value>,
    pub delivered: Vec<Delivered>,
    /// See [`delivery::sync_time`].
    pub sync_milliseconds: f64,
    pub latency: Vec<Latency>,
    pub points: points::Report,
    pub first: first::Report,
}

const KEEP_ALIVE_GOAL: f64 = 0.85;
const NEW_GOAL: f64 = 0.80;
/// The agent's ratio may be this much below that of the empty probes.
const CLEARTEXT_GOAL: f64 = 0.05;
const MEMORY_GOAL: f64 = 40.0;
const REPLAY_GOAL: f64 = 300_000.0;

impl Report {
    pub fn add(&mut self, round: u32, variant: Variant, measured: Measured) {
        self.rounds.insert((round, variant), measured);
    }

    fn rates(&self, variant: Variant, traffic: Traffic) -> Vec<(u32, f64)> {
        let of_variant = self.rounds.iter().filter(|((_, of), _)| *of == variant);
        let rates = of_variant.filter_map(|((round, _), measured)| {
            let (_, rate) = measured.rates.iter().find(|(of, _)| *of == traffic)?;
            Some((*round, *rate))
        });
        rates.collect()
    }

    /// Median over the rounds of the ratio to nothing in the same round, with the least and the greatest.
    fn ratio(&self, variant: Variant, traffic: Traffic) -> Option<(f64, f64, f64)> {
        let nothing: BTreeMap<u32, f64> =
            self.rates(Variant::Nothing, traffic).into_iter().collect();
        let mut ratios: Vec<f64> = self
            .rates(variant, traffic)
            .into_iter()
            .filter_map(|(round, rate)| Some(rate / nothing.get(&round)?))
            .collect();
        let middle = median(&mut ratios)?;
        Some((middle, *ratios.first()?, *ratios.last()?))
    }

    fn rate(&self, variant: Variant, traffic: Traffic) -> Option<f64> {
        median(
            &mut self
                .rates(variant, traffic)
                .into_iter()
                .map(|(_, rate)| rate)
                .collect::<Vec<_>>(),
        )
    }

    /// Bytes per request, median over the rounds.
    fn copied(&self, traffic: Traffic) -> Option<f64> {
        let of_agent = self
            .rounds
            .iter()
            .filter(|((_, of), _)| *of == Variant::Agent);
        let mut copied: Vec<f64> = of_agent
            .flat_map(|(_, measured)| &measured.copied)
            .filter(|(of, _)| *of == traffic)
            .map(|(_, bytes)| *bytes)
            .collect();
        median(&mut copied)
    }

    fn spent(&self, variant: Variant) -> Vec<Spent> {
        let of_variant = self.rounds.iter().filter(|((_, of), _)| *of == variant);
        of_variant
            .filter_map(|(_, measured)| measured.agent)
            .collect()
    }

    /// Microseconds of the agent's CPU per usage event, median over the rounds.
    fn cpu_per_event(&self) -> Option<f64> {
        let spent = self.spent(Variant::Agent);
        let mut per_event: Vec<f64> = spent
            .iter()
            .filter(|spent| spent.events > 0)
            .map(|spent| spent.cpu / spent.events as f64)
            .collect();
        median(&mut per_event)
    }

    fn goal(&self, traffic: Traffic) -> String {
        match traffic {
            Traffic::HttpsKeepAlive
            | Traffic::Http2
            | Traffic::Go
            | Traffic::Node
            | Traffic::Grpc => format!(">= {KEEP_ALIVE_GOAL:.2}"),
            Traffic::HttpsNew => format!(">= {NEW_GOAL:.2}"),
            Traffic::HttpKeepAlive => match self.ratio(Variant::Empty, traffic) {
                Some((empty, _, _)) => format!(">= {:.2}", empty - CLEARTEXT_GOAL),
                None => format!("empty - {CLEARTEXT_GOAL}"),
            },
        }
    }

    /// Only what was measured.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let _ = writeln!(out, "Linux {kernel}");
        if !self.rounds.is_empty() {
            self.traffic_table(&mut out);
        }
        if !self.run_times.is_empty() {
            self.run_time_table(&mut out);
        }
        self.costs(&mut out);
        if !self.delivered.is_empty() {
            delivery::table(&mut out, &self.delivered, self.sync_milliseconds);
        }
        if !self.latency.is_empty() {
            latency::table(&mut out, &self.latency);
        }
        if !self.points.is_empty() {
            out.push_str(&self.points.table());
        }
        if !self.first.is_empty() {
            out.push_str(&self.first.table());
        }
        out
    }

    fn traffic_table(&self, out: &mut String) {
        let fentry = self
            .spent(Variant::Agent)
            .iter()
            .any(|spent| spent.rung_is_fentry);
        let rung = if fentry { "fentry" } else { "raw tracepoints" };
        let rounds = self.rounds.keys().map(|(round, _)| round + 1).max();
        let _ = writeln!(out, "sockets by {rung}, {} rounds", rounds.unwrap_or(0));
        let _ = writeln!(
            out,
            "requests per second; then ratios to nothing: median (least to greatest of the rounds); what the agent's \
             probes copied of a request and its answer\n"
        );
        let mut line = |first: &str, rest: &[String]| {
            let mut text = format!("{first:<23}");
            for word in rest {
                let _ = write!(text, " {word:>17}");
            }
            let _ = writeln!(out, "{}", text.trim_end());
        };
        let names = [
            "nothing",
            "empty probes",
            "agent",
            "bystander",
            "classic, empty",
        ];
        let more = ["goal for agent", "copied"];
        let header: Vec<_> = names
            .iter()
            .chain(&more)
            .map(|name| (*name).to_owned())
            .collect();
        line("", &header);
        for traffic in Traffic::ALL {
            let Some(rate) = self.rate(Variant::Nothing, traffic) else {
                continue;
            };
            let mut cells = vec![format!("{rate:.0}/s")];
            for variant in &Variant::ALL[1..] {
                let ratio = self.ratio(*variant, traffic);
                cells.push(ratio.map_or("-".to_owned(), |(middle, least, most)| {
                    format!("{middle:.2} ({least:.2}-{most:.2})")
                }));
            }
            cells.push(self.goal(traffic));
            let copied = self.copied(traffic);
            cells.push(copied.map_or("-".to_owned(), |bytes| format!("{bytes:.0} B")));
            line(traffic.name(), &cells);
        }
    }

    fn run_time_table(&self, out: &mut String) {
        let _ = writeln!(out, "\nthe kernel's run time per hit, nanoseconds (hits)");
        for (variant, traffic, programs) in &self.run_times {
            let mut told: Vec<String> = Vec::new();
            for (name, program) in programs.as_object().into_iter().flatten() {
                let per_hit = program["nanoseconds_per_hit"].as_f64().unwrap_or(0.0);
                told.push(format!("{name} {per_hit:.0} ({})", program["hits"]));
            }
            let _ = writeln!(
                out,
                "{:<12} {:<24} {}",
                variant.name(),
                traffic.name(),
                told.join(", ")
            );
        }
    }

    fn costs(&self, out: &mut String) {
        let _ = writeln!(out);
        if let Some(cpu) = self.cpu_per_event() {
            let spent = self.spent(Variant::Agent);
            let events: u64 = spent.iter().map(|spent| spent.events).sum();
            let lost: u64 = spent.iter().map(|spent| spent.lost).sum();
            let _ = writeln!(
                out,
                "agent CPU per usage event     {cpu:.1} us ({events} events, {lost} calls lost)"
            );
        }
        for (https, count, memory) in &self.memory {
            let kind = if *https { "HTTPS" } else { "HTTP" };
            let goal = match count {
                10_000 => format!("  goal <= {MEMORY_GOAL} MB"),
                _ => String::new(),
            };
            let _ = writeln!(
                out,
                "memory at {count:>6} {kind:<5}         {:.1} MB (private {:.1}, files {:.1}, shared {:.1}){goal}",
                memory.total as f64 / 1000.0 * 1.024,
                memory.anonymous as f64 / 1000.0 * 1.024,
                memory.file as f64 / 1000.0 * 1.024,
                memory.shared as f64 / 1000.0 * 1.024,
            );
        }
        for replay in &self.replay {
            let from = replay["from"].as_str().unwrap_or("?");
            let rate = replay["requests_per_second"].as_f64().unwrap_or(0.0);
            let goal = if from == "chunk" {
                format!("  goal >= {REPLAY_GOAL:.0}/s")
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                "replay from {from:<12}      {rate:.0} requests/s on one core{goal}"
            );
        }
    }

    pub fn json(&self) -> Value {
        let uname = rustix::system::uname();
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|((round, variant), measured)| {
                let rates: BTreeMap<&str, f64> = measured
                    .rates
                    .iter()
                    .map(|(traffic, rate)| (traffic.name(), *rate))
                    .collect();
                let agent = measured.agent.map(|spent| {
                    json!({"cpu_microseconds": spent.cpu, "usage_events": spent.events, "calls_lost": spent.lost})
                });
                let copied: BTreeMap<&str, f64> = measured
                    .copied
                    .iter()
                    .map(|(traffic, bytes)| (traffic.name(), *bytes))
                    .collect();
                json!({
                    "round": round, "variant": variant.name(), "requests_per_second": rates,
                    "bytes_copied_per_request": copied, "agent": agent,
                })
            })
            .collect();
        let mut ratios = Vec::new();
        for variant in Variant::ALL {
            for traffic in Traffic::ALL {
                if let Some((median, least, greatest)) = self.ratio(variant, traffic) {
                    ratios.push(json!({
                        "variant": variant.name(), "traffic": traffic.name(),
                        "median": median, "least": least, "greatest": greatest,
                    }));
                }
            }
        }
        let run_times: Vec<Value> = self
            .run_times
            .iter()
            .map(|(variant, traffic, programs)| {
                json!({"variant": variant.name(), "traffic": traffic.name(), "programs": programs})
            })
            .collect();
        let memory: Vec<Value> = self
            .memory
            .iter()
            .map(|(https, connections, memory)| {
                json!({"https": https, "connections": connections, "kib": memory})
            })
            .collect();
        json!({
            "kernel": uname.release().to_string_lossy(),
            "ratios": ratios,
            "rounds": rounds,
            "run_times": run_times,
            "agent_cpu_microseconds_per_usage_event": self.cpu_per_event(),
            "memory": memory,
            "replay": self.replay,
            "delivery": self.delivered,
            "sync_milliseconds": self.sync_milliseconds,
            "latency_milliseconds": self.latency,
            "points": self.points.json(),
            "first_handshake": self.first.json(),
            "goals": {
                "https_keep_alive": KEEP_ALIVE_GOAL, "https_new": NEW_GOAL,
                "cleartext_below_empty": CLEARTEXT_GOAL, "megabytes_at_10000": MEMORY_GOAL,
                "replay_requests_per_second": REPLAY_GOAL,
            },
        })
    }
}

/// Sorts; the lower middle of an even number.
pub fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut report = Report::default();
        // The machine is three times slower in the second round, for both alike.
        for (round, nothing, agent) in [(0, 300.0, 270.0), (1, 100.0, 90.0), (2, 300.0, 150.0)] {
            for (variant, rate) in [(Variant::Nothing, nothing), (Variant::Agent, agent)] {
                let rates = vec![(Traffic::HttpsNew, rate)];
                let copied = vec![(Traffic::HttpsNew, 500.0)];
                let measured = Measured {
                    rates,
                    copied,
                    agent: None,
                };
                report.add(round, variant, measured);
            }
        }
        let (middle, least, most) = report.ratio(Variant::Agent, Traffic::HttpsNew).unwrap();
        assert_eq!((middle, least, most), (0.9, 0.5, 0.9));
        assert!(
            report
                .ratio(Variant::Agent, Traffic::HttpKeepAlive)
                .is_none()
        );
        let table = report.table();
        assert!(table.contains("0.90 (0.50-0.90)"), "{table}");
        assert!(table.contains("500 B"), "{table}");
        assert!(!table.contains("cleartext keep-alive"), "{table}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut []), None);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), Some(2.0));
    }
}
