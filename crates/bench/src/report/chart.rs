//! Bar charts as inline SVG.

use std::fmt::Write as _;

use super::number;
use super::page::escape;

/// Pixels of a bar's height with the space below it.
const BAR: usize = 22;

/// Pixels above each group, for its label.
const HEADING: usize = 26;

/// Pixels left of the bars, for their names.
const NAMES: usize = 70;

/// Pixels of the longest bar.
const LONGEST: f64 = 560.0;

/// Pixels right of the longest bar, for its number.
const NUMBERS: usize = 90;

/// Told apart by those who see no colours, too (Okabe and Ito 2008).
const COLOURS: [&str; 4] = ["#0072b2", "#56b4e9", "#d55e00", "#e69f00"];

/// Bars that belong together.
#[derive(Debug)]
pub(super) struct Group {
    /// What they have in common.
    pub(super) label: String,
    /// Name and value of each; values of at least 0.
    pub(super) bars: Vec<(String, f64)>,
}

/// Draws a chart; nothing where there is no bar.
pub(super) fn bars(title: &str, groups: &[Group]) -> String {
    let values = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.1);
    let largest = values.fold(0.0, f64::max);
    if largest <= 0.0 {
        return String::new();
    }
    let rows: usize = groups
        .iter()
        .map(|group| HEADING + BAR * group.bars.len())
        .sum();
    let width = NAMES + LONGEST as usize + NUMBERS;
    let title = escape(title);
    // Writing into a String cannot fail, here and below.
    let mut svg = format!(
        "<h3>{title}</h3><svg role=\"img\" aria-label=\"{title}\" width=\"{width}\" height=\"{rows}\" \
         viewBox=\"0 0 {width} {rows}\" font-family=\"system-ui,sans-serif\" font-size=\"13\">"
    );
    let mut y = 0;
    for group in groups {
        let _ = write!(
            svg,
            "<text x=\"0\" y=\"{}\" font-weight=\"bold\">{}</text>",
            y + HEADING - 9,
            escape(&group.label)
        );
        y += HEADING;
        for ((name, value), colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
            let length = (value / largest * LONGEST).max(1.0);
            let _ = write!(
                svg,
                "<text x=\"0\" y=\"{text}\">{}</text><rect x=\"{NAMES}\" y=\"{y}\" width=\"{length:.1}\" \
                 height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{text}\">{}</text>",
                escape(name),
                BAR - 6,
                NAMES as f64 + length + 6.0,
                number(*value),
                text = y + 13,
            );
            y += BAR;
        }
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let group = |label: &str, bars: &[(&str, f64)]| Group {
            label: label.to_owned(),
            bars: bars
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        };
        let groups = [
            group("<1>", &[("A", 50.0), ("B", 100.0)]),
            group("8", &[("A", 0.0)]),
        ];
        let svg = bars("t", &groups);
        for part in [
            "width=\"280.0\"",
            "width=\"560.0\"",
            "width=\"1.0\"",
            "&lt;1&gt;",
        ] {
            assert!(svg.contains(part), "{part} in {svg}");
        }
        assert_eq!(svg.matches("<rect").count(), 3);
        assert_eq!(bars("t", &[group("empty", &[])]), "");
    }
}
