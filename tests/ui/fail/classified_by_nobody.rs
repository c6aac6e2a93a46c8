//! A bound that asks for a classified error.
use go_queue::outcome::ClassifyError;

fn count(error: &impl ClassifyError) {
    let _ = error.classify();
}

fn main() {
    count(&std::io::Error::other("cut"));
}
