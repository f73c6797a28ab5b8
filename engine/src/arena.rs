//! Slots that are used again, under keys that are not.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

/// Names one entry of an arena for ever: a key whose entry is gone finds nothing, even after
/// its place has been taken by another.
pub struct Key<T> {
    index: u32,
    generation: NonZeroU32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// A small number that no other entry has at the same time: an index for the driver's own
    /// tables. It is given to another entry after this one has gone.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Owns all values of one kind, under keys of the kind `K`.
#[derive(Debug)]
pub(crate) struct Arena<K, T> {
    slots: Vec<Slot<T>>,
    /// The slot for the next value; there is none yet if that is behind the last one.
    free: usize,
    len: usize,
    generation: NonZeroU32,
    keys: PhantomData<fn() -> K>,
}

#[derive(Debug)]
enum Slot<T> {
    /// For a value, and where that behind it goes.
    Free(usize),
    Taken(NonZeroU32, T),
}

impl<K, T> Arena<K, T> {
    pub(crate) fn new() -> Self {
        let generation = NonZeroU32::MIN;
        Self { slots: Vec::new(), free: 0, len: 0, generation, keys: PhantomData }
    }

    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> Key<K> {
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.len += 1;
        let mut index = self.free;
        if let Some(slot @ &mut Slot::Free(next)) = self.slots.get_mut(index) {
            *slot = Slot::Taken(generation, value);
            self.free = next;
        } else {
            index = self.slots.len();
            self.slots.push(Slot::Taken(generation, value));
            self.free = self.slots.len();
        }
        // Four billion entries do not fit in memory.
        Key { index: index as u32, generation, of: PhantomData }
    }

    pub(crate) fn remove(&mut self, key: Key<K>) -> Option<T> {
        let slot = self.slots.get_mut(key.index()).filter(|slot| slot.is_of(key.generation))?;
        let Slot::Taken(_, value) = std::mem::replace(slot, Slot::Free(self.free)) else {
            return None;
        };
        self.free = key.index();
        self.len -= 1;
        Some(value)
    }

    /// The same for a value that nobody wants: it ends where it lies.
    #[inline]
    pub(crate) fn discard(&mut self, key: Key<K>) {
        let slot = self.slots.get_mut(key.index());
        if let Some(slot) = slot.filter(|slot| slot.is_of(key.generation)) {
            *slot = Slot::Free(self.free);
            self.free = key.index();
            self.len -= 1;
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: Key<K>) -> Option<&T> {
        match self.slots.get(key.index()) {
            Some(Slot::Taken(generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key<K>) -> Option<&mut T> {
        match self.slots.get_mut(key.index()) {
            Some(Slot::Taken(generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key<K>, &mut T)> {
        (0..).zip(&mut self.slots).filter_map(|(index, slot)| match slot {
            Slot::Taken(generation, value) => {
                Some((Key { index, generation: *generation, of: PhantomData }, value))
            }
            Slot::Free(_) => None,
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<K>, &T)> {
        (0..).zip(&self.slots).filter_map(|(index, slot)| match slot {
            Slot::Taken(generation, value) => {
                Some((Key { index, generation: *generation, of: PhantomData }, value))
            }
            Slot::Free(_) => None,
        })
    }
}

impl<T> Slot<T> {
    #[inline]
    fn is_of(&self, key: NonZeroU32) -> bool {
        matches!(self, Self::Taken(generation, _) if *generation == key)
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}

impl<T> Eq for Key<T> {}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.index, self.generation).cmp(&(other.index, other.generation))
    }
}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> std::hash::Hash for Key<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.index, self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_entry_is_gone_finds_nothing_in_its_place() {
        let mut arena: Arena<(), char> = Arena::new();
        let first = arena.insert('a');
        assert_eq!(arena.remove(first), Some('a'));
        let second = arena.insert('b');
        assert_eq!(first.index, second.index);
        assert_eq!(arena.get(first), None);
        assert_eq!(arena.remove(first), None);
        arena.discard(first);
        assert_eq!(arena.get(second), Some(&'b'));
    }

    #[test]
    fn places_are_used_again_before_there_are_more() {
        let mut arena: Arena<(), usize> = Arena::new();
        let keys: Vec<_> = (0..4).map(|value| arena.insert(value)).collect();
        arena.discard(keys[2]);
        assert_eq!(arena.remove(keys[0]), Some(0));
        assert_eq!(arena.len(), 2);
        let places: Vec<_> = (4..7).map(|value| arena.insert(value).index).collect();
        assert_eq!(places, [0, 2, 4]);
        let values: Vec<_> = arena.iter().map(|(key, value)| (key.index, *value)).collect();
        assert_eq!(values, [(0, 4), (1, 1), (2, 5), (3, 3), (4, 6)]);
        arena.iter_mut().for_each(|(_, value)| *value += 10);
        assert!(arena.iter().all(|(key, value)| arena.get(key) == Some(value) && *value >= 10));
    }

    #[test]
    fn what_is_discarded_is_dropped() {
        let value = std::rc::Rc::new(());
        let mut arena: Arena<(), _> = Arena::new();
        let key = arena.insert(value.clone());
        arena.discard(key);
        assert_eq!(std::rc::Rc::strong_count(&value), 1);
        assert_eq!(arena.len(), 0);
    }
}
