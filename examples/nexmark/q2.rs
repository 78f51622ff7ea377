//! q2, selection: the prices that are bid in some of the auctions.

use millstream::prelude::*;

use super::ends::{events, out};

#[derive(Serialize, Deserialize)]
struct Bid {
    auction: u64,
    price: u64,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q2");
    let some = events(&pipeline, "bid").filter("some", |bid: &Bid| bid.auction.is_multiple_of(123));
    out("q2", some.boxed());
    pipeline
}
