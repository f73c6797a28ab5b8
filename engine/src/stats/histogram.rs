//! Durations between two flushes, in few enough buckets to keep one set for each command.

/// Each power of two is cut into so many buckets: a value is known to within 1/32 of itself.
const STEPS: u64 = 16;
const STEP_BITS: u32 = STEPS.ilog2();
/// Enough for every value below 2^32.
const BUCKETS: usize = ((32 - STEP_BITS + 1) * STEPS as u32) as usize;
/// Values handed over in one flush, at most.
pub(super) const SAMPLES: usize = 32;

/// A log-linear histogram of values below 2^32; greater ones count as the greatest.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: Box<[u32]>,
    count: u64,
    /// Which ranks the next samples have, as a share of the distance between two of them.
    phase: f64,
}

impl Histogram {
    pub(super) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0, phase: 0.5 }
    }

    pub(super) fn record(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(value)) {
            *bucket = bucket.saturating_add(1);
            self.count += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All values, or [`SAMPLES`] of them at equal distances in rank, in ascending order.
    pub(super) fn samples(&self) -> impl Iterator<Item = u64> {
        let samples = self.count.min(SAMPLES as u64);
        let distance = self.count as f64 / SAMPLES.min(self.count as usize).max(1) as f64;
        let mut filled =
            self.buckets.iter().enumerate().filter(|(_, count)| **count > 0).peekable();
        let mut below = 0;
        (0..samples).map_while(move |sample| {
            let rank = ((sample as f64 + self.phase) * distance) as u64;
            while let Some((_, count)) = filled.peek()
                && below + u64::from(**count) <= rank
            {
                below += u64::from(**count);
                filled.next();
            }
            filled.peek().map(|(bucket, _)| middle_of(*bucket))
        })
    }

    /// Forgets all values. The next samples have other ranks than the last: by steps of the golden
    /// ratio every rank gets its turn, so that over many flushes no quantile is missed.
    pub(super) fn clear(&mut self) {
        const GOLDEN: f64 = 0.618_033_988_749_895;
        self.buckets.fill(0);
        self.count = 0;
        self.phase = (self.phase + GOLDEN).fract();
    }
}

fn bucket_of(value: u64) -> usize {
    let value = value.min(u32::MAX.into());
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

fn middle_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    let low = (bucket - shift * STEPS) << shift;
    low + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_to_within_a_32nd_of_itself() {
        for value in (0..100_000).chain((0..32).map(|bit| (1 << bit) - 1)).chain([u32::MAX.into()])
        {
            let known = middle_of(bucket_of(value));
            assert!(known.abs_diff(value) * 32 <= value, "{value} is known as {known}");
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn few_values_are_all_handed_over() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.samples().count(), 0);
        for value in [3, 1, 2, 3] {
            histogram.record(value);
        }
        assert_eq!(histogram.samples().collect::<Vec<_>>(), [1, 2, 3, 3]);
        histogram.clear();
        assert!(histogram.is_empty());
        for value in 0..SAMPLES as u64 / 2 {
            histogram.record(value);
        }
        assert!(histogram.samples().eq(0..SAMPLES as u64 / 2));
    }

    #[test]
    fn many_values_are_sampled_in_proportion_and_over_time_the_rarest_too() {
        let mut histogram = Histogram::new();
        let (mut slow, mut all) = (0, 0);
        for _ in 0..1000 {
            for number in 0..1000 {
                histogram.record(if number < 5 { 1000 } else { number % 10 });
            }
            let samples: Vec<_> = histogram.samples().collect();
            assert_eq!(samples.len(), SAMPLES);
            let low = samples.iter().filter(|value| **value < 5).count();
            assert!((15..=17).contains(&low), "{low}");
            slow += samples.iter().filter(|value| **value > 900).count();
            all += samples.len();
            histogram.clear();
        }
        assert!((140..=180).contains(&slow), "{slow} of {all} are not 5 in 1000");
    }
}
