//! Medians, as a table in Markdown.

use std::fmt::Write;

use super::measure::Cost;

/// The runs of one side of a pair.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) costs: Vec<Cost>,
}

/// A table with a line per side, and the ratio of the first to the second. `checked` says how each run was.
pub(super) fn table(title: &str, unit: &str, count: u64, sides: &[Side; 2], checked: &str) -> String {
    let mut text = format!(
        "### {title}\n\n| | {unit}/s | s, median (min–max) | {unit} per CPU-second | peak memory |\n|---|---|---|---|---|\n"
    );
    let rates = sides.each_ref().map(|side| {
        let seconds = sorted(side, |cost| cost.seconds);
        let rate = per(count, median(&seconds));
        let cpu = median(&sorted(side, |cost| cost.cpu_seconds));
        let peak = side.costs.iter().map(|cost| cost.peak_bytes).max().unwrap_or_default();
        let (least, most) =
            (seconds.first().copied().unwrap_or_default(), seconds.last().copied().unwrap_or_default());
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "| {} | {rate:.0} | {:.2} ({least:.2}–{most:.2}) | {} | {} |",
            side.name,
            median(&seconds),
            // Less than a tick of the kernel's clock is no measurement.
            if cpu > 0.0 { format!("{:.0}", per(count, cpu)) } else { "–".to_owned() },
            if peak > 0 { format!("{} MB", peak / 1_000_000) } else { "–".to_owned() },
        );
        rate
    });
    let runs = sides[0].costs.len();
    let _ = writeln!(
        text,
        "\n{} : {} = **{:.2} ×**, {runs} pairs, {checked}.",
        sides[0].name,
        sides[1].name,
        rates[0] / rates[1]
    );
    text
}

/// Counts here stay far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts of rows, for a rate on the screen")]
fn per(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(f64::EPSILON)
}

fn sorted(side: &Side, figure: impl Fn(&Cost) -> f64) -> Vec<f64> {
    let mut figures: Vec<f64> = side.costs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted {
        [] => 0.0,
        _ if sorted.len() % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        assert!((median(&[1.0, 2.0, 4.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 8.0]) - 3.0).abs() < f64::EPSILON);
    }
}
