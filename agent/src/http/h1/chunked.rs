//! The chunked transfer coding (RFC 9112 section 7.1), byte by byte where it must, run by run where it can.
//!
//! Extensions and trailers are passed over. A gap within one chunk's data is survived: its length is known.

use super::body::Progress;

/// Longest line of a chunk's size with its extensions: servers allow some kilobytes. Nothing of it is kept.
const LONGEST_LINE: u32 = 16 * 1024;

/// Longest trailer section.
const LONGEST_TRAILER: u32 = 64 * 1024;

#[derive(Clone, Copy, Default)]
pub(super) struct Chunked {
    state: State,
    /// Of the present chunk: its size while it is read, then what is left of it.
    left: u64,
    /// Bytes of the present line, or of the trailer section.
    line: u32,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd)]
enum State {
    /// Before the first digit.
    #[default]
    Begin,
    Size,
    /// After the digits, up to the line's end.
    Extension,
    Data,
    /// After the data: CR LF.
    DataEnd,
    /// At the beginning of a trailer line, or of the last blank one.
    Trailer,
    /// After a CR there.
    TrailerCr,
    TrailerLine,
}

impl Chunked {
    pub fn data(&mut self, bytes: &[u8], mut keep: impl FnMut(&[u8])) -> (usize, Progress) {
        let mut at = 0;
        while at < bytes.len() {
            if self.state == State::Data {
                let run = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len() - at);
                keep(&bytes[at..at + run]);
                at += run;
                self.left -= run as u64;
                if self.left == 0 {
                    self.state = State::DataEnd;
                }
                continue;
            }
            let progress = self.control(bytes[at]);
            at += 1;
            if progress != Progress::Going {
                return (at, progress);
            }
        }
        (at, Progress::Going)
    }

    /// `len` unknown bytes: survived if they lie within the data of one chunk.
    pub fn gap(&mut self, len: u64) -> Progress {
        if self.state != State::Data || len > self.left {
            return Progress::Lost;
        }
        self.left -= len;
        if self.left == 0 {
            self.state = State::DataEnd;
        }
        Progress::Going
    }

    fn control(&mut self, byte: u8) -> Progress {
        self.line += 1;
        let longest = if self.state >= State::Trailer {
            LONGEST_TRAILER
        } else {
            LONGEST_LINE
        };
        if self.line > longest {
            return Progress::Lost;
        }
        match (self.state, byte) {
            (State::Begin | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                // 60 bits: more than any body, and no overflow.
                if self.left >> 56 != 0 {
                    return Progress::Lost;
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                self.state = State::Size;
            }
            (State::Begin, b' ' | b'\t') => {}
            (State::Begin, _) => return Progress::Lost,
            (State::Size | State::Extension, b'\n') => self.size_line_ended(),
            // Blanks before an extension are tolerated, as is CR before LF.
            (State::Size, b';' | b' ' | b'\t' | b'\r') => self.state = State::Extension,
            (State::Size, _) => return Progress::Lost,
            (State::Extension, _) => {}
            (State::DataEnd, b'\r') => {}
            (State::DataEnd, b'\n') => (self.state, self.line) = (State::Begin, 0),
            (State::DataEnd | State::Data, _) => return Progress::Lost,
            (State::Trailer | State::TrailerCr, b'\n') => return Progress::Ended,
            (State::Trailer, b'\r') => self.state = State::TrailerCr,
            (State::TrailerLine, b'\n') => self.state = State::Trailer,
            (State::Trailer | State::TrailerCr | State::TrailerLine, _) => {
                self.state = State::TrailerLine
            }
        }
        Progress::Going
    }

    fn size_line_ended(&mut self) {
        self.state = if self.left == 0 {
            State::Trailer
        } else {
            State::Data
        };
        self.line = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes at every split point and byte by byte: what was kept, how much was used, how it ended.
    #[track_caller]
    fn check(input: &[u8], body: &[u8], used: usize, progress: Progress) {
        let run = |cuts: &[usize]| {
            let (mut chunked, mut kept, mut total) = (Chunked::default(), Vec::new(), 0);
            for pair in cuts.windows(2) {
                let (used, progress) = chunked.data(&input[pair[0]..pair[1]], |part| {
                    kept.extend_from_slice(part)
                });
                total += used;
                if progress != Progress::Going {
                    return (kept, total, progress);
                }
            }
            (kept, total, Progress::Going)
        };
        for cut in 0..=input.len() {
            assert_eq!(
                run(&[0, cut, input.len()]),
                (body.to_vec(), used, progress),
                "cut at {cut}"
            );
        }
        let bytewise: Vec<usize> = (0..=input.len()).collect();
        assert_eq!(
            run(&bytewise),
            (body.to_vec(), used, progress),
            "byte by byte"
        );
    }

    #[test]
    fn well_formed() {
        check(b"5\r\nhello\r\n0\r\n\r\n", b"hello", 15, Progress::Ended);
        check(
            b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET /",
            b"hello!",
            21,
            Progress::Ended,
        );
        check(
            b"5;a=b;c=\"d\"\r\nhello\r\n0;x\r\nTrailer: 1\r\nOther: 2\r\n\r\n",
            b"hello",
            49,
            Progress::Ended,
        );
        check(b"0\r\n\r\n", b"", 5, Progress::Ended);
        check(
            b"00A \r\n0123456789\r\n0\r\n",
            b"0123456789",
            21,
            Progress::Going,
        );
        check(b"2\nab\n0\n\n", b"ab", 8, Progress::Ended);
    }

    #[test]
    fn malformed() {
        check(b"x\r\n", b"", 1, Progress::Lost);
        check(b"5x\r\n", b"", 2, Progress::Lost);
        check(b"1\r\nab", b"a", 5, Progress::Lost);
        check(b"ffffffffffffffff\r\n", b"", 16, Progress::Lost);
        let mut endless = b"1;".to_vec();
        endless.resize(20_000, b'x');
        let (used, progress) = Chunked::default().data(&endless, |_| {});
        assert_eq!(
            (used, progress),
            (LONGEST_LINE as usize + 1, Progress::Lost)
        );
    }

    #[test]
    fn gaps() {
        let mut inside = Chunked::default();
        inside.data(b"a\r\n01", |_| {});
        assert_eq!(inside.gap(8), Progress::Going);
        assert_eq!(inside.data(b"\r\n0\r\n\r\n", |_| {}), (7, Progress::Ended));
        let mut over = Chunked::default();
        over.data(b"a\r\n01", |_| {});
        assert_eq!(over.gap(9), Progress::Lost);
        assert_eq!(Chunked::default().gap(1), Progress::Lost);
    }
}
