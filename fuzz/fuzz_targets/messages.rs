//! What lies in a queue: any bytes are a message or none, and one that was opened is whole. The configuration too.
#![no_main]

use bytes::Bytes;
use go_queue::message::{envelope, go_queue as go, headers};
use go_queue::time::parse_duration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let raw = Bytes::copy_from_slice(data);
    if let Ok(opened) = envelope::open(raw.clone()) {
        let body = &opened.message.body;
        assert_eq!(
            body.key().len() + body.head_len() + body.payload().len(),
            body.len()
        );
        assert!(
            headers::is_whole(body.raw_headers()),
            "an envelope with half a header is refused"
        );
        // Its due time can be changed, and nothing else changes with it.
        let due = opened.message.due;
        let again = envelope::with_due(&raw, due).expect("what was opened can be written again");
        let again = envelope::open(again).expect("and opened again");
        assert_eq!(again.message.body.bytes(), body.bytes());
        assert_eq!(again.message.due, due);
    }
    if let Ok(opened) = go::open(raw) {
        assert!(opened.message.body.payload().len() <= data.len());
    }
    for (name, value) in headers::iter(data) {
        assert!(name.len() + value.len() <= data.len());
    }
    let _ = headers::Headers::decode_lossy(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_duration(text);
        let _ = text.parse::<go_queue::engine::TaskId>();
        if let Ok(replicas) = go::split(text) {
            let joined = go::join(replicas.iter().copied());
            assert_eq!(go::split(&joined).ok().as_ref(), Some(&replicas));
        }
        let _ = go_queue::config::Config::from_yaml(text, "fuzz", &|_| None);
    }
});
