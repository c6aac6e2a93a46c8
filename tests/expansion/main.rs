//! What the attributes generate, without an app.

use go_queue::prelude::*;

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Order<'a> {
    id: &'a str,
}

#[dq_handler(tube = "orders", retry(max = 3))]
async fn charge(order: Order<'_>, State(n): State<u32>) -> Result<(), std::fmt::Error> {
    let _ = (order.id, n);
    Ok(())
}

#[test]
fn x() {
    use go_queue::handler::Registered;
    assert_eq!(<charge as Registered>::DEF.name, "charge");
    assert_eq!(<charge as Registered>::DEF.payload, "Order<'_>");
    let _ = charge::now(Order { id: "x" });
}
