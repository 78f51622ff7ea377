//! An operator of your own: it lets a reading pass only when it differs from the one before it, and keeps that as state.

use millstream::prelude::*;

/// Rows that differ from the row before them.
#[derive(Debug, Default)]
struct Changes {
    last: Option<i64>,
}

impl Operator for Changes {
    type In = Vec<i64>;
    type Out = Vec<i64>;

    fn on_batch(&mut self, mut batch: Batch<Vec<i64>>, out: &mut Outbox<'_, Vec<i64>>) -> Result<Turn> {
        batch.retain(|reading| self.last.replace(*reading) != Some(*reading));
        out.send(batch);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.value("last", &mut self.last)
    }
}

fn declare() -> Pipeline {
    let pipeline = Pipeline::new("changes");
    pipeline
        .source("readings", jetstream("READINGS").json::<i64>().ignore_rejected())
        .operator("changes", "changes", |_| Ok(Changes::default()))
        .sink("changed", jetstream_to("CHANGED").json().subject("changed").stop_on_rejected());
    pipeline
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    millstream::main(&declare()).await
}

#[cfg(test)]
mod tests {
    use millstream_operators::testkit::{cuts_do_not_matter, timed};

    use super::*;

    #[test]
    fn repeats_are_left_out_however_batches_are_cut() {
        assert_eq!(cuts_do_not_matter(Changes::default, &timed([1, 1, 2, 2, 1])), [1, 2, 1]);
    }
}
