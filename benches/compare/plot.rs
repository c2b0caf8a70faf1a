//! A dot plot in SVG: one row a workload, one dot a candidate, the ratio to kernel overlay on a logarithmic axis.

/// A workload's ratios, in the order of the candidates' names.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) ceiling: Option<f64>,
    pub(crate) ratios: Vec<Option<f64>>,
}

const LEFT: f64 = 170.0;
const WIDTH: f64 = 620.0;
const TOP: f64 = 40.0;
const ROW: f64 = 26.0;
const LEGEND: f64 = 210.0;
const TICKS: [f64; 10] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
/// Told apart by people who see few colours (Okabe and Ito 2008), then by shape.
const COLOURS: [&str; 8] =
    ["#999999", "#000000", "#D55E00", "#CC79A7", "#E69F00", "#0072B2", "#56B4E9", "#009E73"];

/// The plot as text.
pub(crate) fn dots(title: &str, candidates: &[&str], rows: &[Row]) -> String {
    let scale = Scale::over(rows);
    let bottom = TOP + ROW * rows.len() as f64;
    let height = (bottom + 40.0).max(TOP + 18.0 * candidates.len() as f64 + 20.0);
    let full = LEFT + WIDTH + LEGEND;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{full}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}: time relative to kernel overlay (log)</text>\n"
    );
    for tick in TICKS.iter().filter(|tick| scale.holds(**tick)) {
        svg.push_str(&axis_line(scale.x(*tick), bottom, *tick));
    }
    for (index, row) in rows.iter().enumerate() {
        svg.push_str(&row_marks(&scale, TOP + ROW * (index as f64 + 0.5), row));
    }
    for (index, name) in candidates.iter().enumerate() {
        let (x, y) = (LEFT + WIDTH + 24.0, TOP + 18.0 * index as f64 + 8.0);
        svg.push_str(&mark(index, x, y));
        svg.push_str(&format!("<text x=\"{}\" y=\"{}\">{name}</text>\n", x + 12.0, y + 4.0));
    }
    let y = TOP + 18.0 * candidates.len() as f64 + 12.0;
    let x = LEFT + WIDTH + 24.0;
    svg.push_str(&format!("<text x=\"{x}\" y=\"{y}\" fill=\"#666\">| our ceiling</text>\n</svg>\n"));
    svg
}

fn axis_line(x: f64, bottom: f64, tick: f64) -> String {
    let colour = if tick == 1.0 { "#444" } else { "#ddd" };
    format!(
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"{colour}\"/>\
         <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>\n",
        bottom + 16.0
    )
}

fn row_marks(scale: &Scale, y: f64, row: &Row) -> String {
    let mut svg =
        format!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n", LEFT - 8.0, y + 4.0, row.name);
    if let Some(ceiling) = row.ceiling {
        let x = scale.x(ceiling);
        let (from, to) = (y - 9.0, y + 9.0);
        svg.push_str(&format!(
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{from}\" y2=\"{to}\" stroke=\"#666\" stroke-width=\"2\"/>\n"
        ));
    }
    for (index, ratio) in row.ratios.iter().enumerate() {
        if let Some(ratio) = ratio {
            svg.push_str(&mark(index, scale.x(*ratio), y));
        }
    }
    svg
}

/// A dot for the first eight candidates, a ring for those after.
fn mark(index: usize, x: f64, y: f64) -> String {
    let colour = COLOURS[index % COLOURS.len()];
    let fill = if index < COLOURS.len() { colour } else { "none" };
    format!(
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{fill}\" fill-opacity=\"0.85\" stroke=\"{colour}\"/>\n"
    )
}

/// The logarithmic axis, from below the smallest ratio to above the greatest.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn over(rows: &[Row]) -> Self {
        let all = rows.iter().flat_map(|row| row.ratios.iter().flatten().copied().chain(row.ceiling));
        let (low, high) =
            all.fold((0.8_f64, 1.25_f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        Self { low: (low * 0.9).ln(), high: (high * 1.1).ln() }
    }

    fn holds(&self, ratio: f64) -> bool {
        (self.low..=self.high).contains(&ratio.ln())
    }

    fn x(&self, ratio: f64) -> f64 {
        LEFT + WIDTH * (ratio.ln() - self.low) / (self.high - self.low)
    }
}
