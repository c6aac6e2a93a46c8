//! Handlers may be stamped out by a macro.
use go_queue::handler::Registry;
use go_queue::prelude::*;

const NUMBERS: Tube<u64> = Tube::new("numbers");

macro_rules! sink {
    ($name:ident, $place:literal, $payload:ty) => {
        #[kq_handler(topic = $place, batch = 10)]
        async fn $name(all: Vec<$payload>, _: State<$payload>) -> Outcome {
            drop(all);
            Outcome::Done
        }
    };
}

sink!(words, "words", String);
sink!(numbers, "numbers", u64);

macro_rules! of_tube {
    ($name:ident, $place:path, $payload:ty) => {
        #[dq_handler(tube = $place)]
        async fn $name(one: $payload) {
            let _ = one;
        }
    };
}

of_tube!(number, NUMBERS, u64);

fn main() {
    assert_eq!(Registry::global().len(), 3);
    drop((words::push("a".into()), numbers::push(1), number::now(1)));
    drop(NUMBERS.now(2));
}
