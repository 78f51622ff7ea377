//! q6, average selling price by seller: over the last ten auctions of each seller that are over and had a bid.

use millstream::prelude::*;

use super::ends::out;
use super::winning::{Won, winning};

#[derive(Serialize, Deserialize)]
struct LastTen {
    seller: u64,
    auction: u64,
    sum_last10: u64,
    n: u64,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q6");
    let last_ten = winning(&pipeline)
        .key_by(|won| won.seller)
        .window(last_rows(10).order_by(|won: &Won| won.auction))
        .aggregate("last_ten", (last(|won: &Won| won.auction), sum(|won: &Won| won.price), count()))
        .filter_map("sums", |Windowed { key: seller, value: (auction, sum_last10, n), .. }| {
            Some(LastTen { seller, auction: auction?, sum_last10, n })
        });
    out("q6", last_ten.boxed());
    pipeline
}
