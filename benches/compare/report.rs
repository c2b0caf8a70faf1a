//! What a run leaves: README.md, raw.csv, messages.csv, summary.md and plots.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::candidate::{Candidate, NEAREST_PEER, REFERENCE};
use crate::link::Unit;
use crate::plot;
use crate::results::{Results, geometric_mean, short};
use crate::workload::{self, Class, MEMORY_METRICS, Workload};

/// Writes everything to `out` and the summary to standard output.
pub(crate) fn write(
    out: &Path,
    results: &Results,
    candidates: &[&'static Candidate],
    facts: &[(String, String)],
    rounds: u32,
) -> Result<()> {
    let table = Table::new(results, candidates);
    let summary = table.summary();
    fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let mut files = vec![
        ("README.md".to_owned(), readme(results, facts, rounds)),
        ("raw.csv".to_owned(), raw(results)),
        ("messages.csv".to_owned(), table.message_rows()),
        ("summary.md".to_owned(), summary.clone()),
    ];
    files.extend(table.plots());
    for (name, text) in files {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{summary}\nresults in {}", out.display());
    Ok(())
}

fn readme(results: &Results, facts: &[(String, String)], rounds: u32) -> String {
    let mut text = format!(
        "# One run of the comparison\n\nMedians of {rounds} rounds. `summary.md` is the table, `raw.csv` every \
         number, `messages.csv` the FUSE messages of one run of each workload as the kernel's tracepoint \
         counted them.\n\n| | |\n|---|---|\n"
    );
    for (name, value) in facts {
        text.push_str(&format!("| {name} | {} |\n", value.replace('|', "\\|")));
    }
    if !results.notes().is_empty() {
        text.push_str("\n## What did not work\n");
        results.notes().iter().for_each(|note| text.push_str(&format!("- {}\n", note.replace('\n', " "))));
    }
    text
}

fn raw(results: &Results) -> String {
    let mut text = "round,candidate,metric,value,unit,ops\n".to_owned();
    for sample in results.samples() {
        let metric = &sample.metric;
        let unit = metric.unit.as_str();
        text.push_str(&format!(
            "{},{},{},{:.4},{unit},{}\n",
            sample.round, sample.candidate, metric.name, metric.value, metric.ops
        ));
    }
    text
}

/// The results as rows of workloads and columns of candidates.
struct Table<'a> {
    results: &'a Results,
    candidates: Vec<&'static Candidate>,
    workloads: Vec<&'static Workload>,
}

impl<'a> Table<'a> {
    fn new(results: &'a Results, candidates: &[&'static Candidate]) -> Self {
        let has_any = |name: &str| results.samples().iter().any(|sample| sample.metric.name == name);
        let took_part = |candidate: &&&Candidate| {
            results.samples().iter().any(|sample| sample.candidate == candidate.name)
        };
        Self {
            results,
            candidates: candidates.iter().filter(took_part).copied().collect(),
            workloads: workload::all().filter(|workload| has_any(workload.name)).collect(),
        }
    }

    fn summary(&self) -> String {
        let mut text =
            "Times kernel overlay's time; lower is better, **bold** is over the ceiling.\n\n".to_owned();
        text.push_str("| workload | ceiling | overlay µs |");
        let others: Vec<_> = self.candidates.iter().filter(|one| one.name != REFERENCE).collect();
        others.iter().for_each(|one| text.push_str(&format!(" {} |", one.name)));
        text.push_str(&format!("\n|---|---|---|{}\n", "---|".repeat(others.len())));
        let mut class = None;
        for workload in &self.workloads {
            if class.replace(workload.class) != Some(workload.class) {
                let title = workload.class.as_str();
                text.push_str(&format!("| *{title}* | | |{}\n", " |".repeat(others.len())));
            }
            let ceiling = workload.ceiling.map(|ceiling| format!("{ceiling:.1}")).unwrap_or_default();
            let overlay = self.results.median(REFERENCE, workload.name);
            let overlay = overlay.map_or_else(|| "–".to_owned(), |value| short(value, Unit::MicrosPerOp));
            text.push_str(&format!("| {} | {ceiling} | {overlay} |", workload.name));
            others.iter().for_each(|one| text.push_str(&format!(" {} |", self.cell(one, workload))));
            text.push('\n');
        }
        self.means(&mut text, &others);
        self.memory(&mut text);
        self.messages(&mut text);
        text
    }

    fn cell(&self, candidate: &Candidate, workload: &Workload) -> String {
        let Some(ratio) = self.results.ratio(candidate.name, workload.name) else { return "–".to_owned() };
        let is_over = candidate.is_ours() && workload.ceiling.is_some_and(|ceiling| ratio > ceiling * 1.05);
        if is_over { format!("**{ratio:.2}**") } else { format!("{ratio:.2}") }
    }

    fn means(&self, text: &mut String, others: &[&&'static Candidate]) {
        let rows = [("geometric mean", REFERENCE), ("geometric mean to fuse-overlayfs 2.0", NEAREST_PEER)];
        for (title, base) in rows {
            text.push_str(&format!("| {title} | | |"));
            for one in others {
                let ratios =
                    self.workloads.iter().filter_map(|w| self.results.ratio_to(base, one.name, w.name));
                let mean = geometric_mean(ratios);
                text.push_str(&mean.map_or_else(|| " – |".to_owned(), |mean| format!(" {mean:.2} |")));
            }
            text.push('\n');
        }
    }

    fn memory(&self, text: &mut String) {
        let [idle, known, forgotten] = MEMORY_METRICS;
        let inodes = self.results.samples().iter().find(|sample| sample.metric.name == known);
        let inodes = inodes.map_or(1, |sample| sample.metric.ops);
        let mut rows = String::new();
        for one in &self.candidates {
            let get = |metric| self.results.median(one.name, metric);
            let (Some(idle), Some(known), Some(forgotten)) = (get(idle), get(known), get(forgotten)) else {
                continue;
            };
            let per_inode = (known - idle) / inodes as f64;
            let idle_text = short(idle, Unit::Bytes);
            let after = forgotten / idle;
            rows.push_str(&format!("| {} | {idle_text} MiB | {per_inode:.0} B | {after:.2} |\n", one.name));
        }
        if !rows.is_empty() {
            text.push_str(
                "\n| server memory | idle | per inode of 100,000 | forgotten, × idle |\n|---|---|---|---|\n",
            );
            text.push_str(&rows);
        }
    }

    /// Candidates whose messages were counted.
    fn talkers(&self) -> Vec<&'static Candidate> {
        let talks = |one: &&Candidate| {
            self.workloads.iter().any(|w| self.results.messages(one.name, w.name).is_some())
        };
        self.candidates.iter().copied().filter(talks).collect()
    }

    fn messages(&self, text: &mut String) {
        let talkers = self.talkers();
        if talkers.is_empty() {
            return;
        }
        text.push_str("\nFUSE messages per operation (those over 0.005):\n\n| workload |");
        talkers.iter().for_each(|one| text.push_str(&format!(" {} |", one.name)));
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(talkers.len())));
        for workload in self.workloads.iter().filter(|workload| workload.class != Class::Memory) {
            text.push_str(&format!("| {} |", workload.name));
            talkers.iter().for_each(|one| text.push_str(&format!(" {} |", self.message_cell(one, workload))));
            text.push('\n');
        }
    }

    fn message_cell(&self, candidate: &Candidate, workload: &Workload) -> String {
        let Some(found) = self.results.messages(candidate.name, workload.name) else {
            return "–".to_owned();
        };
        let mut rates: Vec<_> =
            found.counts.iter().map(|(name, count)| (name, *count as f64 / found.ops as f64)).collect();
        rates.retain(|(_, rate)| *rate > 0.005);
        rates.sort_by(|a, b| b.1.total_cmp(&a.1));
        let parts: Vec<_> = rates.iter().map(|(name, rate)| format!("{name} {rate:.2}")).collect();
        if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
    }

    fn message_rows(&self) -> String {
        let mut text = "candidate,workload,opcode,messages,ops\n".to_owned();
        for one in self.talkers() {
            for workload in &self.workloads {
                let Some(found) = self.results.messages(one.name, workload.name) else { continue };
                for (opcode, count) in &found.counts {
                    let ops = found.ops;
                    text.push_str(&format!("{},{},{opcode},{count},{ops}\n", one.name, workload.name));
                }
            }
        }
        text
    }

    /// One plot of all workloads for each class that has any.
    fn plots(&self) -> Vec<(String, String)> {
        let mut plots = Vec::new();
        for class in [Class::Hot, Class::First, Class::Change, Class::Data, Class::Program] {
            let rows: Vec<_> = self
                .workloads
                .iter()
                .filter(|workload| workload.class == class)
                .map(|workload| plot::Row {
                    name: workload.name,
                    ceiling: workload.ceiling,
                    ratios: self
                        .candidates
                        .iter()
                        .map(|one| self.results.ratio(one.name, workload.name))
                        .collect(),
                })
                .collect();
            if !rows.is_empty() {
                let names: Vec<_> = self.candidates.iter().map(|one| one.name).collect();
                let file = format!("{}.svg", class.as_str().replace(' ', "-"));
                plots.push((file, plot::dots(class.as_str(), &names, &rows)));
            }
        }
        plots
    }
}
