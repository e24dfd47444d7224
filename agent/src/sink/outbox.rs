//! Encoded events between an encoder and a target that may fail.
//!
//! Invariant: lines leave in the order in which they came, each once, none in parts unless the process ends.

use super::{Error, Losses};
use agent_common::event::Time;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// Written together.
const BATCH: usize = 64 * 1024;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Takes bytes, perhaps fewer than offered.
pub trait Target: Send {
    /// For messages.
    fn name(&self) -> &str;

    /// As [`std::io::Write::write`], unbuffered.
    ///
    /// # Errors
    /// Those of the output.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize>;

    /// Bytes that still fit before [`turn`](Self::turn) is due.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Nothing has been written since the last turn: turning again would change nothing.
    fn is_fresh(&self) -> bool {
        true
    }

    /// Starts a new file. Called between lines only.
    ///
    /// # Errors
    /// Those of the output; the old file goes on then.
    fn turn(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Called between lines, often: what is to be done from time to time.
    ///
    /// # Errors
    /// Those of the output.
    fn tend(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Those of the output.
    fn sync(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bounded memory in front of a target.
pub struct Outbox<T> {
    pub(super) target: T,
    /// Whole lines, but for the first one if `mid_line`; the first `written` bytes have left.
    buffer: Vec<u8>,
    written: usize,
    /// The target has the begin of a line and not its end.
    mid_line: bool,
    /// Bytes that had left when `buffer` began.
    base: u64,
    /// Of each kept event: the place of its end, counted as `base` is, and its time.
    events: VecDeque<(u64, Time)>,
    limit: usize,
    failing: Option<Failing>,
    lost: Option<Losses>,
    pub(super) first_pause: Duration,
}

struct Failing {
    again: Instant,
    pause: Duration,
}

impl<T: Target> Outbox<T> {
    /// Keeps up to `limit` bytes, or one batch of 64 KiB if that is more, while the target fails.
    pub fn new(target: T, limit: usize) -> Self {
        Self {
            target,
            buffer: Vec::new(),
            written: 0,
            mid_line: false,
            base: 0,
            events: VecDeque::new(),
            limit,
            failing: None,
            lost: None,
            first_pause: FIRST_PAUSE,
        }
    }

    /// Takes in what `encode` appends, which ends with a newline, of an event of time `time`.
    pub fn push(
        &mut self,
        time: Time,
        encode: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let before = self.buffer.len();
        if let Err(error) = encode(&mut self.buffer) {
            self.buffer.truncate(before);
            tracing::warn!(sink = self.target.name(), %error, "an event could not be encoded");
            self.lose(1, time, time);
            return Ok(());
        }
        if self.kept() >= BATCH {
            let line = self.buffer.split_off(before);
            self.drain(false)?;
            if self.failing.is_some() && self.kept() + line.len() > self.limit {
                self.lose(1, time, time);
                return Ok(());
            }
            self.buffer.extend_from_slice(&line);
        }
        self.events.push_back((self.end(), time));
        Ok(())
    }

    /// Takes in lines that are no event (a header): when there is no room for them, they are left out.
    pub fn push_extra(&mut self, lines: &[u8]) {
        if self.failing.is_none() {
            self.buffer.extend_from_slice(lines);
        }
    }

    /// One attempt to write all that is kept, for those who have their own patience. What is left goes on where it
    /// was cut with the next one.
    ///
    /// # Errors
    /// Those of the target.
    pub fn attempt(&mut self) -> std::io::Result<()> {
        if !self.mid_line
            && let Err(error) = self.target.tend()
        {
            tracing::warn!(sink = self.target.name(), %error, "the output needs attention");
        }
        self.write_all()
    }

    /// Makes what has left durable.
    ///
    /// # Errors
    /// Those of the target.
    pub fn sync(&mut self) -> std::io::Result<()> {
        self.target.sync()
    }

    /// Writes what is kept, unless the target failed just now.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.drain(false)?;
        if !self.mid_line
            && let Err(error) = self.target.tend()
        {
            tracing::warn!(sink = self.target.name(), %error, "the output needs attention");
        }
        Ok(())
    }

    /// The last attempt.
    pub fn close(&mut self) -> Result<Option<Losses>, Error> {
        self.drain(true)?;
        while let Some((_, time)) = self.events.pop_front() {
            self.lose(1, time, time);
        }
        self.base = self.end();
        self.buffer.clear();
        if let Err(error) = self.target.sync() {
            tracing::warn!(sink = self.target.name(), %error, "the last events may not be on the disk");
        }
        Ok(self.lost.take())
    }

    /// What was lost, once writing works again.
    pub fn losses(&mut self) -> Option<Losses> {
        if self.failing.is_some() {
            None
        } else {
            self.lost.take()
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.buffer.len() - self.written
    }

    fn end(&self) -> u64 {
        self.base + self.buffer.len() as u64
    }

    fn lose(&mut self, count: u64, from: Time, to: Time) {
        let lost = self.lost.get_or_insert(Losses { count: 0, from, to });
        lost.count += count;
        lost.to = to;
    }

    fn drain(&mut self, at_once: bool) -> Result<(), Error> {
        if let Some(failing) = &self.failing
            && !at_once
            && Instant::now() < failing.again
        {
            return Ok(());
        }
        match self.write_all() {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!(sink = self.target.name(), "events are written again");
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Error::Closed {
                name: self.target.name().to_owned(),
            }),
            Err(error) => {
                let pause = match &self.failing {
                    Some(failing) => (failing.pause * 2).min(LONGEST_PAUSE),
                    None => {
                        tracing::warn!(
                            sink = self.target.name(), %error, kept_bytes = self.limit,
                            "events cannot be written; they are kept and tried again"
                        );
                        self.first_pause
                    }
                };
                self.failing = Some(Failing {
                    again: Instant::now() + pause,
                    pause,
                });
                Ok(())
            }
        }
    }

    fn write_all(&mut self) -> std::io::Result<()> {
        let result = self.write_lines();
        // What has left makes room; all of it, usually.
        self.buffer.drain(..self.written);
        self.base += self.written as u64;
        self.written = 0;
        while self
            .events
            .front()
            .is_some_and(|(end, _)| *end <= self.base)
        {
            self.events.pop_front();
        }
        result
    }

    fn write_lines(&mut self) -> std::io::Result<()> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            let room = self.target.room();
            let end = if rest.len() <= room {
                rest.len()
            } else if let Some(newline) = rest[..room].iter().rposition(|byte| *byte == b'\n') {
                newline + 1
            } else if !self.mid_line && !self.target.is_fresh() {
                self.target.turn()?;
                continue;
            } else {
                // One line that is larger than a file may be, or the rest of one.
                rest.iter()
                    .position(|byte| *byte == b'\n')
                    .map_or(rest.len(), |newline| newline + 1)
            };
            match self.target.write(&rest[..end]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    let count = count.min(end);
                    self.mid_line = rest[count - 1] != b'\n';
                    self.written += count;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
