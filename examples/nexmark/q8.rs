//! q8, new users: who opened an auction in the ten seconds in which they came.

use millstream::prelude::*;

use super::ends::{out, timed};

#[derive(Clone, Serialize, Deserialize)]
struct Person {
    id: u64,
    name: String,
    date_time: i64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Auction {
    seller: u64,
    date_time: i64,
}

#[derive(Serialize, Deserialize)]
struct NewSeller {
    window_start: i64,
    id: u64,
    name: String,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q8");
    let window = Duration::from_secs(10);
    let auctions = timed(&pipeline, "auction", |auction: &Auction| auction.date_time).key_by(|auction| auction.seller);
    let sellers = timed(&pipeline, "person", |person: &Person| person.date_time)
        .key_by(|person| person.id)
        .join(auctions)
        .semi("sellers", tumbling(window))
        // A row of a window has its last moment.
        .map_with("new_seller", move |Person { id, name, .. }, row| {
            let end = row.time().saturating_add(Duration::from_micros(1));
            NewSeller { window_start: end.saturating_sub(window).as_millis(), id, name }
        });
    out("q8", sellers.boxed());
    pipeline
}
