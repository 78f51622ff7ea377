//! [`OnRejected`]: what becomes of the rows that a node rejects.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use millstream_operators::Rejected;

use super::{IntoSink, Stream};
use crate::graph::InPort;

/// What becomes of the rows that a node rejects. It has to be said: leaving it open is a mistake of the pipeline.
#[derive(Clone, Debug)]
pub enum OnRejected {
    /// The first one stops the pipeline.
    Stop,
    /// They are counted and dropped.
    Drop,
    /// They go to this sink.
    To(Outlet),
}

impl OnRejected {
    /// Ends the rejected rows of the node `of` in the way that was chosen.
    pub(in crate::dsl) fn end(&self, rejected: Stream<Rejected<Bytes>>, of: &str) {
        // A part of a node has no parts of its own.
        let of = format!("{}/rejected", of.split('/').next().unwrap_or_default());
        match (self, rejected.pipeline().node_named(&of)) {
            (OnRejected::To(outlet), _) => outlet.take(rejected),
            // Several parts of a node may reject rows, which end in one place.
            (_, Some(node)) => rejected.enter(InPort { node, port: 0 }),
            (OnRejected::Stop, None) => rejected.stop(&of),
            (OnRejected::Drop, None) => rejected.discard(&of),
        }
    }
}

/// A sink of rejected rows that any number of nodes may send to. Clones are the same sink.
///
/// It becomes a part of the pipeline with the first node that can reject rows; before that it is no more than a name.
#[derive(Clone)]
pub struct Outlet {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
}

type Wire = Box<dyn FnOnce(Stream<Rejected<Bytes>>, &str) + Send>;

enum State {
    Unused(Wire),
    Entered(InPort),
    // Its sink took a stream and connected it to nothing.
    Broken,
}

impl Outlet {
    /// A sink that will be called `name`.
    pub fn new(name: &str, sink: impl IntoSink<Rejected<Bytes>> + Send + 'static) -> Self {
        let wire: Wire = Box::new(move |rejected, name| rejected.sink(name, sink));
        Outlet { name: name.into(), state: Arc::new(Mutex::new(State::Unused(wire))) }
    }

    /// The name of its node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a node sends to it.
    pub fn is_used(&self) -> bool {
        !matches!(*self.state.lock().unwrap_or_else(PoisonError::into_inner), State::Unused(_))
    }

    fn take(&self, rejected: Stream<Rejected<Bytes>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match std::mem::replace(&mut *state, State::Broken) {
            State::Unused(wire) => {
                let (pipeline, port) = (rejected.pipeline().clone(), rejected.port());
                wire(rejected, &self.name);
                pipeline.first_reader(port).map_or(State::Broken, State::Entered)
            }
            State::Entered(entrance) => {
                rejected.pipeline().connect(rejected.port(), entrance, crate::graph::Route::Forward);
                State::Entered(entrance)
            }
            State::Broken => State::Broken,
        };
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outlet({})", self.name)
    }
}
