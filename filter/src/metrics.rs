//! What the engine counts, shown as the host's metrics.

use std::collections::HashMap;

use slotmesh_engine::{Change, Metric, MetricId, MetricKind, Proxy};

use crate::host;

/// Metrics defined in one go, at most: what is left comes with the next report.
const NEW_METRICS: usize = 256;

/// The host's ids of the metrics it has been told of; `None` for those that it refused.
#[derive(Default)]
pub(crate) struct Metrics {
    ids: HashMap<MetricId, Option<u32>>,
}

impl Metrics {
    /// Shows all changes.
    pub(crate) fn report(&mut self, proxy: &mut Proxy) {
        let mut new = 0;
        proxy.report_stats(|metric, change| {
            let known = self.ids.contains_key(&metric.id());
            if !known && new == NEW_METRICS {
                return false;
            }
            new += usize::from(!known);
            self.show(metric, change);
            true
        });
    }

    /// Shows the last changes of a proxy that ends.
    pub(crate) fn report_last(&mut self, proxy: &mut Proxy) {
        proxy.report_last_stats(|metric, change| {
            self.show(metric, change);
            true
        });
    }

    /// Gauges are shifted, not set: all workers share one of each name.
    fn show(&mut self, metric: &Metric<'_>, change: Change) {
        let id = self.ids.entry(metric.id()).or_insert_with(|| {
            let kind = match metric.kind() {
                MetricKind::Counter => host::MetricKind::Counter,
                MetricKind::Gauge => host::MetricKind::Gauge,
                MetricKind::Histogram => host::MetricKind::Histogram,
            };
            host::define_metric(kind, &metric.to_string()).ok()
        });
        let Some(id) = *id else { return };
        match change {
            Change::Count(count) => host::shift_metric(id, count.cast_signed()),
            Change::Shift(shift) => host::shift_metric(id, shift),
            Change::Record(value) => host::record_metric(id, value),
        }
    }
}
