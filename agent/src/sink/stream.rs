//! A stream as target: standard output.

use super::outbox::Target;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

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

impl Stream<File> {
    /// Standard output, without the standard library's buffer.
    ///
    /// # Errors
    /// If the descriptor cannot be duplicated: it is closed, or there are too many.
    pub fn stdout() -> std::io::Result<Self> {
        let fd = std::io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self::new("stdout", File::from(fd)))
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
