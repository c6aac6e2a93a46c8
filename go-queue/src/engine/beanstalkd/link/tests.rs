//! One connection against a scripted node: what it sends first, what breaks it, how it ends.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const BOUND: Duration = Duration::from_secs(20);

/// A node that takes one connection and reads the introduction.
async fn node() -> (TcpListener, Arc<str>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let endpoint = listener.local_addr().expect("an address").to_string();
    (listener, Arc::from(endpoint))
}

fn tubes() -> Tubes {
    Tubes {
        used: Some(Arc::from("u")),
        watched: Some(Arc::from("w")),
    }
}

/// Reads until the text is there.
async fn hears(stream: &mut TcpStream, text: &str) {
    let mut heard = vec![0; text.len()];
    stream.read_exact(&mut heard).await.expect("hears");
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

async fn introduced() -> (Link<u32>, TcpStream) {
    let (listener, endpoint) = node().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        hears(
            &mut stream,
            "use u\r\nwatch w\r\nignore default\r\nlist-tube-used\r\n",
        )
        .await;
        stream
            .write_all(b"USING u\r\nWATCHING 2\r\nWATCHING 1\r\nUSING u\r\n")
            .await
            .expect("answers");
        stream
    };
    let (link, stream) = tokio::join!(Link::dial(endpoint, tubes(), BOUND, 100), server);
    (link.expect("a link"), stream)
}

async fn flush(link: &mut Link<u32>) {
    poll_fn(|cx| link.poll_flush(cx)).await.expect("flushes");
}

async fn answer(link: &mut Link<u32>) -> Result<(u32, Answer), LinkError> {
    tokio::time::timeout(BOUND, poll_fn(|cx| link.poll_answer(cx)))
        .await
        .expect("in time")
}

#[tokio::test]
async fn a_new_connection_is_set_in_one_write_and_answers_keep_their_order() {
    let (mut link, mut stream) = introduced().await;
    link.push(&Command::Delete(1), 10).expect("valid");
    link.push(&Command::ReserveWithTimeout(0), 11)
        .expect("valid");
    assert!(link.has_unwritten());
    flush(&mut link).await;
    assert_eq!((link.outstanding(), link.has_unwritten()), (2, false));
    hears(&mut stream, "delete 1\r\nreserve-with-timeout 0\r\n").await;
    for piece in b"NOT_FOUND\r\nRESERVED 5 3\r\nabc\r\n".chunks(3) {
        stream.write_all(piece).await.expect("answers");
        stream.flush().await.expect("flushes");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        answer(&mut link).await.expect("an answer"),
        (10, Answer::NotFound)
    );
    let (word, reserved) = answer(&mut link).await.expect("an answer");
    assert_eq!(word, 11);
    assert!(matches!(reserved, Answer::Reserved { id: 5, body } if &body[..] == b"abc"));
}

#[tokio::test]
async fn a_node_that_never_answers_is_given_up_in_time() {
    let (listener, endpoint) = node().await;
    let within = Duration::from_millis(50);
    let dialled = Link::<u32>::dial(endpoint, tubes(), within, 100).await;
    assert!(matches!(dialled, Err(LinkError::NotInTime { .. })));
    drop(listener);
}

#[tokio::test]
async fn a_node_that_speaks_something_else_is_an_error() {
    let (listener, endpoint) = node().await;
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream
            .write_all(b"-ERR unknown command\r\n")
            .await
            .expect("answers");
        stream
    };
    let (dialled, _stream) = tokio::join!(Link::<u32>::dial(endpoint, tubes(), BOUND, 100), server);
    assert!(matches!(dialled, Err(LinkError::Answer(_))));
}

#[tokio::test]
async fn a_tube_that_is_none_never_reaches_the_network() {
    let (listener, endpoint) = node().await;
    let tubes = Tubes {
        used: Some(Arc::from("a\r\ndelete 1")),
        watched: None,
    };
    let dialled = Link::<u32>::dial(endpoint, tubes, BOUND, 100).await;
    assert!(matches!(dialled, Err(LinkError::Command(_))));
    drop(listener);
}

#[tokio::test]
async fn a_reset_in_the_middle_of_a_body_ends_the_link() {
    let (mut link, mut stream) = introduced().await;
    link.push(&Command::ReserveWithTimeout(0), 1)
        .expect("valid");
    flush(&mut link).await;
    stream
        .write_all(b"RESERVED 5 30\r\nabc")
        .await
        .expect("half");
    drop(stream);
    assert!(matches!(
        answer(&mut link).await,
        Err(LinkError::Closed | LinkError::Io { .. })
    ));
    assert_eq!(link.outstanding(), 1, "its answer never came");
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_link() {
    let (mut link, mut stream) = introduced().await;
    stream.write_all(b"DELETED\r\n").await.expect("speaks");
    assert!(matches!(answer(&mut link).await, Err(LinkError::Answer(_))));
}

#[tokio::test]
async fn a_half_closed_link_hears_the_last_answers_and_then_the_end() {
    let (mut link, mut stream) = introduced().await;
    link.push(&Command::ReserveWithTimeout(9), 1)
        .expect("valid");
    link.push(&Command::Delete(4), 2).expect("valid");
    poll_fn(|cx| link.poll_half_close(cx))
        .await
        .expect("closes its half");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).await.expect("to the end");
    assert_eq!(heard, "reserve-with-timeout 9\r\ndelete 4\r\n");
    stream
        .write_all(b"TIMED_OUT\r\nDELETED\r\n")
        .await
        .expect("answers");
    drop(stream);
    assert_eq!(
        answer(&mut link).await.expect("an answer"),
        (1, Answer::TimedOut)
    );
    assert_eq!(
        answer(&mut link).await.expect("an answer"),
        (2, Answer::Deleted)
    );
    assert!(matches!(answer(&mut link).await, Err(LinkError::Closed)));
}

#[tokio::test]
async fn what_the_socket_cannot_take_is_written_when_it_can() {
    let (mut link, mut stream) = introduced().await;
    // More than the buffers of both sockets.
    let many = 400_000;
    for id in 0..many {
        link.push(&Command::Touch(1_000_000 + id), 0)
            .expect("valid");
    }
    let expected = usize::try_from(many).expect("fits") * "touch 1000000\r\n".len();
    let server = async {
        let mut seen = vec![0; expected];
        stream.read_exact(&mut seen).await.expect("reads all");
        assert!(seen.ends_with(b"touch 1399999\r\n"));
    };
    tokio::join!(flush(&mut link), server);
    assert!(!link.has_unwritten());
}
