//! The winning price of each auction: what q4 and q6 begin with.

use millstream::prelude::*;

use super::ends::timed;

#[derive(Clone, Serialize, Deserialize)]
struct Auction {
    id: u64,
    seller: u64,
    category: u64,
    date_time: i64,
    expires: i64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Bid {
    auction: u64,
    price: u64,
    date_time: i64,
}

/// An auction that is over, and had a bid while it was open.
#[derive(Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) struct Won {
    // The greatest of an auction is the one with the greatest price.
    pub(crate) price: u64,
    pub(crate) auction: u64,
    pub(crate) seller: u64,
    pub(crate) category: u64,
    expires: i64,
}

/// Each auction with the highest bid that came while it was open, when it is over: at the time at which it expires.
pub(crate) fn winning(pipeline: &Pipeline) -> Stream<Won> {
    let bids = timed(pipeline, "bid", |bid: &Bid| bid.date_time).key_by(|bid| bid.auction);
    timed(pipeline, "auction", |auction: &Auction| auction.date_time)
        .key_by(|auction| auction.id)
        .join(bids)
        .inner("in_time", until(|auction: &Auction| Timestamp::from_millis(auction.expires)))
        .map("offer", |(auction, bid)| {
            let Auction { id, seller, category, expires, .. } = auction;
            Won { price: bid.price, auction: id, seller, category, expires }
        })
        .key_by(|offer| offer.auction)
        .window(until(|offer: &Won| Timestamp::from_millis(offer.expires)))
        .aggregate("highest", max(Won::clone))
        .filter_map("won", |window| window.value)
        .boxed()
}
