//! q1, currency conversion: every bid with its price in thousandths of another currency, of which a dollar is 0.908.

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

#[derive(Serialize, Deserialize)]
struct Converted {
    auction: u64,
    bidder: u64,
    price: u64,
    price_milli: u64,
    date_time: u64,
    extra: String,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q1");
    let converted = events(&pipeline, "bid").map("convert", |bid: Bid| {
        let Bid { auction, bidder, price, date_time, extra } = bid;
        Converted { auction, bidder, price, price_milli: price.saturating_mul(908), date_time, extra }
    });
    out("q1", converted.boxed());
    pipeline
}
