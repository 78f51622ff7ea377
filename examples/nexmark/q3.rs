//! q3, local items: who offers things of category 10 in Oregon, Idaho and California. Persons and auctions meet however far
//! apart they come, within a day.

use millstream::prelude::*;

use super::ends::{out, timed};

#[derive(Clone, Serialize, Deserialize)]
struct Person {
    id: u64,
    name: String,
    city: String,
    state: String,
    date_time: i64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Auction {
    id: u64,
    seller: u64,
    category: u64,
    date_time: i64,
}

#[derive(Serialize, Deserialize)]
struct Local {
    name: String,
    city: String,
    state: String,
    id: u64,
}

pub(crate) fn query() -> Pipeline {
    let pipeline = Pipeline::new("nexmark-q3");
    let people = timed(&pipeline, "person", |person: &Person| person.date_time)
        .filter("near", |person| matches!(person.state.as_str(), "or" | "id" | "ca"))
        .key_by(|person| person.id);
    let locals = timed(&pipeline, "auction", |auction: &Auction| auction.date_time)
        .filter("category_10", |auction| auction.category == 10)
        .key_by(|auction| auction.seller)
        .join(people)
        .inner("offers", unbounded(Duration::from_secs(24 * 60 * 60)))
        .map("local", |(Auction { id, .. }, person)| {
            let Person { name, city, state, .. } = person;
            Local { name, city, state, id }
        });
    out("q3", locals.boxed());
    pipeline
}
