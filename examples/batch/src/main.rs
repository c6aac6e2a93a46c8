//! A batch handler: many records in one call, with an outcome for each.
#![expect(
    clippy::print_stdout,
    reason = "it shows what it does on standard output; the log goes to standard error"
)]

use go_queue::outcome::Outcome;
use go_queue::prelude::*;

/// What a sensor measured.
#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: u32,
    celsius: f64,
}

/// Stores readings, up to a hundred at a time, or what came within a fifth of a second.
///
/// One outcome for each, in order: a bad reading does not hold up the others, and does not run again with them. A handler that returns
/// `Result<(), E>` instead has one outcome for all.
#[kq_handler(topic = "readings", group = "store", order = none, batch = 100, linger = "200ms")]
async fn store(batch: Vec<Reading>) -> Vec<Outcome> {
    println!("a batch of {}", batch.len());
    batch.iter().map(store_one).collect()
}

fn store_one(reading: &Reading) -> Outcome {
    if reading.celsius < -273.15 {
        println!(
            "set aside: sensor {} is colder than possible",
            reading.sensor
        );
        return Outcome::dead("colder than possible");
    }
    println!(
        "stored: sensor {} at {} degrees",
        reading.sensor, reading.celsius
    );
    Outcome::Done
}

#[tokio::main]
async fn main() -> Exit {
    App::new().on_start(measure).run().await.into()
}

/// Pushes all readings with one completion.
async fn measure(producer: Producer) -> Result<(), go_queue::engine::PublishError> {
    let celsius = [20.5, 21.0, -400.0, 19.5];
    let readings = (1..)
        .zip(celsius)
        .map(|(sensor, celsius)| Reading { sensor, celsius });
    for pushed in producer.send_all(readings.map(store::push)).await {
        pushed?;
    }
    Ok(())
}
