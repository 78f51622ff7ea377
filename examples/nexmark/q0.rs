//! q0, pass through: every bid as it is, which shows what reading and writing cost.

use millstream::prelude::*;

use super::ends::{events, out};

#[derive(Serialize, Deserialize)]
struct Bid {
    auction: u64,
    bidder: u64,
    price: u64,
    date_time: u64,
    extra: String,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q0");
    out("q0", events::<Bid>(&pipeline, "bid"));
    pipeline
}
