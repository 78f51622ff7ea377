//! [`Bug`]: mistakes that were made, or could be, to be planted in tests: a suite that does not catch them proves nothing.
//!
//! Without the feature `testkit` none can be planted, and asking costs nothing.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A sink says that everything is stored before it is confirmed.
    FlushUnconfirmed,
    /// A source's position is one message ahead of what it has given.
    PositionAhead,
    /// A source takes deliveries as they come: neither their numbers nor what they leave out are looked at.
    TrustDeliveries,
    /// A source believes what is told of its consumer, whoever has set it.
    TrustConsumer,
    /// A batch of outputs is stored whoever has written the marker before.
    NoFence,
    /// Outputs are published before the checkpoint that holds them is durable.
    PublishBeforeDurable,
    /// A batch whose outcome is not known is taken for stored.
    SwallowUnknown,
    /// What a checkpoint has of outputs is not published when a run goes on from it.
    SkipRestOfLog,
    /// All that a checkpoint has of outputs is published again when a run goes on from it.
    LogFromStart,
    /// A checkpoint does not wait for sinks.
    CommitWithoutSinks,
    /// A run goes on when another has taken over.
    IgnoreFence,
    /// Rows behind a barrier pass while it is waited for on other inputs.
    NoAlignment,
    /// Of the state of several subtasks, only that of the first is shared out.
    LoseSharesOfState,
    /// A run goes on from its checkpoint where positions are in the marker of its sink.
    ForgetMarker,
    /// A micro-batch has the positions of the one before.
    PositionsBefore,
    /// Outputs that are too many for one step are published without a checkpoint that has them.
    PublishWithoutLog,
    /// The watermark of several inputs is the greatest of theirs.
    GreatestWatermark,
    /// Rows may be no later than others.
    NoLateness,
    /// How far event time had come is forgotten over a restart.
    ForgetWatermark,
    /// A late row is given as late, and counts all the same.
    CountLateToo,
    /// Timers do not come back over a restart.
    LoseTimers,
    /// A row that has been paired is given once more as one without a partner when the run goes on from a checkpoint.
    ForgetPairs,
    /// A run that is asked to drain ends without a last checkpoint.
    DrainWithoutCheckpoint,
    /// An epoch that was given in a marker is given again.
    ReuseEpoch,
    /// What a checkpoint covers is acknowledged before the checkpoint is stored.
    AckBeforeDurable,
    /// A source goes on behind what its consumer has acknowledged.
    PositionFromFloor,
    /// A dead letter that its stream refuses counts as stored.
    DropDeadLetters,
    /// What is sent again is sent in another order.
    UnorderedRetry,
    /// A checkpoint is stored before the state that it names.
    ManifestFirst,
    /// A window that is over stays in the state.
    KeepWindows,
    /// Input that is gone before it was read is not missed.
    IgnoreGap,
    /// A stream that was deleted and created again counts as the same.
    IgnoreCreated,
    /// A row may be as far ahead of its message as it likes, and takes event time with it.
    AnyTimeAhead,
    /// An input is taken for idle the first time that it is looked at.
    IdleTooSoon,
    /// Late rows that windows allow for are refused.
    NoAllowance,
    /// Rows of a key go to one subtask and to another.
    SplitKeys,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 36] = [
        Bug::FlushUnconfirmed,
        Bug::PositionAhead,
        Bug::TrustDeliveries,
        Bug::TrustConsumer,
        Bug::NoFence,
        Bug::PublishBeforeDurable,
        Bug::SwallowUnknown,
        Bug::SkipRestOfLog,
        Bug::LogFromStart,
        Bug::CommitWithoutSinks,
        Bug::IgnoreFence,
        Bug::NoAlignment,
        Bug::LoseSharesOfState,
        Bug::ForgetMarker,
        Bug::PositionsBefore,
        Bug::PublishWithoutLog,
        Bug::GreatestWatermark,
        Bug::NoLateness,
        Bug::ForgetWatermark,
        Bug::CountLateToo,
        Bug::LoseTimers,
        Bug::ForgetPairs,
        Bug::DrainWithoutCheckpoint,
        Bug::ReuseEpoch,
        Bug::AckBeforeDurable,
        Bug::PositionFromFloor,
        Bug::DropDeadLetters,
        Bug::UnorderedRetry,
        Bug::ManifestFirst,
        Bug::KeepWindows,
        Bug::IgnoreGap,
        Bug::IgnoreCreated,
        Bug::AnyTimeAhead,
        Bug::IdleTooSoon,
        Bug::NoAllowance,
        Bug::SplitKeys,
    ];
}

#[cfg(feature = "testkit")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug for all that runs on this thread, or none.
#[cfg(feature = "testkit")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted.
#[cfg(feature = "testkit")]
#[inline]
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this bug is planted: none ever is.
#[cfg(not(feature = "testkit"))]
#[inline]
pub fn planted(_: Bug) -> bool {
    false
}
