//! How long stories are, and how long until something happens in them.

use std::time::Duration;

use tokio::time::sleep;

/// The number that a variable of the environment says, if it is there.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// A random part of a second, so that kills come at moments that nobody chose.
pub async fn a_while() {
    sleep(Duration::from_millis(150 + chance() % 500)).await;
}

/// A number that differs from run to run, for moments that nobody chose; printed, so that a failure can be told.
pub fn chance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
