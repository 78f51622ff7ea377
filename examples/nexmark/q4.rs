//! q4, average price for a category: of the winning prices of all auctions so far. Each change gives a row; the last row of a
//! category is its result.

use millstream::prelude::*;

use super::ends::out;
use super::winning::{Won, winning};

#[derive(Serialize, Deserialize)]
struct Average {
    category: u64,
    avg_price: u64,
    sum_price: u64,
    auctions: u64,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q4");
    let averages = winning(&pipeline)
        .key_by(|won| won.category)
        .window(global().emit(Emit::OnChange))
        .aggregate("by_category", (sum(|won: &Won| won.price), count()))
        .map("average", |Windowed { key: category, value: (sum_price, auctions), .. }| {
            let avg_price = sum_price.checked_div(auctions).unwrap_or_default();
            Average { category, avg_price, sum_price, auctions }
        });
    out("q4", averages.boxed());
    pipeline
}
