//! Orders per minute: how many orders each customer placed in each minute, and for how much. Minutes are those in which
//! orders were placed, in whatever order they come. The same pipeline as a file is orders_per_minute.toml.

use millstream::prelude::*;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: String,
    customer: String,
    amount: f64,
    /// Microseconds since 1970.
    placed_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Total {
    customer: String,
    window_start: Timestamp,
    orders: u64,
    total: f64,
}

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("orders-per-minute");
    let orders = pipeline.source("orders", jetstream("ORDERS").json::<Order>().ignore_rejected());
    let watermarks = bounded_lateness(Duration::from_secs(5)).idle_after(Duration::from_secs(30));
    let (orders, refused) = orders.event_time("placed", |order: &Order| order.placed_at, watermarks);
    refused.sink("refused", dead_letters("DEAD").create());
    orders
        .filter("large", |order| order.amount >= 10.0)
        .key_by(|order| order.customer.clone())
        .window(tumbling(Duration::from_secs(60)).allowed_lateness(Duration::from_secs(10)))
        .late(|late| late.sink("late", dead_letters("DEAD").create()))
        .aggregate("per_minute", (count(), sum(|order: &Order| order.amount)))
        .map("total", |window| {
            let (orders, total) = window.value;
            Total { customer: window.key, window_start: window.start, orders, total }
        })
        .sink("totals", jetstream_to("TOTALS").json().subject("totals.minute").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    millstream::main(&declare()).await
}
