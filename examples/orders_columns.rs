//! The pipeline of `orders.toml` in Rust, over columns: the same SQL, the same nodes. Take it where a program of yours needs
//! a pipeline that is made of settings, or types for the rows would be only in the way.

use millstream::prelude::*;

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("orders");
    let dead = Outlet::new("dead", dead_letters("DEAD").create());
    let from = columns_from(jetstream("ORDERS"), DecodeFormat::Json)
        .schema([("id", "uint64 not null"), ("region", "utf8 not null"), ("amount", "float64 not null")])
        .on_rejected(OnRejected::To(dead));
    // Without columns there is nothing to go on with; what is wrong with them is reported by `build`.
    let Some(orders) = pipeline.frame("orders", from) else { return pipeline };
    let (europe, elsewhere) = orders
        .filter("large", "amount >= 10")
        .set("taxed", [("tax", "amount * 0.19")])
        .route("by_region", [("europe", "region = 'eu'")]);
    for europe in europe {
        let to = columns_to(jetstream_to("TAXED"), EncodeFormat::Json).subject("taxed.eu");
        europe.sink("to_europe", to.on_rejected(OnRejected::Stop));
    }
    let to = columns_to(jetstream_to("TAXED"), EncodeFormat::Json).subject("taxed.{region}");
    // A region that cannot be a part of a subject makes a dead letter, and no message goes astray.
    let misaddressed = Outlet::new("misaddressed", dead_letters("DEAD").create());
    elsewhere.sink("to_others", to.on_rejected(OnRejected::To(misaddressed)));
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
