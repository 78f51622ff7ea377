//! [`Router`]: sends what leaves a subtask along the edges that it belongs on.

use std::sync::Arc;

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{AnyBatch, Fault, KeyGroup, Message, Result};
use millstream_pipelines::graph::Route;

use super::channel::Sender;

/// All edges out of one subtask.
#[derive(Debug, Default)]
pub(crate) struct Router {
    ports: Vec<Port>,
    key_groups: u32,
    // Scratch for key routes, kept to save an allocation a batch.
    groups: Vec<u32>,
}

/// How to write the name of a node into the causes of rejected rows that name none, and the node.
pub(crate) type NameCauses = (fn(&mut AnyBatch, &str), Arc<str>);

/// An output port of a link of the stage's chain, and who reads it.
#[derive(Debug)]
struct Port {
    link: usize,
    port: usize,
    copy: Option<fn(&AnyBatch) -> Option<AnyBatch>>,
    name_causes: Option<NameCauses>,
    lanes: Vec<Lane>,
}

/// One edge: the subtasks behind it, and how to choose among them.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) route: Route,
    pub(crate) senders: Vec<Sender>,
    pub(crate) turn: usize,
}

/// Why nothing more can be sent.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A task downstream is gone; its own fault says why.
    Downstream,
    /// The batch cannot be routed.
    Fault(Fault),
}

impl Router {
    pub(crate) fn new(key_groups: u32) -> Self {
        Router { ports: Vec::new(), key_groups, groups: Vec::new() }
    }

    /// Adds the edges of an output port.
    pub(crate) fn add(
        &mut self,
        link: usize,
        port: usize,
        copy: Option<fn(&AnyBatch) -> Option<AnyBatch>>,
        name_causes: Option<NameCauses>,
        lanes: Vec<Lane>,
    ) {
        self.ports.push(Port { link, port, copy, name_causes, lanes });
    }

    /// Sends a batch along every edge of an output port, when there is room. A port that nobody reads drops it.
    pub(crate) async fn send(&mut self, link: usize, port: usize, mut batch: AnyBatch) -> Result<(), Stopped> {
        let Some(port) = self.ports.iter_mut().find(|known| (known.link, known.port) == (link, port)) else {
            return Ok(());
        };
        if let Some((name_causes, node)) = &port.name_causes {
            name_causes(&mut batch, node);
        }
        let Some((last, rest)) = port.lanes.split_last_mut() else { return Ok(()) };
        for lane in rest {
            let copy = copied(port.copy, &batch)?;
            lane.send(copy, port.copy, self.key_groups, &mut self.groups).await?;
        }
        last.send(batch, port.copy, self.key_groups, &mut self.groups).await
    }

    /// Sends a control message along every edge.
    pub(crate) async fn control(&self, message: impl Fn() -> Message) -> Result<(), Stopped> {
        for sender in self.ports.iter().flat_map(|port| &port.lanes).flat_map(|lane| &lane.senders) {
            sender.send(message()).await.map_err(|_| Stopped::Downstream)?;
        }
        Ok(())
    }
}

impl Lane {
    async fn send(
        &mut self,
        batch: AnyBatch,
        copy: Option<fn(&AnyBatch) -> Option<AnyBatch>>,
        key_groups: u32,
        groups: &mut Vec<u32>,
    ) -> Result<(), Stopped> {
        match &self.route {
            Route::Hash(key_fn) if self.senders.len() > 1 => {
                let subtasks = u32::try_from(self.senders.len()).unwrap_or(u32::MAX);
                groups.clear();
                key_fn(&batch, key_groups, groups);
                if groups.len() != batch.len() {
                    let (keys, rows) = (groups.len(), batch.len());
                    return Err(Stopped::Fault(Fault::bug(format!("{keys} key groups for a batch of {rows} rows"))));
                }
                for group in groups.iter_mut() {
                    *group = KeyGroup(*group).owner(key_groups, subtasks);
                }
                if planted(Bug::SplitKeys) {
                    self.turn += 1;
                    groups
                        .iter_mut()
                        .for_each(|owner| *owner = (*owner + u32::from(self.turn.is_multiple_of(5))) % subtasks);
                }
                let parts = batch.scatter(groups, self.senders.len());
                for (sender, part) in self.senders.iter().zip(parts).filter(|(_, part)| !part.is_empty()) {
                    put(sender, part).await?;
                }
                Ok(())
            }
            Route::Broadcast => {
                let Some((last, rest)) = self.senders.split_last() else { return Ok(()) };
                for sender in rest {
                    put(sender, copied(copy, &batch)?).await?;
                }
                put(last, batch).await
            }
            _ => {
                let turn = self.turn % self.senders.len().max(1);
                self.turn = turn + 1;
                match self.senders.get(turn) {
                    Some(sender) => put(sender, batch).await,
                    None => Ok(()),
                }
            }
        }
    }
}

async fn put(sender: &Sender, batch: AnyBatch) -> Result<(), Stopped> {
    sender.send(Message::Data(batch)).await.map_err(|_| Stopped::Downstream)
}

fn copied(copy: Option<fn(&AnyBatch) -> Option<AnyBatch>>, batch: &AnyBatch) -> Result<AnyBatch, Stopped> {
    let copy = copy.and_then(|copy| copy(batch));
    copy.ok_or_else(|| Stopped::Fault(Fault::bug(format!("{batch:?} has several readers and cannot be copied"))))
}

#[cfg(test)]
mod tests {
    use millstream_operators::{Batch, Timestamp};

    use super::super::channel::Envelope;
    use super::super::channel::{Capacity, Receiver};
    use super::*;

    fn rows(rows: &[u32]) -> AnyBatch {
        Batch::at(Timestamp::MIN, rows.to_vec()).into()
    }

    async fn route(route: Route, batches: &[&[u32]]) -> Vec<Vec<Vec<u32>>> {
        let mut receivers: Vec<_> = (0..2).map(|_| Receiver::new()).collect();
        let senders =
            receivers.iter_mut().map(|receiver| receiver.connect(Capacity::new(100, 1 << 20)).unwrap()).collect();
        let mut router = Router::new(128);
        let copy = Some(AnyBatch::copied::<Vec<u32>> as fn(&AnyBatch) -> Option<AnyBatch>);
        router.add(0, 0, copy, None, vec![Lane { route, senders, turn: 0 }]);
        for batch in batches {
            router.send(0, 0, rows(batch)).await.unwrap();
        }
        drop(router);
        let mut got = Vec::new();
        for mut receiver in receivers {
            let mut mine = Vec::new();
            while let Some((_, envelope)) = receiver.recv().await {
                let Envelope::Data(batch, _) = envelope else { continue };
                mine.push(batch.rows::<Vec<u32>>().unwrap().clone());
            }
            got.push(mine);
        }
        got
    }

    #[tokio::test]
    async fn rebalance_takes_turns() {
        assert_eq!(route(Route::Rebalance, &[&[1], &[2], &[3]]).await, [vec![vec![1], vec![3]], vec![vec![2]]]);
    }

    #[tokio::test]
    async fn broadcast_reaches_all() {
        assert_eq!(route(Route::Broadcast, &[&[1, 2]]).await, [vec![vec![1, 2]], vec![vec![1, 2]]]);
    }

    #[tokio::test]
    async fn rows_of_a_key_group_go_to_its_owner_in_order() {
        let key_fn = |batch: &AnyBatch, _, out: &mut Vec<u32>| out.extend(batch.rows::<Vec<u32>>().unwrap());
        let got = route(Route::Hash(Arc::new(key_fn)), &[&[0, 127, 1, 64, 63]]).await;
        assert_eq!(got, [vec![vec![0, 1, 63]], vec![vec![127, 64]]]);
    }
}
