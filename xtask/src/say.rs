//! What a person reads while they wait: one line for each step, with its time.
//!
//! Everything here goes to standard error; standard output is kept for results.
//!
//! Invariant: a line is written whole, and a live line is cleared before another one follows it.

use rustix::termios::{isatty, tcgetwinsize};
use std::io::{Write, stderr};
use std::time::{Duration, Instant};

/// A heading between the parts of a run.
pub fn heading(text: &str) {
    line(&format!("\n{}", bold(&format!("== {text}"))));
}

/// One line.
pub fn line(text: &str) {
    let mut err = stderr().lock();
    // Nobody is left to read it when standard error is gone.
    let _ = writeln!(err, "{text}");
    let _ = err.flush();
}

fn bold(text: &str) -> String {
    if live() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Someone looks at a terminal.
pub fn live() -> bool {
    isatty(stderr())
}

/// `0.4 s`, `37 s`, `4 min 05 s`.
pub fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// A step that may take long: a live line in a terminal, else a line now and then.
pub struct Step {
    title: String,
    start: Instant,
    last_note: Instant,
}

/// How often a log that nobody watches live hears that a step still runs.
const NOTE_EVERY: Duration = Duration::from_secs(20);

impl Step {
    pub fn start(title: impl Into<String>) -> Self {
        let now = Instant::now();
        let step = Self {
            title: title.into(),
            start: now,
            last_note: now,
        };
        if !live() {
            line(&format!("   {} ...", step.title));
        }
        step
    }

    /// Shows that it goes on; `detail` is the last thing that the step said.
    pub fn tick(&mut self, detail: &str) {
        if live() {
            let width = tcgetwinsize(stderr()).map_or(80, |size| usize::from(size.ws_col));
            let text = format!(
                "   {} ({}) {}",
                self.title,
                elapsed(self.start.elapsed()),
                printable(detail)
            );
            let text: String = text.chars().take(width.saturating_sub(1)).collect();
            let mut err = stderr().lock();
            let _ = write!(err, "\r\x1b[K{text}");
            let _ = err.flush();
        } else if self.last_note.elapsed() >= NOTE_EVERY {
            self.last_note = Instant::now();
            line(&format!(
                "   {} ... {}",
                self.title,
                elapsed(self.start.elapsed())
            ));
        }
    }

    /// A line that stays, while the step goes on.
    pub fn note(&self, text: &str) {
        if live() {
            let mut err = stderr().lock();
            let _ = write!(err, "\r\x1b[K");
        }
        line(&format!("     {text}"));
    }

    pub fn done(self, mark: Mark) {
        if live() {
            let mut err = stderr().lock();
            let _ = write!(err, "\r\x1b[K");
        }
        line(&format!(
            " {} {} ({})",
            mark.text(),
            self.title,
            elapsed(self.start.elapsed())
        ));
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Done,
    Failed,
}

impl Mark {
    fn text(self) -> &'static str {
        match self {
            Self::Done => "+",
            Self::Failed => "!",
        }
    }
}

/// Without control characters, which a program's own progress bar is full of.
fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        for (millis, text) in [
            (0, "0.0 s"),
            (440, "0.4 s"),
            (37_900, "37 s"),
            (60_000, "1 min 00 s"),
            (245_000, "4 min 05 s"),
        ] {
            assert_eq!(elapsed(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn control_characters_are_dropped() {
        assert_eq!(printable("\x1b[1mBuilding\r\n"), "[1mBuilding");
    }
}
