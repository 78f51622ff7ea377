//! [`Flow`]: a whole graph on the real engine, with memory for a checkpoint store.

use std::sync::Arc;

use millstream_operators::Result;
use millstream_pipelines::graph::Graph;
use tokio::task::JoinHandle;

use crate::checkpoint::{MemoryStore, Store};
use crate::engine::{Ended, Environment, Metrics, Stopper, Workers, run};

/// A graph that runs on the runtime of the test: with tokio's time paused, its clock is virtual.
#[derive(Debug)]
pub struct Flow {
    running: JoinHandle<Result<Ended>>,
    stopper: Stopper,
    metrics: Metrics,
    store: Arc<dyn Store>,
}

impl Flow {
    /// Starts a graph with nothing to go on from.
    ///
    /// # Errors
    /// A setup fault outside of a tokio runtime.
    pub fn start(graph: Graph) -> Result<Self> {
        Flow::start_with(graph, Arc::new(MemoryStore::default()), |environment| environment)
    }

    /// Starts a graph that keeps its checkpoints in `store`, in an environment that the test may add to.
    ///
    /// # Errors
    /// A setup fault outside of a tokio runtime.
    pub fn start_with(
        graph: Graph,
        store: Arc<dyn Store>,
        adapt: impl FnOnce(Environment) -> Environment,
    ) -> Result<Self> {
        let environment = adapt(Environment::new(Arc::clone(&store), Workers::here()?));
        let (stopper, metrics) = (environment.stopper.clone(), environment.metrics.clone());
        let workers = environment.workers.clone();
        let running = workers.spawn_run(async move { run(&graph, &environment).await });
        Ok(Flow { running, stopper, metrics, store })
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Its store, to start another flow on.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.running.is_finished()
    }

    /// Waits until its sources have ended, or it has failed.
    ///
    /// # Errors
    /// The fault that ended the run.
    pub async fn finish(self) -> Result<Ended> {
        match self.running.await {
            Ok(ended) => ended,
            Err(error) => Err(millstream_operators::Fault::bug("the run panicked").because(error)),
        }
    }

    /// Asks it to drain, and waits.
    ///
    /// # Errors
    /// The fault that ended the run.
    pub async fn drain(self) -> Result<Ended> {
        self.stopper.drain();
        self.finish().await
    }

    /// Ends it where it stands, as `kill -9` would; gives its store, for the next one to go on from.
    pub async fn crash(self) -> Arc<dyn Store> {
        self.stopper.now();
        let store = Arc::clone(&self.store);
        let _ = self.running.await;
        store
    }
}
