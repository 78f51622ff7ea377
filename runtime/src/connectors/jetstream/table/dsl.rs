//! [`kv_table`]: a bucket, for those who write pipelines.

use std::sync::Arc;

use millstream_operators::Problem;
use millstream_pipelines::dsl::TableNode;
use millstream_pipelines::graph::Access;

use super::table_of;

/// A JetStream key-value bucket as a table that rows are looked up in: kept in memory, and current by a watch.
///
/// A pipeline reads no row before all of the bucket is there. While the server is away, and where the bucket or the right to
/// read it goes, rows find what was there last, and the log warns of it. Of a mirror or a bucket with sources, keys are those
/// of the buckets that it copies: one key of two sources is one entry, the newer. What a bucket forgets by age is found until it is read anew, unless the bucket makes limit markers.
///
/// ```
/// use millstream::prelude::*;
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct Order { id: u64, customer: String }
/// #[derive(Serialize, Deserialize)]
/// struct Customer { tier: String }
///
/// let pipeline = Pipeline::new("tiers");
/// let orders = pipeline.source("orders", jetstream("ORDERS").json::<Order>().ignore_rejected());
/// let (found, unreadable) = orders.lookup("customer", kv_table("CUSTOMERS").json::<Customer>(), |order| order.customer.clone());
/// unreadable.stop("unreadable");
/// found
///     .map("tier", |(order, customer)| format!("{} {}", order.id, customer.map_or("none".into(), |found| found.tier)))
///     .sink("out", stdout().text().stop_on_rejected());
/// assert!(pipeline.build().is_ok());
/// ```
pub fn kv_table(bucket: impl Into<String>) -> TableNode {
    let bucket = bucket.into();
    let sound = !bucket.is_empty() && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let problem = Problem::at("", format!("`{bucket}` is no name of a bucket"))
        .in_setting("lookup.bucket")
        .help("it has letters, digits, `-` and `_`");
    TableNode {
        detail: format!("bucket {bucket}"),
        access: vec![Access::Follow { stream: format!("KV_{bucket}") }],
        problems: if sound { Vec::new() } else { vec![problem] },
        make: Arc::new(move |subtask| table_of(&bucket, subtask)),
    }
}
