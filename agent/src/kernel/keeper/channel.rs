//! What passes between the agent, the keeper and the watch: datagrams of a `SOCK_SEQPACKET` socket, some with descriptors.
//!
//! The agent has one end. The watch has the other and hands it down to each keeper that it starts; it says itself only
//! that one has ended. Both write whole messages, so that these do not mix.
//!
//! Invariant: the keeper and the watch send without waiting.

use super::{Attachment, AttachmentId, Facts, Place, Program, Refused, Scope, Why};
use crate::kernel::keylog::FileState;
use crate::privilege::message::{self, MESSAGE_MAX, Message, decode, encode};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};
use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Most descriptors of one message: two for each program.
const DESCRIPTORS: usize = 16;
/// Most bytes of a message; those with many ids are divided.
const BYTES: usize = 16 * 1024;
/// Ids in one message, so that it is never longer.
pub const IDS: usize = 1_024;
const _: () = assert!(BYTES <= MESSAGE_MAX && IDS * 10 < BYTES);

/// From the agent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The first one, to the watch; the programs' descriptors come with it.
    Begin {
        /// Those for perf, then those for `uprobe_multi`.
        perf: Vec<Program>,
        multi: Vec<Program>,
        /// Why there are none for `uprobe_multi`.
        no_multi: Option<String>,
    },
    /// The file comes with it, and a descriptor of the process if it is for one.
    Attach {
        /// Of the keeper that is meant.
        generation: u64,
        id: AttachmentId,
        state: FileState,
        scope: Scope,
        places: Vec<Place>,
    },
    /// Answered when all are gone; ids of none are gone already.
    Detach { number: u64, ids: Vec<AttachmentId> },
}

/// To the agent.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A keeper begins.
    Ready {
        generation: u64,
        pid: u32,
        facts: Facts,
    },
    /// There will be none.
    Failed(String),
    Attached(Attachment),
    Refused {
        id: AttachmentId,
        refused: Refused,
    },
    Detached {
        number: u64,
    },
    Lost {
        ids: Vec<AttachmentId>,
        why: Why,
    },
    /// Of the watch: that keeper has ended, and nothing of it is attached any more.
    Died {
        generation: u64,
        how: String,
    },
}

impl Message for Order {
    fn is_sane(&self) -> bool {
        // From the side that is trusted: the length of the message is bound enough.
        true
    }
}

impl Message for Report {
    fn is_sane(&self) -> bool {
        true
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the other process has gone")]
    Gone,
    #[error("the other process does not read what it is told")]
    Full,
    #[error("the socket between the processes: {0}")]
    Socket(Errno),
    #[error("from the other process: {0}")]
    Message(#[from] message::Error),
    /// They are in it, and closed by now.
    #[error("too few files may be open for what the other process sent")]
    Descriptors(Box<Option<Order>>),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            Errno::AGAIN => Self::Full,
            errno => Self::Socket(errno),
        }
    }
}

/// Sends a message. `flags`: [`SendFlags::DONTWAIT`] for who must not wait.
pub fn tell(
    socket: BorrowedFd<'_>,
    message: &impl Message,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Error> {
    let bytes = encode(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Error::Socket(Errno::INVAL));
    }
    loop {
        let bytes = [IoSlice::new(&bytes)];
        match sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL | flags) {
            Err(Errno::INTR) => {}
            sent => return Ok(sent.map(drop)?),
        }
    }
}

/// Takes the next message. `flags`: [`RecvFlags::DONTWAIT`] for who must not wait.
///
/// # Errors
/// [`Error::Full`] if there is none.
pub fn hear(socket: BorrowedFd<'_>, flags: RecvFlags) -> Result<(Heard, Vec<OwnedFd>), Error> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; BYTES];
    let received = loop {
        let mut bytes = [IoSliceMut::new(&mut buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC | flags;
        match recvmsg(socket, &mut bytes, &mut control, flags) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Err(Error::Gone);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(message::Error::TooLong(BYTES + 1).into());
    }
    let heard = Heard(buffer[..received.bytes].to_vec());
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Error::Descriptors(Box::new(heard.read().ok())));
    }
    Ok((heard, descriptors))
}

/// A message that is still to be read.
pub struct Heard(Vec<u8>);

impl Heard {
    pub fn read<M: Message>(&self) -> Result<M, Error> {
        Ok(decode(&self.0)?)
    }
}

/// Whether the agent's end is closed.
pub fn is_closed(socket: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut asked = [PollFd::new(&socket, PollFlags::empty())];
    poll(&mut asked, Some(&now)).is_ok()
        && asked[0]
            .revents()
            .intersects(PollFlags::HUP | PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn orders_come_with_their_descriptors() {
        let (one, other) = pair();
        let order = Order::Detach {
            number: 7,
            ids: vec![AttachmentId(1), AttachmentId(u64::MAX)],
        };
        let files = [one.as_fd(), other.as_fd()];
        tell(one.as_fd(), &order, &files, SendFlags::DONTWAIT).unwrap();
        let (heard, descriptors) = hear(other.as_fd(), RecvFlags::DONTWAIT).unwrap();
        assert_eq!(heard.read::<Order>().unwrap(), order);
        assert_eq!(descriptors.len(), 2);
        assert!(matches!(
            hear(other.as_fd(), RecvFlags::DONTWAIT),
            Err(Error::Full)
        ));
        drop(descriptors);
        assert!(!is_closed(&other));
        drop(one);
        assert!(is_closed(&other));
        assert!(matches!(
            hear(other.as_fd(), RecvFlags::empty()),
            Err(Error::Gone)
        ));
    }

    #[test]
    fn as_many_ids_as_are_allowed_fit() {
        let (one, other) = pair();
        let lost = Report::Lost {
            ids: vec![AttachmentId(u64::MAX); IDS],
            why: Why::Written,
        };
        tell(one.as_fd(), &lost, &[], SendFlags::DONTWAIT).unwrap();
        let (heard, _) = hear(other.as_fd(), RecvFlags::DONTWAIT).unwrap();
        assert_eq!(heard.read::<Report>().unwrap(), lost);
    }

    #[test]
    fn nobody_waits_for_a_side_that_does_not_read() {
        let (one, _other) = pair();
        let report = Report::Detached { number: 1 };
        let full =
            (0..1_000_000).find_map(|_| tell(one.as_fd(), &report, &[], SendFlags::DONTWAIT).err());
        assert!(matches!(full, Some(Error::Full)));
    }
}
