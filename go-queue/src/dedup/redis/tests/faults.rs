//! Claims against a server that is ill, away, or forgets.

use std::process::Command;
use std::time::Duration;

use super::server::{Proxy, Server, there_is_redis};
use super::*;
use crate::dedup::redis::RedisFault;
use crate::time::{millis, seconds};

#[tokio::test]
async fn while_redis_is_away_asks_are_answered_at_once_and_nothing_is_lost_when_it_returns() {
    if !there_is_redis() {
        return;
    }
    let mut server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    server.kill();
    assert!(matches!(lane.claim(2).await, Verdict::Down(_)));
    assert!(matches!(
        lane.ask(1, AskWhat::Confirm).await,
        Verdict::Down(_)
    ));
    assert!(store.check().await.is_err());
    server.restart();
    assert_eq!(lane.insist(2, AskWhat::Claim).await, FIRST);
    assert_eq!(lane.insist(1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(Lane::new(&store).claim(1).await, Verdict::Done);
}

#[tokio::test]
async fn an_outage_costs_no_connection_for_each_ask() {
    if !there_is_redis() {
        return;
    }
    let mut server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    server.kill();
    // The first finds out; from the second on the breaker is open or half open.
    assert!(matches!(lane.claim(2).await, Verdict::Down(_)));
    tokio::time::sleep(seconds(1)).await;
    for id in 3..1000 {
        let mut answers = Vec::new();
        let mut asks = vec![ask(1, id, AskWhat::Claim)];
        let polled = lane.end.turn(
            &mut std::task::Context::from_waker(std::task::Waker::noop()),
            &mut asks,
            &mut answers,
        );
        assert!(polled.is_ready(), "answered in the same turn");
        assert!(matches!(answers[0].verdict, Verdict::Down(after) if after <= seconds(3)));
    }
}

#[tokio::test]
async fn a_stalled_redis_blocks_nobody_and_what_it_did_meanwhile_is_ours() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    server.signal("STOP");
    let began = tokio::time::Instant::now();
    assert!(matches!(lane.claim(2).await, Verdict::Down(_)));
    assert!(began.elapsed() < seconds(3), "one time-out, not the outage");
    assert!(matches!(
        lane.ask(
            1,
            AskWhat::Retry {
                after: Duration::ZERO
            }
        )
        .await,
        Verdict::Down(_)
    ));
    tokio::time::sleep(seconds(3)).await;
    server.signal("CONT");
    assert_eq!(lane.insist(2, AskWhat::Claim).await, FIRST);
    let retry = AskWhat::Retry {
        after: Duration::ZERO,
    };
    assert_eq!(lane.insist(1, retry).await, Verdict::Stored);
    assert_eq!(lane.claim(1).await, SECOND);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_known_by_its_owner() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let store = RedisStore::open(RedisConfig::node(proxy.address())).unwrap();
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    proxy.swallow(true);
    assert!(matches!(lane.claim(2).await, Verdict::Down(_)));
    let value = server
        .get("gq:tube:00000000000000000000000000000002")
        .await
        .expect("it was taken, and only the answer was lost");
    assert!(value.starts_with("R:1:"), "{value}");
    proxy.swallow(false);
    assert_eq!(lane.insist(2, AskWhat::Claim).await, FIRST);
    // The same for what ends a run: telling it again changes nothing.
    proxy.swallow(true);
    let retry = AskWhat::Retry {
        after: Duration::ZERO,
    };
    assert!(matches!(lane.ask(2, retry.clone()).await, Verdict::Down(_)));
    proxy.swallow(false);
    assert_eq!(lane.insist(2, retry).await, Verdict::Stored);
    assert_eq!(lane.claim(2).await, SECOND);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_and_that_nobody_wants_any_more_is_freed() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let one = RedisStore::open(RedisConfig::node(proxy.address())).unwrap();
    let mut lane = Lane::new(&one);
    assert_eq!(lane.claim(1).await, FIRST);
    proxy.swallow(true);
    assert!(matches!(lane.claim(2).await, Verdict::Down(_)));
    proxy.swallow(false);
    drop(lane);
    assert!(one.close(LONG).await);
    let other = store(&server);
    assert_eq!(Lane::new(&other).claim(2).await, FIRST);
}

#[tokio::test]
async fn after_flushall_what_runs_goes_on_and_is_told_once() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let mut short = config(&server);
    short.lease = millis(900);
    let (one, other) = (
        RedisStore::open(short.clone()).unwrap(),
        RedisStore::open(short).unwrap(),
    );
    let (mut lane, mut twin) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    assert_eq!(lane.claim(2).await, FIRST);
    server.command(&["FLUSHALL"]).await;
    // The next renewal writes the claims anew.
    lane.idle(millis(600)).await;
    assert!(matches!(twin.claim(1).await, Verdict::Busy(_)));
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);
    assert_eq!(twin.claim(1).await, Verdict::Done);
    server.command(&["FLUSHALL"]).await;
    let retry = AskWhat::Retry { after: millis(300) };
    assert_eq!(lane.ask(2, retry).await, Verdict::Stored);
    assert!(matches!(twin.claim(2).await, Verdict::Busy(_)));
    tokio::time::sleep(millis(300)).await;
    assert_eq!(twin.claim(2).await, SECOND);
}

/// A Redis that is killed may have forgotten what it was told last, whatever it writes to its disk each second.
#[tokio::test]
async fn what_runs_is_claimed_anew_as_soon_as_redis_is_back() {
    if !there_is_redis() {
        return;
    }
    let mut server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let (mut lane, mut twin) = (Lane::new(&one), Lane::new(&other));
    assert_eq!(lane.claim(1).await, FIRST);
    server.kill();
    assert!(matches!(lane.claim(2).await, Verdict::Down(_)));
    server.restart();
    assert_eq!(lane.insist(2, AskWhat::Claim).await, FIRST);
    // Long before the next renewal.
    let asked = twin.insist(1, AskWhat::Claim).await;
    assert!(matches!(asked, Verdict::Busy(_)), "{asked:?}");
    assert_eq!(lane.ask(1, AskWhat::Confirm).await, Verdict::Stored);
}

#[tokio::test]
async fn scripts_that_redis_forgot_are_sent_again() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    for attempt in 1..4 {
        assert_eq!(lane.claim(1).await, Verdict::Fresh { attempt });
        server.command(&["SCRIPT", "FLUSH"]).await;
        let retry = AskWhat::Retry {
            after: Duration::ZERO,
        };
        assert_eq!(lane.ask(1, retry).await, Verdict::Stored);
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_and_never_shown() {
    if !there_is_redis() {
        return;
    }
    let server = Server::with(&["--requirepass", "right-canary"]);
    let mut config = config(&server);
    for pass in [None, Some("wrong-canary"), Some("right-canary")] {
        config.pass = pass.map(str::to_owned);
        config.user = pass.map(|_| "default".to_owned());
        let store = RedisStore::open(config.clone()).unwrap();
        match store.check().await {
            Ok(()) => assert_eq!(pass, Some("right-canary")),
            Err(fault) => {
                assert_ne!(pass, Some("right-canary"), "{fault}");
                assert!(matches!(fault, RedisFault::Refused { .. }), "{fault:?}");
                let text = format!("{fault} {fault:?} {store:?} {config:?}");
                assert!(text.contains("refuses the user or the password"), "{text}");
                assert!(!text.contains("canary"), "{text}");
                let verdict = Lane::new(&store).claim(1).await;
                assert!(matches!(verdict, Verdict::Down(_)), "{verdict:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_no_waiting_mends_is_told_from_an_outage() {
    let open = |host: &str| RedisStore::open(RedisConfig::node(host)).unwrap();
    let fault = open("redis.nowhere.invalid:6379")
        .check()
        .await
        .unwrap_err();
    assert!(fault.is_of_the_set_up(), "{fault}");
    // A server that speaks something else.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let other = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = [0; 1024];
            let _ = stream.read(&mut heard).await;
            let _ = stream.write_all(b"UNKNOWN_COMMAND\r\n").await;
        }
    };
    let store = open(&address.to_string());
    let fault = tokio::select! {
        () = other => unreachable!("it serves for ever"),
        checked = store.check() => checked.unwrap_err(),
    };
    assert!(fault.is_of_the_set_up(), "{fault}");
    drop(listener);
    let fault = open(&address.to_string()).check().await.unwrap_err();
    assert!(!fault.is_of_the_set_up(), "{fault}");
}

#[tokio::test]
async fn other_faults_are_told_apart() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = RedisConfig::node(silent.local_addr().unwrap().to_string());
    config.connect_timeout = millis(150);
    let fault = RedisStore::open(config.clone()).unwrap().check().await;
    assert!(matches!(fault, Err(RedisFault::Silent { within, .. }) if within == millis(150)));
    // Bound and not listening: nobody else can have the port.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = RedisConfig::node(nobody.local_addr().unwrap().to_string());
    let fault = RedisStore::open(config).unwrap().check().await;
    assert!(
        matches!(fault, Err(RedisFault::Unreachable { .. })),
        "{fault:?}"
    );
}

#[tokio::test]
async fn tls_is_verified() {
    if !there_is_redis() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let openssl = |args: &[&str]| {
        let made = Command::new("openssl")
            .args(args)
            .current_dir(folder.path())
            .output();
        assert!(made.is_ok_and(|made| made.status.success()), "{args:?}");
    };
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    std::fs::write(folder.path().join("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    for name in ["ca", "stranger"] {
        let (key, pem) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        openssl(&[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", &key, "-out", &pem,
            "-subj", &subject, "-days", "2",
        ]);
    }
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "redis.key",
        "-out",
        "redis.csr",
        "-subj",
        "/CN=redis",
    ]);
    openssl(&[
        "x509",
        "-req",
        "-in",
        "redis.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "redis.pem",
        "-days",
        "2",
        "-extfile",
        "san",
    ]);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let server = Server::with(&[
        "--port",
        "0",
        "--tls-port",
        "PORT",
        "--tls-auth-clients",
        "no",
        "--tls-cert-file",
        &path("redis.pem"),
        "--tls-key-file",
        &path("redis.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
    ]);
    let mut config = config(&server);
    config.tls = true;
    config.connect_timeout = seconds(10);
    for (ca, good) in [("ca.pem", true), ("stranger.pem", false)] {
        config.ca = Some(std::fs::read(path(ca)).unwrap());
        let store = RedisStore::open(config.clone()).unwrap();
        match store.check().await {
            Ok(()) => {
                assert!(good, "a stranger was trusted");
                assert_eq!(Lane::new(&store).claim(1).await, FIRST);
            }
            Err(fault) => assert!(!good, "{fault}"),
        }
    }
    config.ca = None;
    let fault = RedisStore::open(config).unwrap().check().await;
    assert!(fault.is_err(), "the system knows no such authority");
}

#[tokio::test]
async fn a_time_out_of_less_than_a_second_is_kept() {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let mut config = config(&server);
    config.timeout = millis(40);
    let store = RedisStore::open(config).unwrap();
    store.check().await.expect("it answers");
    server.signal("STOP");
    let fault = store.check().await;
    server.signal("CONT");
    assert!(
        matches!(fault, Err(RedisFault::Silent { within, .. }) if within == millis(40)),
        "{fault:?}"
    );
}

#[tokio::test]
async fn one_that_gives_up_in_an_outage_says_its_last_words_when_redis_is_back() {
    if !there_is_redis() {
        return;
    }
    let mut server = Server::start();
    let store = store(&server);
    let mut lane = Lane::new(&store);
    assert_eq!(lane.claim(1).await, FIRST);
    server.kill();
    assert!(matches!(
        lane.ask(1, AskWhat::Confirm).await,
        Verdict::Down(_)
    ));
    server.restart();
    drop(lane);
    assert!(store.close(LONG).await);
    let key = "gq:tube:00000000000000000000000000000001";
    assert_eq!(server.get(key).await.as_deref(), Some("D"));
}

#[tokio::test]
async fn what_was_on_its_way_when_its_end_was_given_up_is_said_although_redis_did_not_know_the_script()
 {
    if !there_is_redis() {
        return;
    }
    let server = Server::start();
    let (one, other) = (store(&server), store(&server));
    let mut lane = Lane::new(&one);
    assert_eq!(lane.claim(1).await, FIRST);
    // It is sent by its digest, which this Redis has never heard of, and nobody is left to hear that.
    lane.abandon(1).await;
    drop(lane);
    let mut next = Lane::new(&other);
    let (verdict, count) = timeout(LONG, async {
        let mut count = 0;
        loop {
            count += 1;
            match next.claim(1).await {
                Verdict::Busy(_) if count < 20 => {}
                verdict => return (verdict, count),
            }
        }
    })
    .await
    .expect("it is answered");
    assert_eq!(verdict, FIRST, "asked {count} times");
}
