//! q5, hot items: the auctions with the most bids in the last ten seconds, every two seconds.

use millstream::prelude::*;

use super::ends::{out, timed};

#[derive(Serialize, Deserialize)]
struct Bid {
    auction: u64,
    date_time: i64,
}

#[derive(Serialize, Deserialize)]
struct Hot {
    window_start: i64,
    auction: u64,
    num: u64,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q5");
    let every = Duration::from_secs(2);
    let hot = timed(&pipeline, "bid", |bid: &Bid| bid.date_time)
        .key_by(|bid| bid.auction)
        .window(sliding(Duration::from_secs(10), every))
        .aggregate("bids", count())
        // A count has the last moment of its window: those that end together are in one window here.
        .key_by(|_| ())
        .window(tumbling(every))
        .top_with_ties("most", 1, |bids| bids.value)
        .map("hot", |top| {
            let Windowed { key: auction, start, value: num, .. } = top.value;
            Hot { window_start: start.as_millis(), auction, num }
        });
    out("q5", hot.boxed());
    pipeline
}
