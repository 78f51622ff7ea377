//! [`FileSettings`]: what a pipeline file says of the pipeline as a whole.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::graph::{Guarantee, Settings};
use crate::registry::{RejectedWord, Size, Span};

/// The keys at the top of the file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct FileSettings {
    /// The pipeline's name: its checkpoints and consumers are found again by it.
    pub(crate) name: String,
    /// What it is for, for people.
    #[serde(default)]
    #[expect(dead_code, reason = "it is for those who read the file")]
    description: Option<String>,
    /// What is promised about messages when something fails; at-least-once if not given.
    #[serde(default)]
    guarantee: Option<GuaranteeWord>,
    /// Accepts, in words, that connectors without memory lose messages.
    #[serde(default)]
    accept_loss: bool,
    /// How many instances a step has where rows are shared out by key or in turn (`key_by`, `rebalance`), and those behind it,
    /// unless they say otherwise; 1 if not given. Steps before that keep the order of their source, and have one.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    parallelism: Option<u32>,
    /// How many key groups keyed rows are shared out in; fixed for the life of the pipeline; 128 if not given.
    #[serde(default)]
    #[schemars(range(min = 1, max = 32768))]
    key_groups: Option<u32>,
    /// What becomes of rejected rows where a node does not say.
    #[serde(default)]
    pub(crate) on_error: Option<RejectedWord>,
    /// Checkpoints.
    #[serde(default)]
    checkpoint: CheckpointKeys,
    /// What nodes keep.
    #[serde(default)]
    state: StateKeys,
    /// Batches of rows.
    #[serde(default)]
    batch: BatchKeys,
    /// What may wait between two steps.
    #[serde(default)]
    queue: QueueKeys,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::enum_variant_names, reason = "they are the field's words")]
enum GuaranteeWord {
    /// Messages may be lost.
    AtMostOnce,
    /// Every message is in the output, perhaps more than once.
    AtLeastOnce,
    /// What comes of every message is in the output once, about a checkpoint interval later.
    EffectivelyOnce,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct CheckpointKeys {
    /// Time between checkpoints; 1s if not given.
    interval: Option<Span>,
    /// How long one may take before it is given up; 1m if not given.
    timeout: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct StateKeys {
    /// The memory that state may use, such as 256MiB; what does not fit goes to a local directory. All state is in memory if not
    /// given, and that of steps over columns in any case.
    memory: Option<Size>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct BatchKeys {
    /// Rows of a batch at a source, at most; 1024 if not given.
    #[schemars(range(min = 1, max = 1_000_000))]
    rows: Option<usize>,
    /// How long a source waits for a batch to fill.
    linger: Option<Span>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct QueueKeys {
    /// Rows that may wait; 8192 if not given.
    #[schemars(range(min = 1))]
    rows: Option<usize>,
    /// Bytes that may wait; 8MiB if not given.
    bytes: Option<Size>,
}

impl FileSettings {
    /// Changes what the file gives; the rest stays as it is.
    pub(crate) fn apply(&self, settings: &mut Settings) {
        fn set<T>(to: &mut T, from: Option<T>) {
            if let Some(from) = from {
                *to = from;
            }
        }
        let guarantee = self.guarantee.map(|word| match word {
            GuaranteeWord::AtMostOnce => Guarantee::AtMostOnce,
            GuaranteeWord::AtLeastOnce => Guarantee::AtLeastOnce,
            GuaranteeWord::EffectivelyOnce => Guarantee::EffectivelyOnce,
        });
        set(&mut settings.guarantee, guarantee);
        settings.accept_loss = self.accept_loss;
        set(&mut settings.parallelism, self.parallelism);
        set(&mut settings.key_groups, self.key_groups);
        set(&mut settings.checkpoint_interval, self.checkpoint.interval.map(|span| span.0));
        set(&mut settings.checkpoint_timeout, self.checkpoint.timeout.map(|span| span.0));
        settings.state_memory = self.state.memory.map(|size| size.0).or(settings.state_memory);
        set(&mut settings.batch_rows, self.batch.rows);
        set(&mut settings.linger, self.batch.linger.map(|span| span.0));
        set(&mut settings.channel_rows, self.queue.rows);
        set(&mut settings.channel_bytes, self.queue.bytes.map(|size| size.0));
    }
}
