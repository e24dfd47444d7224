//! The socket between the two processes.
//!
//! Invariant: a message arrives whole or not at all, and sending waits at most [`PATIENCE`] for the other side.

use super::message::{self, MESSAGE_MAX, Message, decode, encode};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send,
    sendmsg, socketpair, sockopt,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use zeroize::{Zeroize as _, Zeroizing};

/// How long a full pipe is waited for. The other side reads all the time, so that this is a fault of it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It has ended, or has closed its end.
    #[error("the other process has gone")]
    Gone,
    #[error("the other process does not read what it is told")]
    Stuck,
    #[error("the pipe between the processes: {0}")]
    Socket(Errno),
    #[error("from the other process: {0}")]
    Message(#[from] message::Error),
    #[error("the first message has {0} descriptors instead of one")]
    Descriptors(usize),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET => Self::Gone,
            Errno::AGAIN => Self::Stuck,
            errno => Self::Socket(errno),
        }
    }
}

/// One end.
#[derive(Debug)]
pub struct Pipe {
    socket: OwnedFd,
}

/// Receives at one end, with a buffer of its own.
pub struct Receiver<'a> {
    pipe: &'a Pipe,
    buffer: Zeroizing<Vec<u8>>,
}

impl Pipe {
    /// Both ends, closed on exec.
    ///
    /// # Errors
    /// Those of `socketpair`.
    pub fn pair() -> Result<(Self, OwnedFd), Error> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self::new(one)?, other))
    }

    /// An end that was passed to this process.
    ///
    /// # Errors
    /// If it is no such socket.
    pub fn new(socket: OwnedFd) -> Result<Self, Error> {
        if sockopt::socket_type(&socket)? != SocketType::SEQPACKET {
            return Err(Error::Socket(Errno::PROTOTYPE));
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// # Errors
    /// If the other side is gone or does not read.
    pub fn send(&self, message: &impl Message) -> Result<(), Error> {
        let bytes = encode(message)?;
        loop {
            match send(&self.socket, &bytes, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    /// With a descriptor, of which the other side gets a duplicate.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with(
        &self,
        message: &impl Message,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let bytes = encode(message)?;
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(
            &self.socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }

    /// Waits until the other side has closed its end.
    pub fn wait_for_end(&self) {
        // That is always told.
        let mut watched = [PollFd::new(&self.socket, PollFlags::empty())];
        while poll(&mut watched, None) == Err(Errno::INTR) {}
    }

    #[must_use]
    pub fn receiver(&self) -> Receiver<'_> {
        Receiver {
            pipe: self,
            buffer: Zeroizing::new(vec![0; MESSAGE_MAX]),
        }
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Receiver<'_> {
    /// Waits for the next message. Descriptors that come with it are closed.
    ///
    /// # Errors
    /// [`Error::Gone`] at the end, [`Error::Message`] of what is none: the next one may be again.
    pub fn receive<M: Message>(&mut self) -> Result<M, Error> {
        self.receive_any().map(|(message, _)| message)
    }

    /// Waits for a message that may come with one descriptor; all are closed if it comes with more.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub fn receive_with<M: Message>(&mut self) -> Result<(M, Option<OwnedFd>), Error> {
        let (message, mut descriptors) = self.receive_any()?;
        Ok((
            message,
            descriptors.pop().filter(|_| descriptors.is_empty()),
        ))
    }

    /// Waits for a message that comes with one descriptor.
    ///
    /// # Errors
    /// As [`receive`](Self::receive), and if it comes with none.
    pub fn receive_with_descriptor<M: Message>(&mut self) -> Result<(M, OwnedFd), Error> {
        let (message, mut descriptors) = self.receive_any()?;
        match (descriptors.pop(), descriptors.len()) {
            (Some(descriptor), 0) => Ok((message, descriptor)),
            (_, more) => Err(Error::Descriptors(more)),
        }
    }

    fn receive_any<M: Message>(&mut self) -> Result<(M, Vec<OwnedFd>), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(
                &self.pipe.socket,
                &mut [IoSliceMut::new(&mut self.buffer)],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            ) {
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
        let bytes = &mut self.buffer[..received.bytes];
        let message = if received.flags.contains(ReturnFlags::TRUNC) {
            Err(message::Error::TooLong(MESSAGE_MAX + 1))
        } else {
            decode(bytes)
        };
        bytes.zeroize();
        Ok((message?, descriptors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privilege::message::{Ask, Tell};

    fn pair() -> (Pipe, Pipe) {
        let (one, other) = Pipe::pair().unwrap();
        (one, Pipe::new(other).unwrap())
    }

    #[test]
    fn messages_arrive_in_their_order_and_then_the_end() {
        let (one, other) = pair();
        for number in 0..100 {
            one.send(&Ask::Counters { number }).unwrap();
        }
        drop(one);
        let mut receiver = other.receiver();
        for number in 0..100 {
            assert_eq!(receiver.receive::<Ask>().unwrap(), Ask::Counters { number });
        }
        assert!(matches!(receiver.receive::<Ask>(), Err(Error::Gone)));
        assert!(matches!(other.send(&Tell::Stop), Err(Error::Gone)));
    }

    #[test]
    fn a_descriptor_comes_with_its_message() {
        let (one, other) = pair();
        let (reader, writer) = std::io::pipe().unwrap();
        one.send_with(&Tell::Stop, writer.as_fd()).unwrap();
        drop(writer);
        let mut receiver = other.receiver();
        let (_, passed) = receiver.receive_with_descriptor::<Tell>().unwrap();
        rustix::io::write(&passed, b"x").unwrap();
        drop(passed);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "x");
        one.send(&Tell::Stop).unwrap();
        assert!(matches!(
            receiver.receive_with_descriptor::<Tell>(),
            Err(Error::Descriptors(0))
        ));
    }

    #[test]
    fn garbage_is_refused_and_the_next_message_taken() {
        let (one, other) = pair();
        let mut receiver = other.receiver();
        for garbage in [
            b"\x02x".as_slice(),
            b"\x01\xff\xff",
            &[1; 130_000],
            &[7; 140_000],
        ] {
            send(&one, garbage, SendFlags::NOSIGNAL).unwrap();
            assert!(matches!(receiver.receive::<Ask>(), Err(Error::Message(_))));
        }
        one.send(&Ask::Stop).unwrap();
        assert_eq!(receiver.receive::<Ask>().unwrap(), Ask::Stop);
    }

    #[test]
    fn another_kind_of_socket_is_refused() {
        let (stream, _) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(Pipe::new(stream.into()).is_err());
    }
}
