//! Bugs that the simulator switches on to prove that it would see them. Without the feature `planted-bugs` nothing of this
//! is left in the program: every question is answered `false` by the compiler.

/// A mistake that one of the promises forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    expect(dead_code, unreachable_pub, reason = "only the simulator names them all")
)]
pub enum Bug {
    /// The intake forgets a key as soon as its batch is durable, and does not ask doors to look again.
    KeyForgotten,
    /// The intake takes an idempotency key with another body for the same request.
    DigestIgnored,
    /// The watermark does not wait for messages that were committed but not yet handed to their shards.
    WatermarkAhead,
    /// Records are lost with a batch that failed.
    RecordsDropped,
    /// A wait that its attempt overtook within a batch is written all the same.
    WaitOutlivesAttempt,
    /// Two messages of one batch get the same bytes.
    PayloadMixed,
    /// A row is taken from a lease although its outcome became durable meanwhile.
    StaleLease,
    /// A row is taken from a lease although the delivery is already in the engine's hands.
    LeasedTwice,
    /// What waits is forgotten when a lease finds nothing that is due.
    RoomForgotten,
    /// A FIFO lane goes on while its head waits for a retry.
    FifoOvertakes,
    /// A FIFO lane takes fresh messages although older ones are in the waiting room.
    FifoFreshFirst,
    /// A disabled endpoint still gets what is queued.
    DisabledIgnored,
    /// What is being cancelled is still sent from the queue.
    CancelIgnored,
    /// A deleted endpoint still gets what is queued.
    DeletedIgnored,
    /// The throttle allows twice its rate in a burst.
    ThrottleDoubled,
    /// The lane that came last is served first, to the end, whatever others wait for.
    UnfairPick,
    /// A slow lane may take every slot.
    SlowTakesAll,
    /// The queue of a lane has no bound.
    LaneUnbounded,
    /// Fresh deliveries are never settled, so the watermark stands still.
    NeverSettled,
    /// Unfinished deliveries that recovery found are not taken up.
    RecoverySkipped,
    /// A step asks to be woken at once, for ever.
    BusyLoop,
    /// A manual attempt that fails is retried by the schedule for ever.
    ManualRetried,
    /// A due time is taken from the wall clock.
    WallClockDue,
    /// A slot is not freed when a success ends.
    SlotLeaked,
    /// What rests has no bound.
    RestUnbounded,
    /// What rested is counted for ever.
    RestLeaked,
    /// A notice is given before its record is durable, and the record is dropped.
    ExhaustedForgotten,
    /// What is told of attempts is lost with a batch that failed.
    OperationalLost,
    /// The key of the window before is not looked at among what is on its way.
    EarlierIgnored,
    /// A request that is refused leaves its key behind.
    RefusedLeavesKey,
    /// How far a source has got is in another batch than what it brought.
    CursorApart,
}

#[cfg(feature = "planted-bugs")]
impl Bug {
    /// All of them.
    pub const ALL: [Bug; 31] = [
        Bug::KeyForgotten,
        Bug::DigestIgnored,
        Bug::WatermarkAhead,
        Bug::RecordsDropped,
        Bug::WaitOutlivesAttempt,
        Bug::PayloadMixed,
        Bug::StaleLease,
        Bug::LeasedTwice,
        Bug::RoomForgotten,
        Bug::FifoOvertakes,
        Bug::FifoFreshFirst,
        Bug::DisabledIgnored,
        Bug::CancelIgnored,
        Bug::DeletedIgnored,
        Bug::ThrottleDoubled,
        Bug::UnfairPick,
        Bug::SlowTakesAll,
        Bug::LaneUnbounded,
        Bug::NeverSettled,
        Bug::RecoverySkipped,
        Bug::BusyLoop,
        Bug::ManualRetried,
        Bug::WallClockDue,
        Bug::SlotLeaked,
        Bug::RestUnbounded,
        Bug::RestLeaked,
        Bug::ExhaustedForgotten,
        Bug::OperationalLost,
        Bug::EarlierIgnored,
        Bug::RefusedLeavesKey,
        Bug::CursorApart,
    ];
}

/// Which bug is planted, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "planted-bugs")]
    pub(crate) bug: Option<Bug>,
}

impl Planted {
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) const fn has(self, _: Bug) -> bool {
        false
    }
}
