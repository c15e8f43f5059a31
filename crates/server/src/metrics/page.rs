//! Prometheus text, version 0.0.4.

use std::fmt::{Display, Write as _};

use vlmd_engine::Distribution;

/// A page under construction.
#[derive(Debug)]
pub(super) struct Page {
    text: String,
}

impl Page {
    pub(super) fn new() -> Self {
        Self {
            text: String::with_capacity(32 << 10),
        }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    /// Opens a family: all of its lines follow.
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing into a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            text: &mut self.text,
            name,
        }
    }

    pub(super) fn gauge(&mut self, name: &'static str, labels: &Labels, value: f64, help: &str) {
        self.family(name, "gauge", help).line(labels, value);
    }

    pub(super) fn counter(&mut self, name: &'static str, labels: &Labels, value: u64, help: &str) {
        self.family(name, "counter", help).line(labels, value);
    }

    pub(super) fn histogram(
        &mut self,
        name: &'static str,
        labels: &Labels,
        values: &Distribution,
        help: &str,
    ) {
        let family = self.family(name, "histogram", help);
        let bounds = values.bounds.iter().map(|bound| Some(*bound));
        for (bound, count) in bounds.chain([None]).zip(&values.cumulative) {
            let _ = match bound {
                Some(bound) => writeln!(
                    family.text,
                    "{name}_bucket{{{labels},le=\"{bound:?}\"}} {count}"
                ),
                None => writeln!(family.text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}"),
            };
        }
        let (sum, count) = (values.sum, values.count());
        let _ = writeln!(family.text, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(family.text, "{name}_count{{{labels}}} {count}");
    }
}

/// A family whose lines are being written.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    pub(super) fn line(&mut self, labels: &Labels, value: impl Display) {
        let _ = writeln!(self.text, "{}{{{labels}}} {value}", self.name);
    }

    /// A line with one more label.
    pub(super) fn line_with(
        &mut self,
        labels: &Labels,
        (name, label): (&str, &str),
        value: impl Display,
    ) {
        let separator = if labels.0.is_empty() { "" } else { "," };
        let label = escape(label);
        let _ = writeln!(
            self.text,
            "{}{{{labels}{separator}{name}=\"{label}\"}} {value}",
            self.name
        );
    }

    pub(super) fn bare(&mut self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }
}

/// Labels that many lines share, written out once.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn new<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let label = |(name, value)| format!("{name}=\"{}\"", escape(value));
        let labels: Vec<_> = labels.into_iter().map(label).collect();
        Self(labels.join(","))
    }
}

impl Display for Labels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A label value as Prometheus wants it.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let labels = Labels::new([("name", "a\"b\\c\nd"), ("engine", "0")]);
        assert_eq!(labels.to_string(), r#"name="a\"b\\c\nd",engine="0""#);
    }

    #[test]
    fn a_histogram_has_all_its_lines() {
        let mut page = Page::new();
        let values = Distribution {
            bounds: &[0.5, 1.0],
            cumulative: vec![1, 1, 3],
            sum: 7.25,
        };
        page.histogram("x", &Labels::new([("m", "n")]), &values, "Help.");
        let lines = "# HELP x Help.\n# TYPE x histogram\n\
            x_bucket{m=\"n\",le=\"0.5\"} 1\nx_bucket{m=\"n\",le=\"1.0\"} 1\n\
            x_bucket{m=\"n\",le=\"+Inf\"} 3\nx_sum{m=\"n\"} 7.25\nx_count{m=\"n\"} 3\n";
        assert_eq!(page.finish(), lines);
    }
}
