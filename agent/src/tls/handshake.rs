//! Handshake messages out of records (RFC 8446 section 4, RFC 5246 section 7.4): split and coalesced anywhere.
//!
//! Only the messages that say something to a reader are kept; of the others only the length is followed, so a
//! certificate chain costs nothing, and bytes that were not copied cost only the message they belong to.
//!
//! Invariant: at most [`MAX_MESSAGE`] bytes are held.

/// Handshake types (RFC 8446 appendix B.3).
pub mod message {
    pub const CLIENT_HELLO: u8 = 1;
    pub const SERVER_HELLO: u8 = 2;
    pub const ENCRYPTED_EXTENSIONS: u8 = 8;
    pub const FINISHED: u8 = 20;
    /// Certificate, ServerKeyExchange, ServerHelloDone, ClientKeyExchange: not in a resumed handshake of TLS 1.2.
    pub const FULL: [u8; 4] = [11, 12, 14, 16];
    pub const KEY_UPDATE: u8 = 24;
}

/// Longest message that is kept. A ClientHello with a large ticket and post-quantum shares has a few KiB.
pub const MAX_MESSAGE: usize = 1 << 16;

const HEAD: usize = 4;

/// A complete handshake message.
pub struct Message {
    pub kind: u8,
    /// Its body, if it is of a kind that is kept and all of it is known.
    pub body: Option<Vec<u8>>,
}

/// Puts one direction's handshake messages together.
pub struct MessageReader {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the body still to come, once the head is complete.
    missing: usize,
    body: Option<Vec<u8>>,
    /// The bounds of messages are known.
    aligned: bool,
}

impl MessageReader {
    pub fn new() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            missing: 0,
            body: None,
            aligned: true,
        }
    }

    /// No message is half read (and the bounds are known).
    pub fn is_idle(&self) -> bool {
        self.aligned && self.have == 0
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.body.as_ref().map_or(0, Vec::len)
    }

    /// Begins anew: the next byte begins a message.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Adds the messages that `bytes` complete to `out`.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<Message>) {
        while !bytes.is_empty() && self.aligned {
            if self.have < HEAD {
                let used = bytes.len().min(HEAD - self.have);
                self.head[self.have..self.have + used].copy_from_slice(&bytes[..used]);
                self.have += used;
                bytes = &bytes[used..];
                if self.have == HEAD {
                    self.begin(out);
                }
                continue;
            }
            let used = bytes.len().min(self.missing);
            if let Some(body) = &mut self.body {
                body.extend_from_slice(&bytes[..used]);
            }
            bytes = &bytes[used..];
            self.missing -= used;
            self.finish(out);
        }
    }

    /// `len` bytes are not known.
    pub fn skip(&mut self, len: usize, out: &mut Vec<Message>) {
        if len == 0 || !self.aligned {
            return;
        }
        if self.have < HEAD || len > self.missing {
            self.aligned = false;
            self.body = None;
            return;
        }
        self.missing -= len;
        self.body = None;
        self.finish(out);
    }

    fn begin(&mut self, out: &mut Vec<Message>) {
        let len = u32::from_be_bytes([0, self.head[1], self.head[2], self.head[3]]) as usize;
        let kept = matches!(
            self.head[0],
            message::CLIENT_HELLO
                | message::SERVER_HELLO
                | message::ENCRYPTED_EXTENSIONS
                | message::KEY_UPDATE
        );
        self.missing = len;
        self.body = (kept && len <= MAX_MESSAGE).then(Vec::new);
        self.finish(out);
    }

    fn finish(&mut self, out: &mut Vec<Message>) {
        if self.missing == 0 {
            out.push(Message {
                kind: self.head[0],
                body: self.body.take(),
            });
            self.have = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32).to_be_bytes();
        [&[kind], &len[1..], body].concat()
    }

    #[test]
    fn messages_come_whole_at_every_split() {
        let stream = [
            message(1, b"hello"),
            message(11, &[7; 300]),
            message(20, b""),
            message(24, &[1]),
            message(2, b"server"),
        ]
        .concat();
        let expected = [
            (1, Some(b"hello".to_vec())),
            (11, None),
            (20, None),
            (24, Some(vec![1])),
            (2, Some(b"server".to_vec())),
        ];
        for split in 0..=stream.len() {
            let mut reader = MessageReader::new();
            let mut out = Vec::new();
            reader.feed(&stream[..split], &mut out);
            reader.feed(&stream[split..], &mut out);
            let seen: Vec<_> = out
                .into_iter()
                .map(|message| (message.kind, message.body))
                .collect();
            assert_eq!(seen, expected, "{split}");
            assert!(reader.is_idle());
        }
    }

    #[test]
    fn unknown_bytes_cost_the_message_they_belong_to() {
        let mut reader = MessageReader::new();
        let mut out = Vec::new();
        let hello = message(1, b"0123456789");
        reader.feed(&hello[..6], &mut out);
        reader.skip(4, &mut out);
        reader.feed(&hello[10..], &mut out);
        reader.feed(&message(2, b"ok"), &mut out);
        let seen: Vec<_> = out
            .iter()
            .map(|message| (message.kind, message.body.as_deref()))
            .collect();
        assert_eq!(seen, [(1, None), (2, Some(&b"ok"[..]))]);
    }

    #[test]
    fn unknown_heads_lose_the_bounds_until_a_reset() {
        let mut reader = MessageReader::new();
        let mut out = Vec::new();
        reader.skip(1, &mut out);
        reader.feed(&message(2, b"lost"), &mut out);
        assert!(out.is_empty() && !reader.is_idle());
        reader.reset();
        reader.feed(&message(2, b"seen"), &mut out);
        assert_eq!(out.len(), 1);
    }

    #[test]
    fn what_is_too_long_is_followed_but_not_held() {
        let mut reader = MessageReader::new();
        let mut out = Vec::new();
        reader.feed(&[1, 1, 0, 1], &mut out);
        reader.feed(&[0; 1 << 16], &mut out);
        assert_eq!(reader.held(), 0);
        reader.feed(&[0], &mut out);
        assert_eq!((out[0].kind, out[0].body.is_none()), (1, true));
    }
}
