//! Sorting in little code, for what is not on the way of every command.
//!
//! Each use of the standard library's `sort` for another type is 3 to 10 KB of code in the module,
//! which Envoy compiles when it starts and keeps. Here only comparing and moving depend on the type.
//! To sort the positions by the standard library would be 9 KB more than to merge them here.

/// Sorts items as the standard library's `sort_by_key` does: those with equal keys keep their order.
pub(crate) fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    let mut is_less = |a: usize, b: usize| match (items.get(a), items.get(b)) {
        (Some(a), Some(b)) => key(a) < key(b),
        _ => false,
    };
    let mut places = places(items.len(), &mut is_less);
    for at in 0..items.len() {
        while let Some(place) = places.get(at).copied()
            && place != at
        {
            items.swap(at, place);
            places.swap(at, place);
        }
    }
}

/// The place of each of so many items in their order.
fn places(len: usize, is_less: &mut dyn FnMut(usize, usize) -> bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    let mut merged = Vec::with_capacity(len);
    let mut width = 1;
    while width < len {
        for both in order.chunks(width.saturating_mul(2)) {
            let (mut left, mut right) = both.split_at(width.min(both.len()));
            while let ([a, lefts @ ..], [b, rights @ ..]) = (left, right) {
                if is_less(*b, *a) {
                    merged.push(*b);
                    right = rights;
                } else {
                    merged.push(*a);
                    left = lefts;
                }
            }
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
        }
        std::mem::swap(&mut order, &mut merged);
        merged.clear();
        width = width.saturating_mul(2);
    }
    let mut places = vec![0; len];
    for (place, item) in order.into_iter().enumerate() {
        if let Some(of_item) = places.get_mut(item) {
            *of_item = place;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_sorted_as_the_standard_library_does_it() {
        let mut rng = fastrand::Rng::with_seed(1);
        for len in (0..70).chain([1000, 16_384]) {
            let keys = rng.usize(1..=len.max(1));
            let mut items: Vec<_> = (0..len).map(|number| (rng.usize(..keys), number)).collect();
            let mut expected = items.clone();
            expected.sort_by_key(|(key, _)| *key);
            sort_by_key(&mut items, |(key, _)| *key);
            assert_eq!(items, expected, "{len}");
        }
    }

    #[test]
    fn what_is_sorted_or_the_other_way_round_is_no_trouble() {
        for len in [2, 3, 1000] {
            let sorted: Vec<usize> = (0..len).collect();
            let mut items: Vec<usize> = (0..len).rev().collect();
            for _ in 0..2 {
                sort_by_key(&mut items, |item| *item);
                assert_eq!(items, sorted);
            }
        }
    }
}
