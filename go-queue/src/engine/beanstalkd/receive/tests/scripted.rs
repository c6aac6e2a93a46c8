//! Against nodes that follow a script: what a real one does once in a year, or never.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A listener, and its address for a site.
async fn script() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let endpoint = listener.local_addr().expect("an address").to_string();
    (listener, endpoint)
}

struct Peer(BufReader<TcpStream>);

impl Peer {
    /// Takes one connection and lets it introduce itself.
    async fn greet(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut peer = Self(BufReader::new(stream));
        for (command, answer) in [
            ("use t", "USING t\r\n"),
            ("watch t", "WATCHING 2\r\n"),
            ("ignore default", "WATCHING 1\r\n"),
            ("list-tube-used", "USING t\r\n"),
        ] {
            assert_eq!(peer.line().await.as_deref(), Some(command));
            peer.say(answer.as_bytes()).await;
        }
        peer
    }

    /// The next command; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).await.ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }

    async fn say(&mut self, bytes: &[u8]) {
        let stream = self.0.get_mut();
        stream.write_all(bytes).await.expect("speaks");
        stream.flush().await.expect("speaks");
    }

    /// Answers what is asked besides, until a command begins so.
    async fn until(&mut self, prefix: &str) -> String {
        loop {
            let line = self.line().await.expect("goes on");
            if line.starts_with(prefix) {
                return line;
            }
            self.answer(&line).await;
        }
    }

    /// As an empty node would.
    async fn answer(&mut self, line: &str) {
        let word = line.split(' ').next().expect("a word");
        let answer: &[u8] = match word {
            "reserve-with-timeout" => b"TIMED_OUT\r\n",
            "delete" => b"DELETED\r\n",
            "release" => b"RELEASED\r\n",
            "touch" => b"TOUCHED\r\n",
            "kick-job" => b"KICKED\r\n",
            "stats-job" => b"OK 25\r\n---\nreserves: 1\nkicks: 0\n\r\n",
            _ => b"NOT_FOUND\r\n",
        };
        self.say(answer).await;
    }

    async fn reserved(&mut self, id: u64, payload: &[u8]) {
        let body = body(payload);
        let mut wire = format!("RESERVED {id} {}\r\n", body.len()).into_bytes();
        wire.extend_from_slice(&body);
        wire.extend_from_slice(b"\r\n");
        self.say(&wire).await;
    }
}

/// Both until the hand is done.
async fn beside<T>(hand: impl Future<Output = T>, node: impl Future<Output = ()>) -> T {
    tokio::select! {
        biased;
        () = async { node.await; std::future::pending().await } => unreachable!("it waits"),
        done = hand => done,
    }
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_job_is_a_loss_of_the_connection_and_no_more() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(site(&[&endpoint]));
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.reserved(1, b"whole").await;
        peer.until("reserve").await;
        peer.say(b"RESERVED 2 4000\r\nand then").await;
        drop(peer);
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.reserved(1, b"again").await;
        while let Some(line) = peer.line().await {
            peer.answer(&line).await;
        }
    };
    let test = async {
        hand.until("both", 9, |hand| hand.got.len() == 2).await;
        assert_eq!(payloads(&hand.got), ["whole", "again"]);
        assert_eq!(hand.notices, [Notice::Lost(hand.got[0].receipt.epoch)]);
        let got = std::mem::take(&mut hand.got);
        hand.ack(&got);
        hand.empty().await;
        assert_eq!(hand.turn.health.stale, 1);
    };
    beside(test, node).await;
}

#[tokio::test]
async fn garbage_ends_the_connection_and_is_said() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(site(&[&endpoint]));
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        // It hangs up by itself.
        while peer.line().await.is_some() {}
        drop(listener);
    };
    let test = hand.until("said", 9, |hand| match &hand.turn.health.state {
        HealthState::Down(why) => why.contains("protocol") || why.contains("refused"),
        _ => false,
    });
    beside(test, node).await;
    assert!(hand.got.is_empty());
}

#[tokio::test]
async fn answers_in_single_bytes_are_understood() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(site(&[&endpoint]));
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        let body = body(b"slow");
        let mut wire = format!("RESERVED 9 {}\r\n", body.len()).into_bytes();
        wire.extend_from_slice(&body);
        wire.extend_from_slice(b"\r\n");
        for byte in wire {
            peer.say(&[byte]).await;
            tokio::task::yield_now().await;
        }
        while let Some(line) = peer.line().await {
            peer.answer(&line).await;
        }
    };
    let got = beside(hand.one(), node).await;
    assert_eq!(payloads(&[got]), ["slow"]);
}

#[tokio::test]
async fn a_node_that_falls_silent_is_given_up_and_its_jobs_are_lost() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(Site {
        patience: Duration::from_millis(200),
        ..site(&[&endpoint])
    });
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.reserved(1, b"x").await;
        // Answers nothing any more, and keeps the connection.
        while peer.line().await.is_some() {}
        std::future::pending::<()>().await;
    };
    let test = hand.until("lost", 1, |hand| {
        hand.notices.iter().any(|n| matches!(n, Notice::Lost(_)))
    });
    beside(test, node).await;
}

#[tokio::test]
async fn the_warning_about_a_lease_makes_no_busy_loop() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(site(&[&endpoint]));
    let asked = std::cell::Cell::new(0);
    let touched = std::cell::Cell::new(0);
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.reserved(1, b"x").await;
        while let Some(line) = peer.line().await {
            match line.split(' ').next() {
                Some("reserve-with-timeout") => {
                    asked.set(asked.get() + 1);
                    peer.say(b"DEADLINE_SOON\r\n").await;
                }
                Some("touch") => {
                    touched.set(touched.get() + 1);
                    peer.answer(&line).await;
                }
                _ => peer.answer(&line).await,
            }
        }
    };
    let test = async {
        hand.until("the job", 9, |hand| hand.got.len() == 1).await;
        hand.within(Duration::from_millis(1200), 9, |_| false).await;
    };
    beside(test, node).await;
    assert!(touched.get() >= 1, "what is old is touched");
    assert!(asked.get() < 40, "{} reserves in 1.2 s", asked.get());
}

#[tokio::test]
async fn a_lease_that_is_over_is_told_for_one_job() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(Site {
        lease: Duration::from_millis(60),
        ..site(&[&endpoint])
    });
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.reserved(1, b"x").await;
        while let Some(line) = peer.line().await {
            match line.split(' ').next() {
                Some("touch") => peer.say(b"NOT_FOUND\r\n").await,
                _ => peer.answer(&line).await,
            }
        }
    };
    let test = async {
        let got = hand.one().await;
        hand.until("told", 0, |hand| {
            hand.notices == [Notice::LostOne(got.receipt)]
        })
        .await;
        hand.ack(&[got]);
        hand.until("stale", 0, |hand| hand.turn.health.stale == 1)
            .await;
    };
    beside(test, node).await;
}

#[tokio::test]
async fn close_half_closes_and_hears_the_last_answers() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(site(&[&endpoint]));
    let node = async {
        let mut peer = Peer::greet(&listener).await;
        peer.until("reserve").await;
        peer.reserved(7, b"x").await;
        let mut last = Vec::new();
        peer.until("delete 7").await;
        // To the end of its half, and only then the answer.
        peer.0.read_to_end(&mut last).await.expect("reads");
        peer.say(b"DELETED\r\n").await;
    };
    let test = async {
        let got = hand.one().await;
        hand.ack(&[got]);
        hand.close().await;
    };
    tokio::join!(test, node);
}

#[tokio::test]
async fn nodes_that_are_away_are_not_stormed() {
    let (listener, endpoint) = script().await;
    let mut hand = Hand::new(site(&[&endpoint]));
    let taken = std::cell::Cell::new(0);
    let node = async {
        loop {
            // Takes the connection and closes it.
            let _ = listener.accept().await.expect("accepts");
            taken.set(taken.get() + 1);
        }
    };
    let test = hand.within(Duration::from_secs(2), 9, |_| false);
    beside(test, node).await;
    assert!((2..40).contains(&taken.get()), "{} in 2 s", taken.get());
}
