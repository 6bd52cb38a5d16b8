//! How far a topic was read: what is kept of a source, in the commit of what it read.

use super::layout::Layout;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) cluster: Option<String>,
    pub(super) topic: String,
    /// The topic's own.
    pub(super) id: Option<String>,
    /// For each partition the offset to go on with; none if its beginning is not known yet.
    pub(super) next: Vec<Option<i64>>,
    /// For each partition, under which leader's epoch the last record was written that was taken, if that is known: by this a log is known
    /// that has lost its end, and has another one now.
    #[serde(default)]
    pub(super) epochs: Vec<Option<i32>>,
}

impl Position {
    /// Nothing of this topic is read yet.
    pub(super) fn begin(topic: &str, layout: &Layout) -> Position {
        let (cluster, id) = (layout.cluster.clone(), layout.id.clone());
        let none = Position { cluster, topic: topic.to_owned(), id, next: Vec::new(), epochs: Vec::new() };
        none.grown(layout)
    }

    /// Where to go on in a topic as it is now, if this is of it at all. A topic that was made anew is new from its beginning.
    pub(super) fn carried(self, topic: &str, layout: &Layout) -> Option<Position> {
        if self.topic != topic || (self.cluster.is_some() && layout.cluster.is_some() && self.cluster != layout.cluster)
        {
            return None;
        }
        let begin = Position::begin(topic, layout);
        if self.is_of_other(layout) {
            return Some(begin);
        }
        Some(Position { cluster: begin.cluster, id: begin.id, ..self.grown(layout) })
    }

    /// The topic was made anew.
    pub(super) fn is_of_other(&self, layout: &Layout) -> bool {
        self.id.is_some() && layout.id.is_some() && self.id != layout.id
    }

    /// With room for partitions that were added. A broker that has just begun may not know of all yet; topics do not lose any.
    pub(super) fn grown(mut self, layout: &Layout) -> Position {
        self.next.resize(layout.leaders.len().max(self.next.len()), None);
        self.epochs.resize(self.next.len(), None);
        self
    }

    pub(super) fn next(&self, place: usize) -> Option<i64> {
        self.next.get(place).copied().flatten()
    }

    pub(super) fn epoch(&self, place: usize) -> Option<i32> {
        self.epochs.get(place).copied().flatten()
    }

    pub(super) fn go_on(&mut self, place: usize, next: i64, epoch: Option<i32>) {
        if let (Some(own_next), Some(own_epoch)) = (self.next.get_mut(place), self.epochs.get_mut(place)) {
            (*own_next, *own_epoch) = (Some(next), epoch.filter(|epoch| *epoch >= 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_carried_on_in_the_same_topic_only() {
        let position = |cluster: &str, id: Option<&str>, next: &[Option<i64>], epochs: &[Option<i32>]| Position {
            cluster: Some(cluster.to_owned()),
            topic: "orders".to_owned(),
            id: id.map(str::to_owned),
            next: next.to_vec(),
            epochs: epochs.to_vec(),
        };
        let two = |cluster: &str, id| position(cluster, id, &[Some(7), None], &[Some(4), None]);
        let layout = Layout {
            cluster: Some("c".to_owned()),
            id: Some("i".to_owned()),
            leaders: vec![Some(1); 3],
            ..Layout::default()
        };
        let three = position("c", Some("i"), &[Some(7), None, None], &[Some(4), None, None]);
        let four = position("c", Some("i"), &[Some(7), None, Some(9), Some(3)], &[Some(4), None, Some(4), Some(4)]);
        for (position, topic, expected) in [
            (two("c", Some("i")), "orders", Some(three.clone())),
            (two("c", None), "orders", Some(three)),
            // Asked was who does not know of all partitions yet.
            (four.clone(), "orders", Some(four)),
            // Made anew: all of it is new.
            (two("c", Some("j")), "orders", Some(position("c", Some("i"), &[None; 3], &[None; 3]))),
            (two("d", Some("i")), "orders", None),
            (two("c", Some("i")), "payments", None),
        ] {
            assert_eq!(position.clone().carried(topic, &layout), expected, "{position:?} {topic}");
            let text = serde_json::to_string(&position).expect("is written");
            assert_eq!(serde_json::from_str::<Position>(&text).expect("is read"), position);
        }
        // As it was written when epochs were not kept.
        let old = r#"{"cluster":"c","topic":"orders","id":"i","next":[7,null]}"#;
        let old = serde_json::from_str::<Position>(old).expect("is read").carried("orders", &layout).expect("is of it");
        assert_eq!((old.next, old.epochs), (vec![Some(7), None, None], vec![None; 3]));
        // What another kind of queue has left behind is none.
        assert!(serde_json::from_str::<Position>(r#"{"last":"events 7"}"#).is_err());
    }
}
