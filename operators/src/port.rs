//! [`PortType`]: what may move through a port of a node. [`Side`]: a typed handle on a side output.

use std::any::TypeId;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use crate::{AnyBatch, Payload, Rejected};

/// Writes the name of a node into the causes of a batch of rejected rows, where they name none.
type NameCauses = fn(&mut AnyBatch, &str);

/// The name of a port, the payload that moves through it, and how to copy that if it can be copied.
#[derive(Clone)]
pub struct PortType {
    name: Cow<'static, str>,
    payload: TypeId,
    rows: Cow<'static, str>,
    copy: Option<fn(&AnyBatch) -> Option<AnyBatch>>,
    name_causes: Option<NameCauses>,
    must_connect: bool,
}

impl PortType {
    /// The main output or only input of most nodes is named so.
    pub const MAIN: &'static str = "out";

    /// A port that a payload `P` moves through.
    pub fn of<P: Payload>(name: impl Into<Cow<'static, str>>) -> Self {
        let rows = short_type_name(std::any::type_name::<P>());
        PortType {
            name: name.into(),
            payload: TypeId::of::<P>(),
            rows: rows.into(),
            copy: None,
            name_causes: None,
            must_connect: true,
        }
    }

    /// A port that rejected rows move through. The engine writes the name of the node that they come from into causes
    /// that name none.
    pub fn of_rejected<T: Send + 'static>(name: impl Into<Cow<'static, str>>) -> Self {
        PortType { name_causes: Some(AnyBatch::name_causes::<T>), ..PortType::of::<Vec<Rejected<T>>>(name) }
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

    /// How to write the name of a node into the causes of a batch of this port, if its rows are rejected ones.
    pub fn name_causes(&self) -> Option<fn(&mut AnyBatch, &str)> {
        self.name_causes
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
pub(crate) fn short_type_name(full: &str) -> String {
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
    name_causes: Option<NameCauses>,
    rows: PhantomData<fn() -> T>,
}

impl<T: Send + 'static> Side<Rejected<T>> {
    /// The side output `rejected` at `port`, for rows that are refused: the engine writes the node's name into their
    /// causes.
    pub fn rejected(port: usize) -> Self {
        let name_causes = PortType::of_rejected::<T>("").name_causes;
        Side { name_causes, ..Side::new(port, "rejected") }
    }
}

impl<T: Send + 'static> Side<T> {
    /// The side output at `port`: 1 for the first, as port 0 is the main output. For rejected rows use
    /// [`rejected`](Side::rejected).
    pub fn new(port: usize, name: impl Into<Cow<'static, str>>) -> Self {
        Side { port, name: name.into(), name_causes: None, rows: PhantomData }
    }

    /// Which port it is.
    pub fn port(&self) -> usize {
        self.port
    }

    /// For [`Operator::sides`](crate::Operator::sides).
    pub fn port_type(&self) -> PortType {
        PortType { name_causes: self.name_causes, ..PortType::of::<Vec<T>>(self.name.clone()) }
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
    fn a_port_of_rejected_rows_names_causes_that_name_no_node() {
        let causes = [crate::Cause::operator("why"), crate::Cause::operator("why").at_node("first")];
        let rows = causes.map(|cause| Rejected { row: 1u8, cause }).to_vec();
        let mut batch = crate::Batch::at(crate::Timestamp::MIN, rows).into();
        Side::<Rejected<u8>>::rejected(1).port_type().name_causes().unwrap()(&mut batch, "second");
        let nodes: Vec<_> =
            batch.rows::<Vec<Rejected<u8>>>().unwrap().iter().map(|row| row.cause.node.as_str()).collect();
        assert_eq!(nodes, ["second", "first"]);
        assert!(Side::<u8>::new(1, "late").port_type().name_causes().is_none());
    }

    #[test]
    fn rows_are_named_without_their_modules() {
        assert_eq!(short_type_name("alloc::vec::Vec<my::orders::Order>"), "Order");
        assert_eq!(short_type_name("alloc::vec::Vec<(u64, a::b::Rejected<bytes::Bytes>)>"), "(u64, Rejected<Bytes>)");
        assert_eq!(short_type_name("arrow_array::record_batch::RecordBatch"), "RecordBatch");
    }
}
