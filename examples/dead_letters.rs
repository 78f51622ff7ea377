//! Dead letters: what is no order, and orders whose amount is no number, are kept bit for bit, with what is wrong with
//! them in headers: `Mill-Dlq-Stage`, `Mill-Dlq-Error`, `Mill-Dlq-Stream`, `Mill-Dlq-Seq` and others.

use millstream::prelude::*;

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    amount: String,
}

#[derive(Serialize, Deserialize)]
struct Paid {
    id: u64,
    cents: u64,
}

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("payments");
    let orders = pipeline
        .source("orders", jetstream("ORDERS").json::<Order>().rejected_to("unread", dead_letters("DEAD").create()));
    let (paid, unpaid) = orders.try_map("cents", |order| {
        let amount: f64 = order.amount.parse().map_err(|error| format!("{:?}: {error}", order.amount))?;
        Ok::<_, String>(Paid { id: order.id, cents: (amount * 100.0).round() as u64 })
    });
    unpaid.sink("unpaid", dead_letters("DEAD").create());
    paid.sink("paid", jetstream_to("PAID").json().subject("paid.orders").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    millstream::main(&declare()).await
}
