//! Orders: small ones are left out, tax is added, and each goes to the subject of its region. The same pipeline as a
//! file is `orders.toml`.

use millstream::prelude::*;

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    region: String,
    amount: f64,
}

#[derive(Serialize, Deserialize)]
struct Taxed {
    id: u64,
    region: String,
    amount: f64,
    tax: f64,
}

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("orders");
    let taxed = pipeline
        .source("orders", jetstream("ORDERS").json::<Order>().rejected_to("dead", dead_letters("DEAD").create()))
        .filter("large", |order| order.amount >= 10.0)
        .map("taxed", |Order { id, region, amount }| Taxed { id, region, amount, tax: amount * 0.19 });
    let ([europe], elsewhere) = taxed.route("by_region", [("europe", when(|order: &Taxed| order.region == "eu"))]);
    europe.sink("to_europe", jetstream_to("TAXED").json().subject("taxed.eu").stop_on_rejected());
    let by_region = jetstream_to("TAXED").json().subject_of(|order: &Taxed, to| {
        to.token("taxed").token(&order.region);
    });
    // A region that cannot be a part of a subject makes a dead letter, and no message goes astray.
    elsewhere.sink("to_others", by_region.rejected_to("misaddressed", dead_letters("DEAD").create()));
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    if std::env::args().any(|argument| argument == "--explain") {
        return match declare().build() {
            Ok(graph) => {
                #[expect(clippy::print_stdout, reason = "what was asked for")]
                {
                    print!("{}", explain(&graph, View::Text));
                }
                std::process::ExitCode::SUCCESS
            }
            Err(_) => std::process::ExitCode::from(2),
        };
    }
    millstream::main(&declare()).await
}
