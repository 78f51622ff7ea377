//! [`cases`]: how many inputs a property is tried on.

/// How many random inputs a property that compares an operator with its definition is tried on: so many, or as many as the
/// environment variable `MILLSTREAM_CASES` says. With 10,000 that is the long form.
pub fn cases(otherwise: u32) -> u32 {
    std::env::var("MILLSTREAM_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(otherwise)
}
