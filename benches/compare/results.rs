//! All measured numbers and what is made of them: medians, ratios, geometric means.

use std::collections::BTreeMap;

use crate::candidate::REFERENCE;
use crate::link::{Metric, Unit};
use crate::trace::Counts;

/// One measured number and where it comes from.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) candidate: &'static str,
    pub(crate) metric: Metric,
}

/// Messages of one run of a workload.
#[derive(Debug)]
pub(crate) struct Messages {
    pub(crate) counts: Counts,
    /// Operations of that run.
    pub(crate) ops: u64,
}

/// Everything a run found out.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: Vec<Sample>,
    messages: BTreeMap<(&'static str, &'static str), Messages>,
    notes: Vec<String>,
}

impl Results {
    /// Keeps a number.
    pub(crate) fn add(&mut self, round: u32, candidate: &'static str, metric: Metric) {
        self.samples.push(Sample { round, candidate, metric });
    }

    /// Keeps the messages of a workload.
    pub(crate) fn count(
        &mut self,
        candidate: &'static str,
        workload: &'static str,
        counts: Counts,
        ops: u64,
    ) {
        self.messages.insert((candidate, workload), Messages { counts, ops });
    }

    /// Keeps, once, what did not work.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            eprintln!("\ncompare: {note}");
            self.notes.push(note);
        }
    }

    /// What did not work.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Every number, as it came.
    pub(crate) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The messages of a workload, if they were counted.
    pub(crate) fn messages(&self, candidate: &str, workload: &str) -> Option<&Messages> {
        self.messages
            .iter()
            .find(|((one, what), _)| *one == candidate && *what == workload)
            .map(|(_, found)| found)
    }

    /// The median over all rounds.
    pub(crate) fn median(&self, candidate: &str, metric: &str) -> Option<f64> {
        let of_it = |sample: &&Sample| sample.candidate == candidate && sample.metric.name == metric;
        median(self.samples.iter().filter(of_it).map(|sample| sample.metric.value).collect())
    }

    /// How many times another's time a candidate takes for a workload.
    pub(crate) fn ratio_to(&self, other: &str, candidate: &str, metric: &str) -> Option<f64> {
        Some(self.median(candidate, metric)? / self.median(other, metric)?)
    }

    /// How many times kernel overlay's time a candidate takes for a workload.
    pub(crate) fn ratio(&self, candidate: &str, metric: &str) -> Option<f64> {
        self.ratio_to(REFERENCE, candidate, metric)
    }
}

/// The middle value, or the mean of the two middle ones.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let is_odd = values.len() % 2 == 1;
    Some(if is_odd { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// The geometric mean of ratios; `None` of nothing.
pub(crate) fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = ratios.fold((0_u32, 0.0), |(count, sum), ratio| (count + 1, sum + ratio.ln()));
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// A number with three significant digits.
pub(crate) fn short(value: f64, unit: Unit) -> String {
    let value = if unit == Unit::Bytes { value / f64::from(1 << 20) } else { value };
    match value.abs() {
        at_least if at_least >= 100.0 => format!("{value:.0}"),
        at_least if at_least >= 10.0 => format!("{value:.1}"),
        at_least if at_least >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
