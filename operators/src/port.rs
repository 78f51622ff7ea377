//! [`PortType`]: what may move through a port of a node. [`Side`]: a typed handle on a side output.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use crate::{AnyBatch, Payload};

/// The name of a port, the payload that moves through it, and how to copy that if it can be copied.
#[derive(Clone)]
pub struct PortType {
    name: Cow<'static, str>,
    payload: TypeId,
    rows: Cow<'static, str>,
    copy: Option<fn(&AnyBatch) -> Option<AnyBatch>>,
    must_connect: bool,
}

impl PortType {
    /// The main output or only input of most nodes is named so.
    pub const MAIN: &'static str = "out";

    /// A port that a payload `P` moves through.
    pub fn of<P: Payload>(name: impl Into<Cow<'static, str>>) -> Self {
        let rows = short_type_name(std::any::type_name::<P>());
        PortType { name: name.into(), payload: TypeId::of::<P>(), rows: rows.into(), copy: None, must_connect: true }
    }

    /// The same port, with other words for its rows: a schema, where the Rust type says little.
    #[must_use]
    pub fn describing(mut self, rows: impl Into<Cow<'static, str>>) -> Self {
        self.rows = rows.into();
        self
    }

    /// The same port under another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The same port, whose batches can be copied, so that several nodes may read it.
    #[must_use]
    pub fn copied_by(mut self, copy: fn(&AnyBatch) -> Option<AnyBatch>) -> Self {
        self.copy = Some(copy);
        self
    }

    /// The same port, which may be left unconnected: its rows are counted and dropped.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.must_connect = false;
        self
    }

    /// Whether leaving it unconnected is a mistake: for rejected rows, so that stop, drop or dead letter is a choice
    /// made and not forgotten.
    pub fn must_connect(&self) -> bool {
        self.must_connect
    }

    /// The name of the port.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The payload's type.
    pub fn payload(&self) -> TypeId {
        self.payload
    }

    /// The rows, in words for people.
    pub fn rows(&self) -> &str {
        &self.rows
    }

    /// How to copy a batch of this port.
    pub fn copy(&self) -> Option<fn(&AnyBatch) -> Option<AnyBatch>> {
        self.copy
    }
}

impl fmt::Debug for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.rows)
    }
}

/// A type name without the paths of modules, and without the `Vec` that every typed payload has: `Vec<a::b::Order>`
/// becomes `Order`.
fn short_type_name(full: &str) -> String {
    let mut short = String::new();
    for piece in full.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        short.push_str(piece.rsplit("::").next().unwrap_or(piece));
    }
    match short.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>')) {
        Some(row) => row.to_owned(),
        None => short,
    }
}

/// A typed handle on a side output of an operator: late rows, rejected rows, named routes.
pub struct Side<T> {
    port: usize,
    name: Cow<'static, str>,
    rows: PhantomData<fn() -> T>,
}

impl<T: Send + 'static> Side<T> {
    /// The side output at `port`: 1 for the first, as port 0 is the main output.
    pub fn new(port: usize, name: impl Into<Cow<'static, str>>) -> Self {
        Side { port, name: name.into(), rows: PhantomData }
    }

    /// Which port it is.
    pub fn port(&self) -> usize {
        self.port
    }

    /// For [`Operator::sides`](crate::Operator::sides).
    pub fn port_type(&self) -> PortType {
        PortType::of::<Vec<T>>(self.name.clone())
    }
}

impl<T> fmt::Debug for Side<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Side({} {})", self.port, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_named_without_their_modules() {
        assert_eq!(short_type_name("alloc::vec::Vec<my::orders::Order>"), "Order");
        assert_eq!(short_type_name("alloc::vec::Vec<(u64, a::b::Rejected<bytes::Bytes>)>"), "(u64, Rejected<Bytes>)");
        assert_eq!(short_type_name("arrow_array::record_batch::RecordBatch"), "RecordBatch");
    }
}
