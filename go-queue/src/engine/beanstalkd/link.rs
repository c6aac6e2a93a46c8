//! One connection to a node, polled by whoever owns it: no task, no lock, no channel.
//!
//! Commands gather in a buffer until [`Link::poll_flush`], so that a whole turn is one write. Answers carry no ids; the order
//! in which they were asked for is the only tie, and it is kept here, with a word of the owner for each. After any error the
//! link is over: the owner drops it, and with it everything that is outstanding.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::codec::{Answer, Command, DecodeError, EncodeError, Expect, check_tube};

/// How much the socket is asked for at once. A slice of 256 small jobs fits.
const READ_CHUNK: usize = 64 * 1024;

/// Below this much room the read buffer moves on to fresh memory.
const READ_LEAST: usize = 8 * 1024;

/// Room that a write buffer keeps when it is empty again; a burst beyond it is given back.
const KEEP_WRITE: usize = 1 << 20;

/// What a new connection is set to, in one write with a question that only a healthy server answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tubes {
    /// Where puts go; the server begins with `default`.
    pub(crate) used: Option<Arc<str>>,
    /// Where reserves come from, instead of `default`.
    pub(crate) watched: Option<Arc<str>>,
}

/// Why a connection is over, or was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The system could not connect, read or write.
    #[error("{what}: {why}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        why: Arc<io::Error>,
    },
    /// No connection, or no answer to the first questions, in time. A server without free file descriptors accepts and then
    /// never answers.
    #[error("no answer within {within:?} of connecting")]
    NotInTime {
        /// The bound.
        within: Duration,
    },
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The server said what it cannot have meant.
    #[error("the server does not speak the protocol: {0}")]
    Answer(#[from] DecodeError),
    /// A command that must not be sent.
    #[error(transparent)]
    Command(#[from] EncodeError),
}

impl LinkError {
    fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |why| Self::Io {
            what,
            why: Arc::new(why),
        }
    }
}

/// One connection. `T` is what its owner wants to hear beside each answer.
pub(crate) struct Link<T> {
    stream: TcpStream,
    /// Encoded, not yet written from `written` on.
    output: Vec<u8>,
    written: usize,
    input: BytesMut,
    expected: VecDeque<(Expect, T)>,
    max_body: usize,
    /// Nothing more is written.
    half_closed: bool,
}

impl<T> fmt::Debug for Link<T> {
    /// Lengths only: bodies never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("to", &self.stream.peer_addr().ok())
            .field("unwritten", &(self.output.len() - self.written))
            .field("unread", &self.input.len())
            .field("outstanding", &self.expected.len())
            .field("half_closed", &self.half_closed)
            .finish_non_exhaustive()
    }
}

impl<T> Link<T> {
    /// Connects to `host:port`, sets the tubes and waits until the server has answered; all of it within a bound. Bodies longer
    /// than `max_body` bytes are refused when they come.
    ///
    /// # Errors
    /// [`LinkError`], whatever was in the way.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub(crate) async fn dial(
        endpoint: Arc<str>,
        tubes: Tubes,
        within: Duration,
        max_body: usize,
    ) -> Result<Self, LinkError> {
        for tube in [&tubes.used, &tubes.watched].into_iter().flatten() {
            check_tube(tube)?;
        }
        let dialled = async {
            let stream = TcpStream::connect(&*endpoint)
                .await
                .map_err(LinkError::io("connect"))?;
            set_options(&stream).map_err(LinkError::io("set the options of a connection"))?;
            let mut first = Link::<()>::over(stream, max_body);
            first.introduce(&tubes)?;
            std::future::poll_fn(|cx| first.poll_introduced(cx)).await?;
            Ok(Self::over(first.stream, max_body))
        };
        match tokio::time::timeout(within, dialled).await {
            Ok(dialled) => dialled,
            Err(_) => Err(LinkError::NotInTime { within }),
        }
    }

    fn over(stream: TcpStream, max_body: usize) -> Self {
        Self {
            stream,
            output: Vec::new(),
            written: 0,
            input: BytesMut::new(),
            expected: VecDeque::new(),
            max_body,
            half_closed: false,
        }
    }

    /// Adds a command to what is written with the next flush; the answer comes with `word`.
    ///
    /// # Errors
    /// If the command must not be sent. Nothing was added then.
    #[inline]
    pub(crate) fn push(&mut self, command: &Command<'_>, word: T) -> Result<(), EncodeError> {
        let expect = command.encode(&mut self.output)?;
        self.expected.push_back((expect, word));
        Ok(())
    }

    /// How many answers are still to come, to commands written or not.
    pub(crate) fn outstanding(&self) -> usize {
        self.expected.len()
    }

    /// Whether commands wait for a flush.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes what has gathered. `Pending`: the socket is full, and wakes.
    ///
    /// # Errors
    /// The link is over.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))
                .map_err(LinkError::io("write"))?;
            if written == 0 {
                return Poll::Ready(Err(LinkError::Closed));
            }
            self.written += written;
        }
        self.output.clear();
        self.written = 0;
        if self.output.capacity() > KEEP_WRITE {
            self.output.shrink_to(KEEP_WRITE);
        }
        Poll::Ready(Ok(()))
    }

    /// The next answer with its word, from what was read or else from the socket. `Pending`: none is whole, and the socket
    /// wakes.
    ///
    /// # Errors
    /// The link is over. [`LinkError::Closed`] also after [`Link::poll_half_close`], when the server has answered everything.
    #[inline]
    pub(crate) fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(T, Answer), LinkError>> {
        loop {
            if let Some(answer) = self.read_answer()? {
                return Poll::Ready(Ok(answer));
            }
            ready!(self.poll_read(cx))?;
        }
    }

    /// The next answer that is here already; the socket is left alone.
    ///
    /// # Errors
    /// As [`Link::poll_answer`].
    #[inline]
    pub(crate) fn read_answer(&mut self) -> Result<Option<(T, Answer)>, LinkError> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let Some(&(expect, _)) = self.expected.front() else {
            // Nothing was asked; whatever this is answers nothing.
            let line = self.input[..self.input.len().min(40)]
                .escape_ascii()
                .to_string();
            let expect = Expect::Using;
            return Err(DecodeError::Unexpected { expect, line }.into());
        };
        let Some(answer) = Answer::decode(expect, &mut self.input, self.max_body)? else {
            return Ok(None);
        };
        let word = self.expected.pop_front();
        Ok(word.map(|(_, word)| (word, answer)))
    }

    /// Reads once from the socket. `Pending`: nothing is there, and the socket wakes.
    ///
    /// # Errors
    /// The link is over.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if self.input.capacity() - self.input.len() < READ_LEAST {
            // Takes the old memory again if no body of it is in anybody's hands.
            self.input.reserve(READ_CHUNK);
        }
        let stream = Pin::new(&mut self.stream);
        match ready!(poll_read_buf(stream, cx, &mut self.input)).map_err(LinkError::io("read"))? {
            0 => Poll::Ready(Err(LinkError::Closed)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Writes what has gathered and then closes this half: the server answers everything it has read, also a reserve that
    /// waits, and closes the other half.
    ///
    /// # Errors
    /// The link is over.
    pub(crate) fn poll_half_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        if !self.half_closed {
            ready!(self.poll_flush(cx))?;
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).map_err(LinkError::io("close"))?;
            self.half_closed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Link<()> {
    fn introduce(&mut self, tubes: &Tubes) -> Result<(), EncodeError> {
        if let Some(tube) = &tubes.used {
            self.push(&Command::Use(tube), ())?;
        }
        if let Some(tube) = &tubes.watched {
            self.push(&Command::Watch(tube), ())?;
            if **tube != *"default" {
                self.push(&Command::Ignore("default"), ())?;
            }
        }
        self.push(&Command::ListTubeUsed, ())
    }

    fn poll_introduced(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        ready!(self.poll_flush(cx))?;
        while self.outstanding() > 0 {
            let ((), answer) = ready!(self.poll_answer(cx))?;
            if answer == Answer::OutOfMemory {
                return Poll::Ready(Err(DecodeError::Unexpected {
                    expect: Expect::Watching,
                    line: "OUT_OF_MEMORY".to_owned(),
                }
                .into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Small commands leave at once, and a peer that vanished is noticed.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;

    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(target_os = "linux")]
    {
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
        sockopt::set_tcp_keepcnt(stream, 3)?;
        // Data that nobody acknowledges for so many milliseconds ends the connection.
        sockopt::set_tcp_user_timeout(stream, 10_000)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
