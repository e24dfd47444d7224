//! A stream as target: standard output.

use super::outbox::Target;
use std::io::Write;

/// Bytes one after the other.
pub struct Stream<W> {
    name: String,
    writer: W,
}

impl<W: Write + Send> Stream<W> {
    /// Over any writer, which should not buffer.
    pub fn new(name: &str, writer: W) -> Self {
        Self {
            name: name.to_owned(),
            writer,
        }
    }
}

impl Stream<Stdout> {
    /// Standard output, without the standard library's buffer.
    #[must_use]
    pub fn stdout() -> Self {
        Self::new("stdout", Stdout)
    }
}

/// The descriptor 1.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::io::write(std::io::stdout(), bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Send> Target for Stream<W> {
    fn name(&self) -> &str {
        &self.name
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.writer.write(bytes)
    }

    fn sync(&mut self) -> std::io::Result<()> {
        self.writer.flush()
    }
}
