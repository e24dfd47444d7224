//! Frames: their heads, what lies around a header block in them, and how one is found again.
//!
//! Source: RFC 9113 sections 4.1 and 6.

/// Bytes of a frame's head.
pub(super) const HEAD: usize = 9;
/// What a client says first (section 3.4).
pub(in crate::http) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Payloads are no longer unless a peer asked for more, which few do (section 4.2).
const USUAL: usize = 16_384;

pub(super) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
    /// ALTSVC (RFC 7838), ORIGIN (RFC 8336), PRIORITY_UPDATE (RFC 9218).
    pub const EXTENSIONS: [u8; 3] = [0x0a, 0x0c, 0x10];
}

pub(super) mod flag {
    pub const END_STREAM: u8 = 0x01;
    pub const END_HEADERS: u8 = 0x04;
    pub const PADDED: u8 = 0x08;
    pub const PRIORITY: u8 = 0x20;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Of the payload, up to 2^24 - 1 bytes.
    pub len: usize,
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
}

impl Head {
    pub fn parse(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            len: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            // The first bit is reserved, and ignored.
            stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
        }
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Its length and its stream are such as its kind demands.
    pub fn is_valid(&self) -> bool {
        match self.kind {
            kind::DATA => self.stream != 0 && self.len >= usize::from(self.has(flag::PADDED)),
            kind::HEADERS | kind::PUSH_PROMISE => self.stream != 0 && self.len >= self.around().0,
            kind::CONTINUATION => self.stream != 0,
            kind::PRIORITY => self.stream != 0 && self.len == 5,
            kind::RST_STREAM => self.stream != 0 && self.len == 4,
            kind::SETTINGS => {
                let acknowledges = self.flags & 1 != 0;
                self.stream == 0 && self.len.is_multiple_of(6) && (!acknowledges || self.len == 0)
            }
            kind::PING => self.stream == 0 && self.len == 8,
            kind::GOAWAY => self.stream == 0 && self.len >= 8,
            kind::WINDOW_UPDATE => self.len == 4,
            // Section 4.1: unknown kinds are ignored.
            _ => true,
        }
    }

    /// The same, and nothing about it is unusual: for heads that nothing else vouches for.
    fn is_usual(&self) -> bool {
        let flags = match self.kind {
            kind::DATA => flag::END_STREAM | flag::PADDED,
            kind::HEADERS => flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            kind::PUSH_PROMISE => flag::END_HEADERS | flag::PADDED,
            kind::CONTINUATION => flag::END_HEADERS,
            kind::SETTINGS | kind::PING => 1,
            kind::PRIORITY | kind::RST_STREAM | kind::GOAWAY | kind::WINDOW_UPDATE => 0,
            other if kind::EXTENSIONS.contains(&other) => 0,
            _ => return false,
        };
        self.is_valid() && self.flags & !flags == 0 && self.len <= USUAL
    }

    /// Bytes of the payload before a header block, without the padding's length's own byte; and whether there is one.
    fn around(&self) -> (usize, bool) {
        let padded = self.has(flag::PADDED);
        let before = match self.kind {
            kind::HEADERS if self.has(flag::PRIORITY) => 5,
            kind::PUSH_PROMISE => 4,
            _ => 0,
        };
        (before + usize::from(padded), padded)
    }

    /// The part of a header block that the payload carries; `None` if there is more padding than room.
    pub fn fragment<'a>(&self, payload: &'a [u8]) -> Option<&'a [u8]> {
        if self.kind == kind::CONTINUATION {
            return Some(payload);
        }
        let (before, padded) = self.around();
        let padding = if padded {
            usize::from(*payload.first()?)
        } else {
            0
        };
        payload.get(before..payload.len().checked_sub(padding)?)
    }
}

/// The bytes begin a chain of frames: at least one whole one, and after it, up to the last of the bytes, nothing but
/// frames; the last may go on behind them if its head is there. That random bytes do has a chance of 2^-50.
pub(super) fn is_chain(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut whole = 0;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::parse(*head);
        if !head.is_usual() || head.kind == kind::CONTINUATION && whole == 0 {
            return false;
        }
        match after.get(head.len..) {
            Some(after) => rest = after,
            None => return whole > 0,
        }
        whole += 1;
    }
    whole > 0 && rest.is_empty()
}

/// Whether a chain of frames comes from the client: by its first header block, of a request or of a response. Those
/// begin with pseudo-header fields, whose names are in the static table (RFC 9113 section 8.3, RFC 7541 appendix A).
pub(in crate::http) fn is_of_client(bytes: &[u8]) -> Option<bool> {
    if !is_chain(bytes) {
        return None;
    }
    let mut rest = bytes;
    while let Some((head, after)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::parse(*head);
        let payload = after.get(..head.len)?;
        if head.kind == kind::HEADERS {
            let index = match *head.fragment(payload)?.first()? {
                indexed @ 0x80.. => indexed & 0x7f,
                inserted @ 0x40.. => inserted & 0x3f,
                other => other & 0x0f,
            };
            return match index {
                1..=7 => Some(true),
                8..=14 => Some(false),
                _ => None,
            };
        }
        rest = &after[head.len..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let head = Head::parse([0, 1, 2, 1, 0x2c, 0x80, 0, 0, 3]);
        let expected = Head {
            len: 258,
            kind: kind::HEADERS,
            flags: 0x2c,
            stream: 3,
        };
        assert_eq!(head, expected);
        assert!(head.is_valid());
        let mut payload = vec![7; 20];
        payload[0] = 4;
        assert_eq!(head.fragment(&payload), Some(&payload[6..16]));
        payload[0] = 15;
        assert_eq!(head.fragment(&payload), None);
        for bad in [
            [0, 0, 5, 6, 0, 0, 0, 0, 0],
            [0, 0, 8, 6, 0, 0, 0, 0, 1],
            [0, 0, 7, 4, 0, 0, 0, 0, 0],
            [0, 0, 6, 4, 1, 0, 0, 0, 0],
            [0, 0, 9, 0, 0, 0, 0, 0, 0],
            [0, 0, 4, 1, 0x20, 0, 0, 0, 1],
        ] {
            assert!(!Head::parse(bad).is_valid(), "{bad:?}");
        }
    }

    #[test]
    fn chains() {
        let window = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let data = [0, 0, 3, 0, 1, 0, 0, 0, 1, b'a', b'b', b'c'];
        assert!(is_chain(&window));
        assert!(is_chain(&[&window[..], &data].concat()));
        assert!(is_chain(&[&data[..], &data[..9]].concat()), "goes on");
        assert!(!is_chain(&data[..11]), "not whole");
        assert!(!is_chain(&[&data[..], &window[..5]].concat()));
        assert!(!is_chain(&[&data[..], b"GET / HTTP/1.1"].concat()));
        assert!(!is_chain(b""));
        assert!(!is_chain(b"abcdefghijklmnopqrstuvwxyz"));
    }
}
