//! Changes to the index that are in memory and not in the store yet: the newest seconds.
//!
//! A message's entries change a dozen times within its first second and then never again. Kept here meanwhile, an entry that came
//! and went is never written at all. Everything in here can be made again from the segments.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Bound;
use std::sync::Arc;

/// What a map costs for each of its entries beside key and value, in bytes, about.
const ENTRY_BYTES: usize = 96;

/// What becomes of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Its value; none when it is taken away.
    pub(super) value: Option<Vec<u8>>,
    /// Nothing below has the key: taken away again, it leaves no trace.
    pub(super) fresh: bool,
}

/// A key and what becomes of it; none: taken away.
pub(super) type Changed = (Vec<u8>, Option<Vec<u8>>);

/// Changes in the order of their keys, each key once.
#[derive(Debug, Default)]
pub(super) struct Changes {
    map: BTreeMap<Vec<u8>, Change>,
    bytes: usize,
}

impl Changes {
    /// Puts a later change over what is there.
    pub(super) fn add(&mut self, key: Vec<u8>, change: Change) {
        let size = |key: &[u8], value: &Option<Vec<u8>>| ENTRY_BYTES + key.len() + value.as_ref().map_or(0, Vec::len);
        match self.map.entry(key) {
            Slot::Vacant(slot) => {
                self.bytes += size(slot.key(), &change.value);
                slot.insert(change);
            }
            Slot::Occupied(mut slot) => {
                self.bytes -= size(slot.key(), &slot.get().value);
                if change.value.is_none() && slot.get().fresh {
                    slot.remove();
                    return;
                }
                slot.get_mut().value = change.value;
                self.bytes += size(slot.key(), &slot.get().value);
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Option<Vec<u8>>)> {
        self.map.iter().map(|(key, change)| (key, &change.value))
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Memory that they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn get(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.map.get(key).map(|change| &change.value)
    }
}

/// The changes of the last moments, in two generations.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) young: Changes,
    /// Being written to the store. Still looked into: the store has only a part of them.
    pub(super) old: Option<Arc<Changes>>,
}

impl Recent {
    /// The newest word on a key: its value, or none where it was taken away. Nothing when the store knows best.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.young.get(key).or_else(|| self.old.as_ref()?.get(key)).cloned()
    }

    /// Whether a key of the store is no longer there.
    pub(super) fn is_removed(&self, key: &[u8]) -> bool {
        matches!(self.young.get(key).or_else(|| self.old.as_ref()?.get(key)), Some(None))
    }

    /// The changes from `prefix + from` on, in order, up to `limit` keys that have a value.
    pub(super) fn range(&self, prefix: &[u8], from: &[u8], limit: usize) -> Vec<Changed> {
        let start = [prefix, from].concat();
        let bounds = (Bound::Included(start.as_slice()), Bound::Unbounded);
        let inside = |(key, _): &(&Vec<u8>, &Change)| key.starts_with(prefix);
        let mut young = self.young.map.range::<[u8], _>(bounds).take_while(inside).peekable();
        let none = Changes::default();
        let old = self.old.as_deref().unwrap_or(&none);
        let mut old = old.map.range::<[u8], _>(bounds).take_while(inside).peekable();
        let (mut found, mut values) = (Vec::new(), 0);
        while values < limit {
            let next = match (young.peek(), old.peek()) {
                (None, None) => break,
                (Some(_), None) => young.next(),
                (None, Some(_)) => old.next(),
                (Some((newer, _)), Some((older, _))) if newer <= older => {
                    if newer == older {
                        old.next();
                    }
                    young.next()
                }
                (Some(_), Some(_)) => old.next(),
            };
            let Some((key, change)) = next else { break };
            values += usize::from(change.value.is_some());
            found.push((key.clone(), change.value.clone()));
        }
        found
    }

    /// The greatest key from `prefix` to `end` that has a value here.
    pub(super) fn last(&self, prefix: &[u8], end: &[u8]) -> Option<Vec<u8>> {
        let bounds = (Bound::Included(prefix), Bound::Included(end));
        let has_value = |(_, change): &(&Vec<u8>, &Change)| change.value.is_some();
        let young = self.young.map.range::<[u8], _>(bounds).rev().find(has_value);
        let old = self.old.as_ref().and_then(|old| {
            let stands = |entry: &(&Vec<u8>, &Change)| has_value(entry) && self.young.get(entry.0) != Some(&None);
            old.map.range::<[u8], _>(bounds).rev().find(stands)
        });
        young.into_iter().chain(old).map(|(key, _)| key).max().cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Put(u8, u8),
        Remove(u8),
        Freeze,
        Settle,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0..20u8, any::<u8>()).prop_map(|(key, value)| Act::Put(key, value)),
            4 => (0..20u8).prop_map(Act::Remove),
            1 => Just(Act::Freeze),
            1 => Just(Act::Settle),
        ]
    }

    /// Overlay and store together, beside one plain map.
    #[derive(Default)]
    struct Both {
        recent: Recent,
        store: BTreeMap<Vec<u8>, Vec<u8>>,
        plain: BTreeMap<Vec<u8>, Vec<u8>>,
    }

    impl Both {
        fn act(&mut self, act: Act) {
            match act {
                Act::Put(key, value) => {
                    let (key, value) = (vec![b'p', key], vec![value]);
                    let fresh = !self.plain.contains_key(&key);
                    self.recent.young.add(key.clone(), Change { value: Some(value.clone()), fresh });
                    self.plain.insert(key, value);
                }
                Act::Remove(key) => {
                    let key = vec![b'p', key];
                    self.recent.young.add(key.clone(), Change { value: None, fresh: false });
                    self.plain.remove(&key);
                }
                Act::Freeze if self.recent.old.is_none() => {
                    self.recent.old = Some(Arc::new(std::mem::take(&mut self.recent.young)));
                }
                Act::Settle => {
                    for (key, value) in self.recent.old.take().iter().flat_map(|old| old.iter()) {
                        match value {
                            Some(value) => self.store.insert(key.clone(), value.clone()),
                            None => self.store.remove(key),
                        };
                    }
                }
                Act::Freeze => {}
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(acts in proptest::collection::vec(act(), 0..80), limit in 1..8usize, end in 0..20u8) {
            let mut both = Both::default();
            for act in acts {
                both.act(act);
                for key in 0..20u8 {
                    let key = vec![b'p', key];
                    let found = both.recent.get(&key).unwrap_or_else(|| both.store.get(&key).cloned());
                    prop_assert_eq!(&found, &both.plain.get(&key).cloned());
                    prop_assert_eq!(both.recent.is_removed(&key), both.recent.get(&key) == Some(None));
                }
                let memory = both.recent.range(b"p", &[end], limit);
                let merged = super::super::index::merge(memory, both.store.range(vec![b'p', end]..).map(|(k, v)| Ok((k.clone(), v.clone()))), limit).expect("no store fails");
                let expected: Vec<_> = both.plain.range(vec![b'p', end]..).take(limit).map(|(k, v)| (k.clone(), v.clone())).collect();
                prop_assert_eq!(merged, expected);
                let memory = both.recent.last(b"p", &[b'p', end]);
                let store = both.store.range(..=vec![b'p', end]).rev().map(|(key, _)| key).find(|key| !both.recent.is_removed(key)).cloned();
                prop_assert_eq!(memory.max(store), both.plain.range(..=vec![b'p', end]).next_back().map(|(key, _)| key.clone()));
            }
            prop_assert_eq!(both.recent.young.bytes() == 0, both.recent.young.len() == 0);
        }
    }

    #[test]
    fn what_came_and_went_leaves_no_trace() {
        let mut changes = Changes::default();
        changes.add(b"a".to_vec(), Change { value: Some(vec![1]), fresh: true });
        changes.add(b"b".to_vec(), Change { value: Some(vec![1]), fresh: false });
        for key in [b"a", b"b", b"c"] {
            changes.add(key.to_vec(), Change { value: None, fresh: false });
        }
        let left: Vec<_> = changes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(left, [(b"b".to_vec(), None), (b"c".to_vec(), None)], "the store may have these");
    }
}
