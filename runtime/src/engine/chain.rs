//! [`Chain`]: the operators of a stage, one after the other, without a task or a channel between them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::{
    AnyBatch, Emit, Fault, FaultKind, Frozen, Result, Runs, Saved, Spill, StateVisitor, TimeKeeping, Timestamp, Turn,
    Watermark,
};
use millstream_pipelines::graph::DynOperator;

use super::leftover;
use super::metrics::NodeMetrics;

/// What an operator is asked to do, in the order of the stream.
#[derive(Debug)]
pub(crate) enum Item {
    Batch(usize, AnyBatch),
    Watermark(Watermark),
    Wake(Timestamp),
    End,
}

/// What comes out of a chain, in order.
#[derive(Debug)]
pub(crate) enum Output {
    /// A batch at a port of a link.
    Batch { link: usize, port: usize, batch: AnyBatch },
    /// A watermark that has passed all links.
    Watermark(Watermark),
    /// All links have ended.
    End,
}

/// A wake that a link asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wake {
    pub(crate) link: usize,
    pub(crate) after: Duration,
}

/// What a link is made of.
pub(crate) struct LinkSpec {
    pub(crate) node: Arc<str>,
    pub(crate) operator: Box<dyn DynOperator>,
    /// Of each node that the operator does the work of, in order.
    pub(crate) metrics: Vec<Arc<NodeMetrics>>,
}

/// One operator of a chain.
struct Link {
    spec: LinkSpec,
    queue: VecDeque<Item>,
    pending: Option<Pending>,
    // Rows into each node of a pass, as last seen.
    counted: Vec<u64>,
    // How far event time has come here.
    now: Timestamp,
}

enum Pending {
    /// `on_more` goes on with a batch.
    More,
    /// The same method is called again.
    Again(Item),
}

/// Operators in a row: an explicit machine rather than nested calls, so that one that asks to go on
/// ([`Turn::Again`]) holds what is behind it back, and the stage can drain in between.
#[derive(Default)]
pub(crate) struct Chain {
    // Where state goes that does not fit in memory.
    spill: Option<Arc<Spill>>,
    links: Vec<Link>,
    outputs: VecDeque<Output>,
    wakes: Vec<Wake>,
    rows_out: usize,
}

/// Rows that may wait to be drained before operators are told that there is no room.
const ROOM_ROWS: usize = 4 * 1024;

impl Chain {
    pub(crate) fn new(links: impl IntoIterator<Item = LinkSpec>) -> Self {
        let link =
            |spec| Link { spec, queue: VecDeque::new(), pending: None, counted: Vec::new(), now: Timestamp::MIN };
        let links = links.into_iter().map(link).collect();
        Chain { links, ..Chain::default() }
    }

    /// The same chain, whose state keeps to a budget.
    #[must_use]
    pub(crate) fn within(mut self, spill: Option<Arc<Spill>>) -> Self {
        self.spill = spill;
        self
    }

    /// Whether it has to wait for snapshots to be encoded, where it keeps to a budget.
    pub(crate) fn is_behind(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| spill.is_behind())
    }

    /// Puts something in front of link `link`.
    pub(crate) fn push(&mut self, link: usize, item: Item) {
        match self.links.get_mut(link) {
            Some(link) => link.queue.push_back(item),
            None => self.pass_out(item),
        }
    }

    /// Does one step of the last link that has work, so that nothing piles up between links; says whether there was
    /// any.
    pub(crate) fn step(&mut self) -> Result<bool> {
        let Some(at) = self.links.iter().rposition(|link| link.pending.is_some() || !link.queue.is_empty()) else {
            return Ok(false);
        };
        let (head, tail) = self.links.split_at_mut(at + 1);
        let Some(link) = head.last_mut() else { return Ok(false) };
        let pending = link.pending.take().or_else(|| link.queue.pop_front().map(Pending::Again));
        if let Some(Pending::Again(Item::Watermark(Watermark::At(now)))) = &pending {
            link.now = *now;
        }
        let LinkSpec { operator, node, metrics } = &mut link.spec;
        let mut emit = LinkOut {
            link: at,
            next: tail.first_mut(),
            outputs: &mut self.outputs,
            wakes: &mut self.wakes,
            rows_out: &mut self.rows_out,
            metrics: metrics.last(),
            now: link.now,
            spill: self.spill.as_deref(),
        };
        if let (Some(Pending::Again(Item::Batch(_, batch))), Some(first)) = (&pending, metrics.first()) {
            first.came_in(batch.len());
        }
        let called = catch_unwind(AssertUnwindSafe(|| match pending {
            Some(Pending::More) => operator.on_more(&mut emit).map(|turn| (turn, None)),
            Some(Pending::Again(Item::Batch(port, batch))) => {
                operator.on_batch(port, batch, &mut emit).map(|turn| (turn, None))
            }
            Some(Pending::Again(item)) => match &item {
                Item::Watermark(Watermark::At(now)) => operator.on_watermark(*now, &mut emit),
                Item::Wake(now) => operator.on_wake(*now, &mut emit),
                Item::End => operator.on_end(&mut emit),
                Item::Watermark(Watermark::Idle) => operator.on_idle(&mut emit),
                Item::Batch(..) => Ok(Turn::Done),
            }
            .map(|turn| (turn, Some(item))),
            None => Ok((Turn::Done, None)),
        }));
        let (turn, item) = match called {
            Ok(result) => result.map_err(|fault| fault.at(node))?,
            Err(panic) => return Err(panicked(panic.as_ref()).at(node)),
        };
        // Before anything that came of it leaves.
        if let Some(spill) = &self.spill {
            spill.check().map_err(|fault| fault.at(node))?;
        }
        link.count_pass();
        match (turn, item) {
            (Turn::Again, None) => link.pending = Some(Pending::More),
            (Turn::Again, Some(item)) => link.pending = Some(Pending::Again(item)),
            (Turn::Done, Some(Item::Wake(_)) | None) => {}
            (Turn::Done, Some(Item::Watermark(watermark))) => {
                if passes(link.spec.operator.time_keeping(), watermark) {
                    self.push(at + 1, Item::Watermark(watermark));
                }
            }
            (Turn::Done, Some(item)) => self.push(at + 1, item),
        }
        Ok(true)
    }

    fn pass_out(&mut self, item: Item) {
        match item {
            Item::Watermark(watermark) => self.outputs.push_back(Output::Watermark(watermark)),
            Item::End => self.outputs.push_back(Output::End),
            Item::Batch(port, batch) => self.outputs.push_back(Output::Batch { link: self.links.len(), port, batch }),
            Item::Wake(_) => {}
        }
    }

    /// The next thing that came out.
    pub(crate) fn next_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Batch { batch, .. }) = &output {
            self.rows_out = self.rows_out.saturating_sub(batch.len());
        }
        output
    }

    /// The wakes that were asked for since the last call.
    pub(crate) fn take_wakes(&mut self) -> Vec<Wake> {
        std::mem::take(&mut self.wakes)
    }

    /// The state of each link as it is now, by node.
    pub(crate) fn freeze(&mut self) -> Result<Vec<(Arc<str>, Frozen)>> {
        let mut all = Vec::new();
        for link in &mut self.links {
            let mut frozen = Frozen::default();
            let visit = &mut StateVisitor::freeze(&mut frozen);
            link.spec.operator.state(visit).map_err(|fault| fault.at(&link.spec.node))?;
            if !frozen.is_empty() {
                all.push((Arc::clone(&link.spec.node), frozen));
            }
        }
        Ok(all)
    }

    /// Restores the state of each link whose node `saved` knows.
    pub(crate) fn restore(&mut self, saved: impl Fn(&str) -> Result<Option<Saved>>) -> Result {
        for link in &mut self.links {
            if let Some(saved) = saved(&link.spec.node)? {
                link.spec
                    .operator
                    .state(&mut StateVisitor::restore(&saved))
                    .and_then(|()| leftover::check(&mut *link.spec.operator, &link.spec.node, saved.pieces()))
                    .map_err(|fault| fault.at(&link.spec.node))?;
            }
        }
        Ok(())
    }

    /// Restores the state of the link of a node, whose runs come one at a time.
    pub(crate) fn restore_within(
        &mut self,
        node: &str,
        small: &Saved,
        runs: &mut dyn Runs,
        spill: &Arc<Spill>,
    ) -> Result {
        for link in self.links.iter_mut().filter(|link| &*link.spec.node == node) {
            let names = runs.names();
            let visit = &mut StateVisitor::restore_within(small, runs, spill);
            let restored = link.spec.operator.state(visit).and_then(|()| spill.check());
            let pieces = small.pieces().chain(names.iter().map(String::as_str));
            let restored = restored.and_then(|()| leftover::check(&mut *link.spec.operator, node, pieces));
            restored.map_err(|fault| fault.at(node))?;
        }
        Ok(())
    }

    /// Lets state go that is more than fits in memory, while no link is in the middle of something. Gives the names of what
    /// stays in memory however much it is, by node.
    pub(crate) fn fit(&mut self) -> Result<Vec<(Arc<str>, Vec<String>)>> {
        let Some(spill) = &self.spill else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for link in &mut self.links {
            let mut stays = Vec::new();
            let fitted = link.spec.operator.state(&mut StateVisitor::fit(spill, &mut stays));
            fitted.and_then(|()| spill.check()).map_err(|fault| fault.at(&link.spec.node))?;
            if !stays.is_empty() {
                all.push((Arc::clone(&link.spec.node), stays));
            }
        }
        Ok(all)
    }

    /// How many links there are.
    pub(crate) fn len(&self) -> usize {
        self.links.len()
    }
}

impl Link {
    /// A pass counts rows by step itself, in plain numbers; once a batch they go to the nodes' metrics.
    fn count_pass(&mut self) {
        if self.spec.metrics.len() < 2 {
            return;
        }
        let counts = self.spec.operator.counts();
        self.counted.resize(counts.len(), 0);
        for (step, (now, before)) in counts.iter().zip(&mut self.counted).enumerate() {
            let rows = usize::try_from(now.saturating_sub(*before)).unwrap_or(usize::MAX);
            *before = *now;
            // What goes into a step came out of the one before it; the first was counted as it came in.
            if let (true, Some(node)) = (step > 0, self.spec.metrics.get(step)) {
                node.came_in(rows);
                if let Some(previous) = self.spec.metrics.get(step - 1) {
                    previous.went_out(0, rows);
                }
            }
        }
    }
}

/// Whether a watermark goes on behind an operator, which may tell others by itself.
fn passes(operator: TimeKeeping, watermark: Watermark) -> bool {
    match operator {
        TimeKeeping::Passes => true,
        // What delays time has nothing of its own to say about silence.
        TimeKeeping::Delays => watermark == Watermark::Idle,
        TimeKeeping::Makes => false,
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Fault {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Fault::new(FaultKind::Panic, format!("the operator panicked: {}", words.unwrap_or("without words")))
}

/// Where a link's output goes: into the next link's queue, or out of the chain.
struct LinkOut<'a> {
    link: usize,
    next: Option<&'a mut Link>,
    outputs: &'a mut VecDeque<Output>,
    wakes: &'a mut Vec<Wake>,
    rows_out: &'a mut usize,
    metrics: Option<&'a Arc<NodeMetrics>>,
    now: Timestamp,
    spill: Option<&'a Spill>,
}

impl Emit for LinkOut<'_> {
    fn emit(&mut self, port: usize, batch: AnyBatch) {
        if let Some(metrics) = self.metrics {
            metrics.went_out(port, batch.len());
            if port > 0 {
                metrics.notes_late(port, self.now, batch.times());
            }
        }
        match &mut self.next {
            Some(next) if port == 0 => next.queue.push_back(Item::Batch(0, batch)),
            _ => {
                *self.rows_out += batch.len();
                self.outputs.push_back(Output::Batch { link: self.link, port, batch });
            }
        }
    }

    fn watermark(&mut self, watermark: Watermark) {
        match &mut self.next {
            Some(next) => next.queue.push_back(Item::Watermark(watermark)),
            None => self.outputs.push_back(Output::Watermark(watermark)),
        }
    }

    fn has_room(&self) -> bool {
        let next_is_free = self.next.as_ref().is_none_or(|next| next.queue.len() < 2);
        // Whoever asks may also take out, key by key, what is in the spill store, and is to pause where others are to wait.
        next_is_free && *self.rows_out < ROOM_ROWS && self.spill.is_none_or(|spill| !spill.is_behind())
    }

    fn wake_after(&mut self, after: Duration) {
        self.wakes.push(Wake { link: self.link, after });
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::rows::Fold;
    use millstream_operators::{Batch, Operator, Outbox, Retry, Scan, SpillStore, SpillTable, SpillView};
    use millstream_pipelines::graph::erase;

    use super::*;

    /// Repeats each row, one batch a turn.
    struct Repeat(u32, Vec<u32>);

    impl Operator for Repeat {
        type In = Vec<u32>;
        type Out = Vec<u32>;
        fn on_batch(&mut self, batch: Batch<Vec<u32>>, _: &mut Outbox<'_, Vec<u32>>) -> Result<Turn> {
            self.1 = batch.rows().iter().flat_map(|row| vec![*row; self.0 as usize]).collect();
            Ok(Turn::Again)
        }
        fn on_more(&mut self, out: &mut Outbox<'_, Vec<u32>>) -> Result<Turn> {
            out.push(Timestamp::MIN, self.1.remove(0));
            Ok(if self.1.is_empty() { Turn::Done } else { Turn::Again })
        }
    }

    /// Fails on 13.
    struct Panics;

    impl Operator for Panics {
        type In = Vec<u32>;
        type Out = Vec<u32>;
        fn on_batch(&mut self, batch: Batch<Vec<u32>>, out: &mut Outbox<'_, Vec<u32>>) -> Result<Turn> {
            assert!(!batch.rows().contains(&13), "unlucky");
            out.send(batch);
            Ok(Turn::Done)
        }
    }

    fn link(name: &str, operator: impl Operator) -> LinkSpec {
        LinkSpec { node: name.into(), operator: erase(operator), metrics: vec![Arc::default()] }
    }

    fn batch(rows: &[u32]) -> Item {
        Item::Batch(0, Batch::at(Timestamp::MIN, rows.to_vec()).into())
    }

    fn run(chain: &mut Chain) -> Vec<String> {
        let mut got = Vec::new();
        loop {
            let worked = chain.step().unwrap();
            while let Some(output) = chain.next_output() {
                got.push(match output {
                    Output::Batch { batch, .. } => format!("{:?}", batch.rows::<Vec<u32>>().unwrap()),
                    Output::Watermark(_) => "watermark".into(),
                    Output::End => "end".into(),
                });
            }
            if !worked {
                return got;
            }
        }
    }

    #[test]
    fn what_comes_later_waits_for_an_operator_that_goes_on() {
        let mut chain = Chain::new(["twice", "again"].map(|name| link(name, Repeat(2, vec![]))));
        chain.push(0, batch(&[1, 2]));
        chain.push(0, Item::Watermark(Watermark::At(Timestamp::MIN)));
        chain.push(0, Item::End);
        let ones = vec!["[1]"; 4];
        let twos = vec!["[2]"; 4];
        assert_eq!(run(&mut chain), [ones, twos, vec!["watermark", "end"]].concat());
    }

    #[test]
    fn a_join_that_holds_time_back_passes_silence_on() {
        use millstream_operators::join::{IntervalJoin, Sided, within};
        let near = within(Duration::ZERO, Duration::ZERO).allowed_lateness(Duration::from_micros(10));
        let key = Sided::<u32, u32>::key_of(Arc::new(|row| *row), Arc::new(|row| *row));
        let mut chain = Chain::new([link("join", IntervalJoin::new(near, (true, true), key))]);
        let mut told = |watermark| {
            chain.push(0, Item::Watermark(watermark));
            while chain.step().unwrap() {}
            let outputs = std::iter::from_fn(|| chain.next_output());
            outputs.filter_map(|output| if let Output::Watermark(told) = output { Some(told) } else { None }).collect()
        };
        let at = |micros| Watermark::At(Timestamp::from_micros(micros));
        let all: Vec<Vec<Watermark>> = vec![told(at(30)), told(Watermark::Idle), told(at(40))];
        assert_eq!(all, [[at(20)], [Watermark::Idle], [at(30)]], "who reads it must not wait for a silent join");
    }

    /// Tables that take entries and give none back.
    #[derive(Debug)]
    struct Lossy;

    impl SpillStore for Lossy {
        fn table(&self) -> Result<Box<dyn SpillTable>> {
            Ok(Box::new(Lossy))
        }
    }

    impl SpillTable for Lossy {
        fn put(&mut self, _: Vec<(Vec<u8>, Vec<u8>)>) -> Result {
            Ok(())
        }
        fn remove(&mut self, _: Vec<u8>) -> Result {
            Ok(())
        }
        fn view(&self) -> Result<Box<dyn SpillView>> {
            Ok(Box::new(Lossy))
        }
    }

    impl SpillView for Lossy {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>> {
            Err(Fault::operator("the disk is gone"))
        }
        fn scan_while(&self, _: &[u8], _: &mut Scan<'_>) -> Result {
            Err(Fault::operator("the disk is gone"))
        }
    }

    #[test]
    fn an_error_of_the_spill_store_is_a_fault_before_anything_leaves_that_came_of_it() {
        let count = Fold::new(Arc::new(|key: &u32| *key), 0_u64, Arc::new(|count: &mut u64, _: u32| *count += 1));
        let spill = Arc::new(Spill::new(Arc::new(Lossy), 128, 0));
        let mut chain = Chain::new([link("count", count)]).within(Some(Arc::clone(&spill)));
        chain.fit().unwrap();
        chain.push(0, batch(&[1, 2]));
        assert!(chain.step().unwrap() && chain.next_output().is_some());
        chain.fit().unwrap();
        assert_eq!(spill.away(), 2);
        chain.push(0, batch(&[1]));
        let fault = chain.step().unwrap_err();
        assert_eq!((fault.kind(), fault.node(), fault.retry()), (FaultKind::Operator, Some("count"), Retry::Backoff));
        assert!(fault.chain().contains("the disk is gone"), "{fault}");
    }

    #[test]
    fn a_panic_is_a_fault_that_names_the_node() {
        let mut chain = Chain::new([link("fragile", Panics)]);
        chain.push(0, batch(&[13]));
        let fault = chain.step().unwrap_err();
        assert_eq!((fault.kind(), fault.node()), (FaultKind::Panic, Some("fragile")));
        assert!(fault.to_string().contains("unlucky"), "{fault}");
    }
}
