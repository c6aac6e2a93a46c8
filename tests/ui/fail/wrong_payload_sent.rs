//! A payload of another type than the handler takes.
use go_queue::prelude::*;

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
}

#[dq_handler(tube = "emails")]
async fn send(to: String) {
    drop(to);
}

#[kq_handler(topic = "orders", batch = 10)]
async fn charge(orders: Vec<Order>) {
    drop(orders.len() + usize::from(orders[0].id == 0));
}

const REMINDERS: Tube<Order> = Tube::new("reminders");

fn main() {
    let order = Order { id: 7 };
    let _ = send::now(7);
    let _ = send::delay("a@example.org", minutes(1));
    let _ = charge::push(&order);
    let _ = charge::push(vec![order]);
    let _ = REMINDERS.now("tea");
}
