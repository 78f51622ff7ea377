//! What is done to typed rows: one file a verb.
//!
//! Verbs that look at one row at a time ([`Map`], [`Filter`], [`FilterMap`], [`FlatMap`], [`Inspect`]) are
//! [`RowFn`]s: alone they are an operator ([`RowPass`]), and in a row they are composed at compile time into one that
//! goes over a batch once.

/// What every step of a pass has besides its work: copies share the closure.
macro_rules! pass_step {
    ($($step:ident),*) => {$(
        impl<C: Clone, F> Clone for $step<C, F> {
            fn clone(&self) -> Self {
                $step { before: self.before.clone(), f: Arc::clone(&self.f) }
            }
        }

        impl<C, F> fmt::Debug for $step<C, F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($step))
            }
        }
    )*};
}
use pass_step;

mod batching;
mod decode;
mod dedup;
mod encode;
mod filter;
mod flat_map;
mod fold;
mod format;
mod inspect;
mod kept;
mod lookup;
mod map;
mod merge;
mod pass;
mod process;
mod repeats;
mod route;
mod sample;
mod silence;
mod throttle_drop;
mod try_map;

pub use batching::{Batching, Group};
pub use decode::Decode;
pub use dedup::Dedup;
pub use encode::{Address, Encode, MakeSubject, SetHeaders, Tokens};
#[cfg(feature = "columnar")]
pub(crate) use encode::{BREAKS_LINE, breaks_line};
pub use filter::{Filter, FilterMap};
pub use flat_map::FlatMap;
pub use fold::Fold;
pub use format::{Format, Json, MsgPack, Ndjson, Raw, Text};
pub use inspect::Inspect;
pub use kept::{Kept, kept};
pub use lookup::Lookup;
pub use map::{Map, MapWith};
pub use merge::Merge;
pub use pass::{Gives, RowContext, RowFn, RowPass, Tally, Whole};
pub use process::{Process, Visit};
pub use repeats::Repeats;
pub use route::{Predicate, Route};
pub use sample::Sample;
pub use throttle_drop::ThrottleDrop;
pub use try_map::TryMap;
