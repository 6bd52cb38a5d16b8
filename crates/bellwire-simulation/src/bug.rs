//! Planted bugs by name, wherever they live.

use crate::store::StoreBug;
use bellwire_engine::Bug;

/// Mistakes of the one who carries out effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PumpBug {
    /// A door is answered when its batch is sealed, not when it is durable.
    AckBeforeDurable,
    /// A change of configuration is answered before the engines know of it.
    ChangeAnsweredEarly,
    /// A key is refused as taken by a message that is not durable yet.
    RefusedEarly,
    /// The payload is taken from the store as text: what is not UTF-8 is replaced.
    PayloadAsText,
    /// Who has which delivery of a pipe is forgotten from time to time.
    LeasesForgotten,
    /// A reader is told that its acknowledgement is durable before it is.
    AcknowledgedEarly,
    /// A reader's place is committed one message too far.
    PlaceAhead,
    /// A source goes on behind a page that was not kept.
    PageForgotten,
}

/// A bug to be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// In the engine or the intake.
    Engine(Bug),
    /// In the store.
    Store(StoreBug),
    /// In the wiring.
    Pump(PumpBug),
}

impl Planted {
    /// All of them.
    pub fn all() -> Vec<Planted> {
        let pump = [
            PumpBug::AckBeforeDurable,
            PumpBug::ChangeAnsweredEarly,
            PumpBug::RefusedEarly,
            PumpBug::PayloadAsText,
            PumpBug::LeasesForgotten,
            PumpBug::AcknowledgedEarly,
            PumpBug::PlaceAhead,
            PumpBug::PageForgotten,
        ];
        let engine = Bug::ALL.into_iter().map(Planted::Engine);
        engine.chain(StoreBug::ALL.into_iter().map(Planted::Store)).chain(pump.into_iter().map(Planted::Pump)).collect()
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        match self {
            Planted::Engine(bug) => format!("{bug:?}"),
            Planted::Store(bug) => format!("{bug:?}"),
            Planted::Pump(bug) => format!("{bug:?}"),
        }
    }

    /// By name, whatever its case.
    pub fn parse(name: &str) -> Option<Planted> {
        Planted::all().into_iter().find(|bug| bug.name().eq_ignore_ascii_case(name))
    }

    pub(crate) fn in_engine(self) -> Option<Bug> {
        if let Planted::Engine(bug) = self { Some(bug) } else { None }
    }

    pub(crate) fn in_store(self) -> Option<StoreBug> {
        if let Planted::Store(bug) = self { Some(bug) } else { None }
    }
}
