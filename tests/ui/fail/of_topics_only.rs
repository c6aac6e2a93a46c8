//! A tube has no partitions.
use go_queue::prelude::*;

#[dq_handler(tube = "emails")]
async fn send(to: String, Partition(partition): Partition, offset: Offset) {
    drop((to, partition, offset));
}

fn main() {}
