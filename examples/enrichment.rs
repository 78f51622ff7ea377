//! Enrichment by an async call: each order gets the name of its customer, at most 32 calls at once, in order; an order
//! whose call fails or takes longer than a second is dead-lettered.

use millstream::prelude::*;

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    id: u64,
    customer: u64,
}

#[derive(Serialize, Deserialize)]
struct Named {
    id: u64,
    name: String,
}

/// Stands for a call over the network.
async fn name_of(customer: u64) -> Result<String, String> {
    tokio::task::yield_now().await;
    if customer == 0 { Err("there is no customer 0".into()) } else { Ok(format!("customer {customer}")) }
}

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("enrichment");
    let orders = pipeline.source("orders", jetstream("ORDERS").json::<Order>().ignore_rejected());
    let limits = AsyncLimits { concurrency: 32, timeout: Duration::from_secs(1), ordered: true };
    let (named, failed) = orders.map_async("name", limits, |order: Order| async move {
        let name = name_of(order.customer).await?;
        Ok::<_, String>(Named { id: order.id, name })
    });
    failed.sink("failed", dead_letters("DEAD").create());
    named.sink("named", jetstream_to("NAMED").json().subject("named.orders").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    millstream::main(&declare()).await
}
