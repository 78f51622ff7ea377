//! q7, highest bid: the bids with the highest price of each ten seconds.

use millstream::prelude::*;

use super::ends::{out, timed};

#[derive(Clone, Serialize, Deserialize)]
struct Bid {
    auction: u64,
    bidder: u64,
    price: u64,
    date_time: i64,
    extra: String,
}

#[derive(Serialize, Deserialize)]
struct Highest {
    window_start: i64,
    auction: u64,
    bidder: u64,
    price: u64,
    date_time: i64,
    extra: String,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q7");
    let highest = timed(&pipeline, "bid", |bid: &Bid| bid.date_time)
        .key_by(|_| ())
        .window(tumbling(Duration::from_secs(10)))
        .top_with_ties("highest", 1, |bid| bid.price)
        .map("bid_of_window", |top| {
            let Bid { auction, bidder, price, date_time, extra } = top.value;
            Highest { window_start: top.start.as_millis(), auction, bidder, price, date_time, extra }
        });
    out("q7", highest.boxed());
    pipeline
}
