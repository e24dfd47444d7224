//! Numbers to a table and to JSON, goals beside what was measured, and a mark where one is missed.

use super::File;
use super::flood::Flood;
use super::programs::Name;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// One case of one program.
pub struct Cell {
    pub program: Name,
    pub bytes: u64,
    pub file: File,
    /// Every core had something else to do.
    pub busy: bool,
    /// The server was a round trip of 20 ms away.
    pub far: bool,
    pub figures: Figures,
}

#[derive(Default, Serialize)]
pub struct Figures {
    pub runs: u32,
    /// Requests that the server saw.
    pub asked: u32,
    /// Of these, those with an event.
    pub read: u32,
    /// Milliseconds from exec to the first byte at the server.
    pub hello: Vec<f64>,
    /// Milliseconds from exec to the first attached point, of the runs in which one was attached.
    pub attached: Vec<f64>,
    /// What one of the programs said whose request the server did not see.
    pub failure: Option<String>,
}

impl Figures {
    pub fn sort(&mut self) {
        self.hello.sort_by(f64::total_cmp);
        self.attached.sort_by(f64::total_cmp);
    }

    fn share(&self) -> Option<f64> {
        (self.asked > 0).then(|| f64::from(self.read) / f64::from(self.asked))
    }
}

#[derive(Default)]
pub struct Report {
    cells: Vec<Cell>,
    skipped: Vec<(Name, String)>,
    pub flood: Option<Flood>,
}

/// Least share of first handshakes that are read: with a round trip of 20 ms; over loopback.
const FAR: f64 = 0.99;
const NEAR: f64 = 0.95;
/// Of programs that were just written, with a round trip of 20 ms.
const WRITTEN: f64 = 0.90;
/// Most milliseconds from exec to the attached point, 99th percentile, on a machine with nothing else to do.
const ATTACHED_KNOWN: f64 = 2.0;
/// The same of a Go program that nobody has met.
const ATTACHED_GO: f64 = 5.0;

fn share_goal(file: File, far: bool) -> Option<f64> {
    match (file, far) {
        (File::WrittenCopy | File::WrittenNew, true) => Some(WRITTEN),
        (File::WrittenCopy | File::WrittenNew, false) => None,
        (_, true) => Some(FAR),
        (_, false) => Some(NEAR),
    }
}

fn attached_goal(program: Name, file: File) -> Option<f64> {
    match file {
        File::Known => Some(ATTACHED_KNOWN),
        _ if program.is_go() => Some(ATTACHED_GO),
        _ => None,
    }
}

/// The nearest rank of what is in order.
fn rank(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

const MISSED: &str = " !";

impl Report {
    pub fn add(&mut self, cell: Cell) {
        self.cells.push(cell);
    }

    pub fn skip(&mut self, program: Name, reason: String) {
        crate::say::line(&format!(" - no {}: {reason}", program.text()));
        self.skipped.push((program, reason));
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.skipped.is_empty() && self.flood.is_none()
    }

    fn figures(&self, program: Name, file: File, busy: bool, far: bool) -> Option<&Figures> {
        let wanted = (program, file, busy, far);
        let found = |cell: &&Cell| (cell.program, cell.file, cell.busy, cell.far) == wanted;
        self.cells.iter().find(found).map(|cell| &cell.figures)
    }

    /// Of near and far server together: the server has no part in these times.
    fn times(&self, of: (Name, File, bool), which: impl Fn(&Figures) -> &Vec<f64>) -> Vec<f64> {
        let (program, file, busy) = of;
        let both = [false, true].map(|far| self.figures(program, file, busy, far));
        let mut times: Vec<f64> = both
            .into_iter()
            .flatten()
            .flat_map(which)
            .copied()
            .collect();
        times.sort_by(f64::total_cmp);
        times
    }

    pub fn table(&self) -> String {
        let mut out = String::from(
            "\nfirst handshakes: milliseconds from exec to the first byte at the server (p50) and to the attached point \
             (p50 / p99; with `!` above\nits goal), and the share that was read, over loopback and with a round trip of \
             20 ms (`!`: below its goal)\n\n",
        );
        let mut line = |first: &str, second: &str, rest: &[String]| {
            let mut text = format!("{first:<13} {second:<21}");
            for word in rest {
                let _ = write!(text, " {word:>15}");
            }
            let _ = writeln!(out, "{}", text.trim_end());
        };
        let header = [
            "hello, idle",
            "attached, idle",
            "hello, busy",
            "attached, busy",
            "idle, loopback",
            "idle, 20 ms",
            "busy, loopback",
            "busy, 20 ms",
        ];
        line("", "file", &header.map(str::to_owned));
        for program in Name::ALL {
            for file in File::ALL {
                let of_row = |cell: &&Cell| (cell.program, cell.file) == (program, file);
                if self.cells.iter().any(|cell| of_row(&cell)) {
                    line(program.text(), file.text(), &self.row(program, file));
                }
            }
        }
        let _ = writeln!(
            out,
            "\ngoals: read >= {:.0} % with 20 ms and >= {:.0} % over loopback of what has been on the disk for a second, \
             >= {:.0} % with 20 ms\nof what was just written; attached p99, idle, <= {ATTACHED_KNOWN} ms where it is \
             known, <= {ATTACHED_GO} ms of Go otherwise",
            FAR * 100.0,
            NEAR * 100.0,
            WRITTEN * 100.0,
        );
        for (program, reason) in &self.skipped {
            let _ = writeln!(out, "not measured: {}: {reason}", program.text());
        }
        for cell in &self.cells {
            if let Some(failure) = &cell.figures.failure {
                let figures = &cell.figures;
                let _ = writeln!(
                    out,
                    "{} of {} runs of {} ({}) made no request: {}",
                    figures.runs - figures.asked,
                    figures.runs,
                    cell.program.text(),
                    cell.file.text(),
                    failure
                );
            }
        }
        if let Some(flood) = &self.flood {
            told(&mut out, flood);
        }
        out
    }

    fn row(&self, program: Name, file: File) -> Vec<String> {
        let mut words = Vec::new();
        for busy in [false, true] {
            let of = (program, file, busy);
            let hello = rank(&self.times(of, |figures| &figures.hello), 0.5);
            words.push(hello.map_or("-".to_owned(), |time| format!("{time:.1}")));
            let attached = self.times(of, |figures| &figures.attached);
            let (middle, most) = (rank(&attached, 0.5), rank(&attached, 0.99));
            let missed = attached_goal(program, file)
                .zip(most)
                .is_some_and(|(goal, most)| !busy && most > goal);
            words.push(middle.zip(most).map_or("-".to_owned(), |(middle, most)| {
                format!("{middle:.1} / {most:.1}{}", mark(missed))
            }));
        }
        for busy in [false, true] {
            for far in [false, true] {
                let figures = self.figures(program, file, busy, far);
                let share = figures.and_then(|figures| Some((figures.share()?, figures.asked)));
                words.push(share.map_or("-".to_owned(), |(share, asked)| {
                    let missed = share_goal(file, far).is_some_and(|goal| share < goal);
                    format!("{:.0} % of {asked}{}", share * 100.0, mark(missed))
                }));
            }
        }
        words
    }

    pub fn json(&self) -> Value {
        let cells: Vec<Value> = self
            .cells
            .iter()
            .map(|cell| {
                let times = |times: &[f64]| {
                    json!({
                        "count": times.len(), "least": times.first(), "p50": rank(times, 0.5),
                        "p99": rank(times, 0.99), "most": times.last(),
                    })
                };
                let Figures { runs, asked, read, hello, attached, failure } = &cell.figures;
                let share = cell.figures.share();
                let goal = share_goal(cell.file, cell.far);
                let attached_goal = attached_goal(cell.program, cell.file).filter(|_| !cell.busy);
                json!({
                    "program": cell.program.text(), "bytes": cell.bytes, "file": cell.file, "busy": cell.busy,
                    "round_trip_milliseconds": if cell.far { super::ROUND_TRIP.as_millis() } else { 0 },
                    "runs": runs, "asked": asked, "read": read, "share": share, "share_goal": goal,
                    "share_missed": goal.zip(share).is_some_and(|(goal, share)| share < goal),
                    "exec_to_hello_milliseconds": times(hello),
                    "exec_to_attached_milliseconds": times(attached),
                    "attached_p99_goal": attached_goal,
                    "attached_missed": attached_goal.zip(rank(attached, 0.99)).is_some_and(|(goal, most)| most > goal),
                    "failure": failure,
                })
            })
            .collect();
        let skipped: Vec<Value> = self
            .skipped
            .iter()
            .map(|(program, reason)| json!({"program": program.text(), "reason": reason}))
            .collect();
        json!({"cells": cells, "not_measured": skipped, "flood": self.flood})
    }
}

fn mark(missed: bool) -> &'static str {
    if missed { MISSED } else { "" }
}

fn told(out: &mut String, flood: &Flood) {
    let share = f64::from(flood.read) / f64::from(flood.asked.max(1));
    let _ = writeln!(
        out,
        "\n{} execs of curl, {:.0} a second (of {} wanted): {:.1} % of {} read; at the end {} events were behind, the last by \
         {:.0} ms;\nthe agent used {:.1} s of CPU in {:.1} s",
        flood.execs,
        flood.per_second,
        flood.wanted_per_second,
        share * 100.0,
        flood.asked,
        flood.behind,
        flood.behind_milliseconds,
        flood.agent_cpu_seconds,
        flood.seconds
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(file: File, far: bool, read: u32, attached: &[f64]) -> Cell {
        Cell {
            program: Name::Go,
            bytes: 8,
            file,
            busy: false,
            far,
            figures: Figures {
                runs: 101,
                asked: 100,
                read,
                hello: vec![5.0],
                attached: attached.to_vec(),
                failure: None,
            },
        }
    }

    fn row(cells: Vec<Cell>) -> String {
        let mut report = Report::default();
        let file = cells[0].file;
        cells.into_iter().for_each(|cell| report.add(cell));
        report.row(Name::Go, file).join(" | ")
    }

    #[test]
    fn a_missed_goal_is_marked() {
        let near = row(vec![cell(File::SettledNew, false, 94, &[1.0, 6.0])]);
        assert_eq!(
            near,
            "5.0 | 1.0 / 6.0 ! | - | - | 94 % of 100 ! | - | - | -"
        );
        let far = row(vec![cell(File::SettledNew, true, 99, &[1.0, 5.0])]);
        assert_eq!(far, "5.0 | 1.0 / 5.0 | - | - | - | 99 % of 100 | - | -");
        // Both servers' runs together.
        let known = row(vec![
            cell(File::Known, false, 95, &[1.0]),
            cell(File::Known, true, 98, &[2.5]),
        ]);
        let expected = "5.0 | 1.0 / 2.5 ! | - | - | 95 % of 100 | 98 % of 100 ! | - | -";
        assert_eq!(known, expected);
    }

    #[test]
    fn what_has_just_been_written_has_a_goal_only_far_away() {
        let written = row(vec![
            cell(File::WrittenNew, false, 3, &[]),
            cell(File::WrittenNew, true, 89, &[]),
        ]);
        assert_eq!(
            written,
            "5.0 | - | - | - | 3 % of 100 | 89 % of 100 ! | - | -"
        );
    }

    #[test]
    fn ranks() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(rank(&hundred, 0.99), Some(99.0));
        assert_eq!(rank(&hundred, 0.5), Some(50.0));
        assert_eq!(rank(&[], 0.5), None);
    }
}
