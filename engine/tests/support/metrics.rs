//! What a host shows of what the proxy counts.

use std::collections::{BTreeMap, HashMap};

use slotmesh_engine::{Change, MetricId, MetricKind, Proxy};

/// Metrics by name, added up from all reports.
#[derive(Default)]
pub struct Metrics {
    values: BTreeMap<String, i64>,
    histograms: BTreeMap<String, Vec<u64>>,
    names: HashMap<MetricId, String>,
    pub reports: usize,
}

impl Metrics {
    /// Takes all changes.
    pub fn take(&mut self, proxy: &mut Proxy) {
        self.reports += 1;
        proxy.report_stats(|metric, change| {
            let name = metric.to_string();
            let known = self.names.entry(metric.id()).or_insert_with(|| name.clone());
            assert_eq!(*known, name, "one id, two names");
            match change {
                Change::Count(count) => {
                    assert_eq!(metric.kind(), MetricKind::Counter);
                    *self.values.entry(name).or_default() += i64::try_from(count).unwrap();
                }
                Change::Shift(shift) => {
                    assert_eq!(metric.kind(), MetricKind::Gauge);
                    *self.values.entry(name).or_default() += shift;
                }
                Change::Record(value) => {
                    assert_eq!(metric.kind(), MetricKind::Histogram);
                    self.histograms.entry(name).or_default().push(value);
                }
            }
            true
        });
        let mut names: Vec<_> = self.names.values().collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), self.names.len(), "one name, two ids");
    }

    /// A counter or gauge, without `redis.redis.` before it; 0 if it was never reported.
    pub fn value(&self, name: &str) -> i64 {
        self.values.get(&format!("redis.redis.{name}")).copied().unwrap_or_default()
    }

    /// The values of a histogram.
    pub fn histogram(&self, name: &str) -> &[u64] {
        self.histograms.get(&format!("redis.redis.{name}")).map_or(&[], Vec::as_slice)
    }

    /// Every name that was reported.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().chain(self.histograms.keys()).map(String::as_str)
    }
}
