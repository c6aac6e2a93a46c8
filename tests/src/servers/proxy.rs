//! A network that misbehaves: a TCP proxy before a server.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::server::free_server_port;

/// Forwards connections to a server, and spoils them as the test says. What it does holds for open connections and for new ones
/// until it is taken back with [`Proxy::heal`]; what is said to happen once happens to the first connection that it fits.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fault of its own, and they combine"
)]
struct State {
    /// Nothing passes in either direction; nobody is told.
    held: bool,
    /// Connections are not taken: closed as soon as they come.
    refused: bool,
    /// What the server says is thrown away.
    swallowed: bool,
    /// What the server says comes so much later.
    delay: Duration,
    /// Once: when the server says these words, the connection is reset in their middle.
    reset_within: Option<Vec<u8>>,
    /// Once: this comes before the next words of the server.
    garbage: Option<Vec<u8>>,
    /// Connections that were made to us.
    tried: usize,
    /// How many bytes the server has said that were thrown away.
    swallowed_bytes: usize,
    /// Both ends of each open connection.
    open: Vec<(usize, TcpStream, TcpStream)>,
    closed: bool,
}

impl Proxy {
    /// Listens on a port of loopback and forwards to `target`.
    ///
    /// # Panics
    /// If there is no port.
    pub fn before(target: SocketAddr) -> Self {
        let (listener, address) = loop {
            let address: SocketAddr = (Ipv4Addr::LOCALHOST, free_server_port()).into();
            if let Ok(listener) = TcpListener::bind(address) {
                break (listener, address);
            }
        };
        let shared = Arc::new(Shared {
            target,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let listening = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.listen(&listener)
        });
        Self {
            shared,
            address,
            listening: Some(listening),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as configurations name it.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// From now on nothing passes, as behind a cable that was pulled: connections stay open and are silent, new ones are taken and
    /// stay silent. What was said meanwhile passes when it is healed.
    pub fn black_hole(&self) {
        self.change(|state| state.held = true);
    }

    /// From now on what the server says comes so much later.
    pub fn delay(&self, time: Duration) {
        self.change(|state| state.delay = time);
    }

    /// From now on what the server says is thrown away: commands are carried out and nobody hears of it.
    pub fn swallow_answers(&self) {
        self.change(|state| state.swallowed = true);
    }

    /// How many bytes of answers were thrown away so far.
    pub fn swallowed(&self) -> usize {
        self.shared.state().swallowed_bytes
    }

    /// From now on new connections are closed at once. Open ones go on.
    pub fn refuse(&self) {
        self.change(|state| state.refused = true);
    }

    /// Once: when the server next says `words`, the connection is reset in their middle.
    ///
    /// # Panics
    /// If they have no middle.
    pub fn reset_within(&self, words: &[u8]) {
        assert!(words.len() > 1, "words with a middle");
        self.change(|state| state.reset_within = Some(words.to_owned()));
    }

    /// Whether the reset that was ordered is still to come.
    pub fn is_reset_ahead(&self) -> bool {
        self.shared.state().reset_within.is_some()
    }

    /// Once: `bytes` come before what the server says next.
    pub fn inject(&self, bytes: &[u8]) {
        self.change(|state| state.garbage = Some(bytes.to_owned()));
    }

    /// Whether what was to be injected is still to come.
    pub fn is_garbage_ahead(&self) -> bool {
        self.shared.state().garbage.is_some()
    }

    /// Resets all open connections now.
    pub fn reset_all(&self) {
        self.shared.reset_all(&mut self.shared.state());
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.change(|state| {
            state.held = false;
            state.refused = false;
            state.swallowed = false;
            state.delay = Duration::ZERO;
            state.reset_within = None;
            state.garbage = None;
        });
    }

    /// How many connections were made to it so far, also while its server was away.
    pub fn tried(&self) -> usize {
        self.shared.state().tried
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.state().open.len()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.state());
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|state| state.closed = true);
        self.reset_all();
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            // A panic there would have been seen as a connection that does nothing.
            let _ = listening.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.state().closed {
                return;
            }
            if let Ok(client) = client {
                // The server may be dead: then the client sees a connection that is closed at once.
                let _ = self.take(client);
            }
        }
    }

    fn take(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let number = {
            let mut state = self.state();
            state.tried += 1;
            if state.refused {
                return Ok(());
            }
            state.tried
        };
        let server = TcpStream::connect(self.target)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ends = (number, client.try_clone()?, server.try_clone()?);
        self.state().open.push(ends);
        let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
        let shared = Arc::clone(self);
        std::thread::spawn(move || shared.forward_questions(number, &from_client, &to_server));
        let shared = Arc::clone(self);
        std::thread::spawn(move || shared.forward_answers(number, &server, &client));
        Ok(())
    }

    /// Until the client has closed its side; the server may still answer then.
    fn forward_questions(&self, number: usize, mut from: &TcpStream, mut to: &TcpStream) {
        let mut chunk = vec![0; 65_536];
        while let Ok(read) = from.read(&mut chunk) {
            self.wait_while_held();
            if !self.is_open(number) {
                return;
            }
            if read == 0 {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            if to.write_all(&chunk[..read]).is_err() {
                break;
            }
        }
        self.forget(number);
    }

    fn forward_answers(&self, number: usize, mut from: &TcpStream, mut to: &TcpStream) {
        let mut chunk = vec![0; 65_536];
        // The end of what has passed, so that words are found that came in two pieces.
        let mut tail: Vec<u8> = Vec::new();
        while let Ok(read) = from.read(&mut chunk) {
            self.wait_while_held();
            if read == 0 || !self.is_open(number) {
                break;
            }
            let bytes = &chunk[..read];
            let mut state = self.state();
            let (delay, swallowed) = (state.delay, state.swallowed);
            if swallowed {
                state.swallowed_bytes += read;
                continue;
            }
            let garbage = state.garbage.take();
            let cut = state
                .reset_within
                .as_ref()
                .and_then(|words| cut_of(&tail, bytes, words));
            if cut.is_some() {
                state.reset_within = None;
            }
            drop(state);
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            let garbage = garbage.unwrap_or_default();
            if to.write_all(&garbage).is_err() {
                break;
            }
            if let Some(cut) = cut {
                let _ = to.write_all(&bytes[..cut]);
                // Else the reset may overtake what was written and the client sees no middle.
                std::thread::sleep(Duration::from_millis(20));
                self.reset(number);
                return;
            }
            if to.write_all(bytes).is_err() {
                break;
            }
            tail.extend_from_slice(bytes);
            tail.drain(..tail.len().saturating_sub(256));
        }
        self.forget(number);
    }

    /// Not so any more once it was reset: then nothing may be sent, not even an end in order.
    fn is_open(&self, number: usize) -> bool {
        self.state().open.iter().any(|(other, ..)| *other == number)
    }

    fn wait_while_held(&self) {
        let mut state = self.state();
        while state.held && !state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn forget(&self, number: usize) {
        let mut state = self.state();
        if let Some(index) = state.open.iter().position(|(other, ..)| *other == number) {
            let (_, client, server) = state.open.swap_remove(index);
            // The other direction ends as well. What was written before still arrives.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    fn reset(&self, number: usize) {
        let mut state = self.state();
        if let Some(index) = state.open.iter().position(|(other, ..)| *other == number) {
            let (_, client, server) = state.open.swap_remove(index);
            tear(&client, &server);
        }
    }

    #[expect(
        clippy::unused_self,
        reason = "reads as what it is: the proxy resets its connections"
    )]
    fn reset_all(&self, state: &mut State) {
        for (_, client, server) in state.open.drain(..) {
            tear(&client, &server);
        }
    }
}

/// Resets both ends. The last holder of a socket sends the reset when it closes it, and the threads that hold it as well are woken
/// by the end of reading.
fn tear(client: &TcpStream, server: &TcpStream) {
    for end in [client, server] {
        let _ = set_socket_linger(end, Some(Duration::ZERO));
        let _ = end.shutdown(Shutdown::Read);
    }
}

/// Where `bytes` are cut so that `words`, which may have begun in `tail`, end in their middle.
fn cut_of(tail: &[u8], bytes: &[u8], words: &[u8]) -> Option<usize> {
    let before = tail.len().min(words.len() - 1);
    let mut whole = tail[tail.len() - before..].to_owned();
    whole.extend_from_slice(bytes);
    let found = whole
        .windows(words.len())
        .position(|window| window == words)?;
    Some((found + words.len() / 2).saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A server that says back what it hears.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let _ = io::copy(&mut &stream, &mut &stream);
                });
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).expect("it listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a time above zero");
        stream
    }

    fn say(stream: &mut TcpStream, words: &[u8]) {
        stream.write_all(words).expect("it is open");
    }

    fn hear(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
        let mut heard = vec![0; bytes];
        stream.read_exact(&mut heard).expect("so much is said");
        heard
    }

    fn is_silent(stream: &mut TcpStream) -> bool {
        stream
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a time above zero");
        let mut byte = [0];
        let silent = stream
            .read(&mut byte)
            .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a time above zero");
        silent
    }

    #[test]
    fn what_is_healthy_passes_and_ends_of_streams_pass_too() {
        let proxy = Proxy::before(echo());
        let mut stream = connect(&proxy);
        say(&mut stream, b"hello");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an end in order");
        assert_eq!(all, b"hello");
        assert_eq!(proxy.tried(), 1);
    }

    #[test]
    fn a_black_hole_is_silent_and_open_and_gives_up_nothing() {
        let proxy = Proxy::before(echo());
        let mut old = connect(&proxy);
        say(&mut old, b"a");
        assert_eq!(hear(&mut old, 1), b"a");
        proxy.black_hole();
        let mut new = connect(&proxy);
        say(&mut old, b"b");
        say(&mut new, b"c");
        assert!(is_silent(&mut old) && is_silent(&mut new));
        proxy.heal();
        assert_eq!(
            (hear(&mut old, 1), hear(&mut new, 1)),
            (b"b".to_vec(), b"c".to_vec())
        );
    }

    #[test]
    fn answers_come_later_or_not_at_all() {
        let proxy = Proxy::before(echo());
        let mut stream = connect(&proxy);
        proxy.delay(Duration::from_millis(50));
        let began = Instant::now();
        say(&mut stream, b"a");
        hear(&mut stream, 1);
        assert!(began.elapsed() >= Duration::from_millis(50));
        proxy.heal();
        proxy.swallow_answers();
        say(&mut stream, b"lost");
        crate::until("all is swallowed", Duration::from_secs(30), || {
            proxy.swallowed() == 4
        });
        proxy.heal();
        say(&mut stream, b"b");
        assert_eq!(hear(&mut stream, 1), b"b");
    }

    #[test]
    fn a_connection_is_reset_in_the_middle_of_a_word_once() {
        let proxy = Proxy::before(echo());
        proxy.reset_within(b"RESERVED");
        let mut stream = connect(&proxy);
        say(&mut stream, b"INSERTED RESE");
        assert_eq!(hear(&mut stream, 13), b"INSERTED RESE");
        say(&mut stream, b"RESERVED 1");
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).expect_err("a reset");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(rest, b"RESE");
        assert!(!proxy.is_reset_ahead());
        let mut next = connect(&proxy);
        say(&mut next, b"RESERVED");
        assert_eq!(hear(&mut next, 8), b"RESERVED");
    }

    #[test]
    fn garbage_comes_before_the_next_words_once() {
        let proxy = Proxy::before(echo());
        let mut stream = connect(&proxy);
        proxy.inject(b"??");
        say(&mut stream, b"a");
        assert_eq!(hear(&mut stream, 3), b"??a");
        say(&mut stream, b"b");
        assert_eq!(hear(&mut stream, 1), b"b");
    }

    #[test]
    fn all_connections_can_be_reset_and_new_ones_refused() {
        let proxy = Proxy::before(echo());
        let mut streams = [connect(&proxy), connect(&proxy)];
        for stream in &mut streams {
            say(stream, b"a");
            hear(stream, 1);
        }
        proxy.refuse();
        proxy.reset_all();
        for stream in &mut streams {
            let mut byte = [0];
            assert!(stream.read(&mut byte).is_err(), "a reset");
        }
        let mut refused = connect(&proxy);
        let mut byte = [0];
        assert!(matches!(refused.read(&mut byte), Ok(0) | Err(_)));
        assert_eq!(proxy.open(), 0);
    }
}
