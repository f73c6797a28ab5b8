//! Slots that are used again, under keys that are not.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;

use slab::Slab;

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
    entries: Slab<(NonZeroU32, T)>,
    generation: NonZeroU32,
    keys: PhantomData<fn() -> K>,
}

impl<K, T> Arena<K, T> {
    pub(crate) fn new() -> Self {
        Self { entries: Slab::new(), generation: NonZeroU32::MIN, keys: PhantomData }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key<K> {
        let generation = self.generation;
        self.generation = generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        let index = self.entries.insert((generation, value));
        // Four billion entries do not fit in memory.
        Key { index: index as u32, generation, of: PhantomData }
    }

    pub(crate) fn remove(&mut self, key: Key<K>) -> Option<T> {
        self.get(key)?;
        self.entries.try_remove(key.index as usize).map(|(_, value)| value)
    }

    #[inline]
    pub(crate) fn get(&self, key: Key<K>) -> Option<&T> {
        match self.entries.get(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key<K>) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize) {
            Some((generation, value)) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Key<K>, &mut T)> {
        self.entries.iter_mut().map(|(index, (generation, value))| {
            (Key { index: index as u32, generation: *generation, of: PhantomData }, value)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<K>, &T)> {
        self.entries.iter().map(|(index, (generation, value))| {
            (Key { index: index as u32, generation: *generation, of: PhantomData }, value)
        })
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
        assert_eq!(arena.get(second), Some(&'b'));
    }
}
