//! One direction's bytes to what they say: header blocks, parts of bodies, ends.
//!
//! Only heads of frames and header blocks are gathered. Of all other payloads the length is enough, so a gap within
//! one loses nothing but itself. A gap anywhere else, or a frame that cannot be one, loses the way: it is found again
//! at a piece that begins with a chain of frames ([`frame::is_chain`]), since programs write whole frames.
//!
//! Invariant: memory is at most [`Limits::head`](crate::http::http::Limits) and a frame's head.
//! Invariant: how the bytes are cut changes nothing, but for finding the way again.

use super::frame::{self, HEAD, Head, flag, kind};
use crate::flow::{Nanos, Origin};
use crate::http::buffer::SecretBuffer;

/// What was read.
pub(super) enum Event<'a> {
    /// A whole header block, from the first frame of it.
    Block {
        stream: u32,
        block: &'a [u8],
        ends: bool,
        place: (Nanos, Origin),
    },
    /// A whole header block of a request that the server makes up.
    Promise {
        block: &'a [u8],
    },
    Data {
        stream: u32,
        bytes: &'a [u8],
        place: (Nanos, Origin),
    },
    /// So many bytes of a body are not known.
    Hole {
        stream: u32,
        len: usize,
    },
    /// The stream's last byte in this direction.
    End {
        stream: u32,
    },
    Reset {
        stream: u32,
    },
    /// The way was lost, or a block was too long: blocks that were not read have changed the table.
    Lost(Loss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Gap,
    Malformed,
    TooLong,
}

pub(super) struct Reader {
    state: State,
    /// Most bytes of a header block.
    most: usize,
    /// Where the frame began whose head is being gathered or read.
    place: (Nanos, Origin),
    gathered: SecretBuffer,
    block: SecretBuffer,
    open: Option<Open>,
}

enum State {
    /// So many bytes of the client's preface were read.
    Preface(usize),
    Head,
    /// The payload of a frame with a part of a header block.
    Gather(Head),
    /// So many bytes of a DATA frame, then so many of padding. `None`: the padding's length comes first.
    Data {
        head: Head,
        left: usize,
        padding: Option<usize>,
    },
    Skip(usize),
    Lost,
}

/// A header block that goes on in CONTINUATION frames.
struct Open {
    stream: u32,
    ends: bool,
    promise: bool,
    place: (Nanos, Origin),
    /// It is too long: its frames are read and dropped.
    dropped: bool,
}

/// What to look at next.
enum Next {
    More(State),
    Lost(Loss),
}

impl Reader {
    /// `preface`: a client's direction from its first byte.
    pub fn new(preface: bool, most: usize) -> Self {
        Self {
            state: if preface {
                State::Preface(0)
            } else {
                State::Head
            },
            most,
            place: (0, Origin { wire: 0, within: 0 }),
            gathered: SecretBuffer::default(),
            block: SecretBuffer::default(),
            open: None,
        }
    }

    /// Joined in the middle.
    pub fn late(most: usize) -> Self {
        Self {
            state: State::Lost,
            ..Self::new(false, most)
        }
    }

    pub fn held(&self) -> usize {
        self.gathered.len() + self.block.len()
    }

    /// Takes the bytes of one piece; `place` gives that of the byte at an offset.
    pub fn data(
        &mut self,
        bytes: &[u8],
        place: impl Fn(usize) -> (Nanos, Origin),
        each: &mut impl FnMut(Event<'_>),
    ) {
        if matches!(self.state, State::Lost) {
            if !frame::is_chain(bytes) {
                return;
            }
            self.state = State::Head;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            match self.step(&mut rest, || place(at), each) {
                Next::More(state) => self.state = state,
                Next::Lost(loss) => {
                    self.lose();
                    each(Event::Lost(loss));
                    return;
                }
            }
        }
    }

    /// So many bytes are not known.
    pub fn gap(&mut self, len: u64, each: &mut impl FnMut(Event<'_>)) {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match &mut self.state {
            State::Lost => return,
            State::Skip(left) if len <= *left => {
                *left -= len;
                if *left == 0 {
                    self.state = State::Head;
                }
                return;
            }
            State::Data {
                head,
                left,
                padding: Some(padding),
            } if len <= *left + *padding => {
                let head = *head;
                let body = len.min(*left);
                *left -= body;
                *padding -= len - body;
                let over = *left + *padding == 0;
                if body > 0 {
                    each(Event::Hole {
                        stream: head.stream,
                        len: body,
                    });
                }
                if over {
                    self.state = ended(head, each);
                }
                return;
            }
            _ => {}
        }
        self.lose();
        each(Event::Lost(Loss::Gap));
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.gathered = SecretBuffer::default();
        self.block = SecretBuffer::default();
        self.open = None;
    }

    fn step(
        &mut self,
        rest: &mut &[u8],
        place: impl Fn() -> (Nanos, Origin),
        each: &mut impl FnMut(Event<'_>),
    ) -> Next {
        match self.state {
            State::Preface(read) => {
                let wanted = &frame::PREFACE[read..];
                let bytes = take(rest, wanted.len());
                if *bytes != wanted[..bytes.len()] {
                    return Next::Lost(Loss::Malformed);
                }
                Next::More(match read + bytes.len() {
                    whole if whole == frame::PREFACE.len() => State::Head,
                    part => State::Preface(part),
                })
            }
            State::Head => {
                if self.gathered.is_empty() {
                    self.place = place();
                }
                let bytes = take(rest, HEAD - self.gathered.len());
                self.gathered.append(bytes);
                let Some(head) = self.gathered.first_chunk::<HEAD>() else {
                    return Next::More(State::Head);
                };
                let head = Head::parse(*head);
                self.gathered = SecretBuffer::default();
                self.begin(head, each)
            }
            State::Gather(head) => {
                let bytes = take(rest, head.len - self.gathered.len());
                // The usual frame lies in one piece, and is read where it lies.
                if self.gathered.is_empty() && bytes.len() == head.len {
                    return self.part(head, bytes, each);
                }
                self.gathered.append(bytes);
                if self.gathered.len() < head.len {
                    return Next::More(State::Gather(head));
                }
                let payload = self.gathered.take();
                self.part(head, &payload, each)
            }
            State::Data {
                head,
                left,
                padding: None,
            } => {
                let padding = usize::from(take(rest, 1).first().copied().unwrap_or_default());
                match left.checked_sub(padding) {
                    Some(left) => self.body(head, left, padding, (&[], place()), each),
                    None => Next::Lost(Loss::Malformed),
                }
            }
            State::Data {
                head,
                left,
                padding: Some(padding),
            } => {
                let place = place();
                let bytes = take(rest, left);
                let padded = take(rest, padding);
                self.body(
                    head,
                    left - bytes.len(),
                    padding - padded.len(),
                    (bytes, place),
                    each,
                )
            }
            State::Skip(left) => Next::More(match left - take(rest, left).len() {
                0 => State::Head,
                left => State::Skip(left),
            }),
            State::Lost => Next::Lost(Loss::Gap),
        }
    }

    fn begin(&mut self, head: Head, each: &mut impl FnMut(Event<'_>)) -> Next {
        // Section 6.10: nothing comes between the frames of one header block.
        let continues = |open: &Open| head.kind == kind::CONTINUATION && head.stream == open.stream;
        if !head.is_valid()
            || self.open.as_ref().is_some_and(|open| !continues(open))
            || self.open.is_none() && head.kind == kind::CONTINUATION
        {
            return Next::Lost(Loss::Malformed);
        }
        match head.kind {
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => {
                if head.kind != kind::CONTINUATION {
                    self.open = Some(Open {
                        stream: head.stream,
                        ends: head.has(flag::END_STREAM) && head.kind == kind::HEADERS,
                        promise: head.kind == kind::PUSH_PROMISE,
                        place: self.place,
                        dropped: false,
                    });
                }
                if head.len + self.block.len() > self.most {
                    return Next::More(self.drop_part(head, each));
                }
                match self.open {
                    Some(Open { dropped: true, .. }) => Next::More(self.drop_part(head, each)),
                    _ if head.len == 0 => self.part(head, &[], each),
                    _ => Next::More(State::Gather(head)),
                }
            }
            kind::DATA if head.len == 0 => Next::More(ended(head, each)),
            kind::DATA => Next::More(State::Data {
                head,
                left: head.len - usize::from(head.has(flag::PADDED)),
                padding: (!head.has(flag::PADDED)).then_some(0),
            }),
            kind::RST_STREAM => {
                each(Event::Reset {
                    stream: head.stream,
                });
                Next::More(State::Skip(head.len))
            }
            _ if head.len == 0 => Next::More(State::Head),
            _ => Next::More(State::Skip(head.len)),
        }
    }

    /// A part of a block that is too long.
    fn drop_part(&mut self, head: Head, each: &mut impl FnMut(Event<'_>)) -> State {
        self.block = SecretBuffer::default();
        if let Some(open) = &mut self.open {
            if !open.dropped {
                open.dropped = true;
                each(Event::Lost(Loss::TooLong));
            }
            if head.has(flag::END_HEADERS) {
                if open.ends {
                    each(Event::End {
                        stream: open.stream,
                    });
                }
                self.open = None;
            }
        }
        match head.len {
            0 => State::Head,
            len => State::Skip(len),
        }
    }

    fn part(&mut self, head: Head, payload: &[u8], each: &mut impl FnMut(Event<'_>)) -> Next {
        let Some(fragment) = head.fragment(payload) else {
            return Next::Lost(Loss::Malformed);
        };
        if !head.has(flag::END_HEADERS) {
            self.block.append(fragment);
            return Next::More(State::Head);
        }
        let Some(open) = self.open.take() else {
            return Next::Lost(Loss::Malformed);
        };
        let gathered;
        let block = if self.block.is_empty() {
            fragment
        } else {
            self.block.append(fragment);
            gathered = self.block.take();
            &gathered
        };
        each(if open.promise {
            Event::Promise { block }
        } else {
            Event::Block {
                stream: open.stream,
                block,
                ends: open.ends,
                place: open.place,
            }
        });
        Next::More(State::Head)
    }

    /// Bytes of a body, and what is left of their frame.
    fn body(
        &self,
        head: Head,
        left: usize,
        padding: usize,
        (bytes, place): (&[u8], (Nanos, Origin)),
        each: &mut impl FnMut(Event<'_>),
    ) -> Next {
        if !bytes.is_empty() {
            each(Event::Data {
                stream: head.stream,
                bytes,
                place,
            });
        }
        Next::More(if left + padding == 0 {
            ended(head, each)
        } else {
            State::Data {
                head,
                left,
                padding: Some(padding),
            }
        })
    }
}

/// A DATA frame is over.
fn ended(head: Head, each: &mut impl FnMut(Event<'_>)) -> State {
    if head.has(flag::END_STREAM) {
        each(Event::End {
            stream: head.stream,
        });
    }
    State::Head
}

fn take<'a>(rest: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(most.min(rest.len()));
    *rest = after;
    taken
}
