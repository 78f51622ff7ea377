//! Dead letters: orders whose amount is no number are kept, bit for bit, and a second pipeline reports what is wrong
//! with them, by reason.

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

#[derive(Serialize, Deserialize)]
struct Report {
    node: String,
    error: String,
    stream: String,
    sequence: String,
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

    // What happened stands in the headers of a letter; its payload is that of the message it is about.
    pipeline
        .source("letters", jetstream("DEAD").subjects(["mill.dlq.payments.>"]).raw().ignore_rejected())
        .map_with("report", |_, letter| {
            let header = |name: &str| letter.header(name).unwrap_or_default().to_owned();
            let (node, error) = (header("Mill-Dlq-Stage"), header("Mill-Dlq-Error"));
            Report { node, error, stream: header("Mill-Dlq-Stream"), sequence: header("Mill-Dlq-Seq") }
        })
        .sink("reports", jetstream_to("REPORTS").json().subject("reports.dead").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    millstream::main(&declare()).await
}
