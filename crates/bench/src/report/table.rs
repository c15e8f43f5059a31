//! The report for terminals.

use std::io::{self, Write};

use super::metric::METRICS;
use super::{LETTERS, Ratios, Report, number, remarks};
use crate::statistics::COLUMNS;
use crate::summary::Summary;

/// Writes the whole report.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let compared = report.endpoints.len() > 1;
    for (endpoint, letter) in report.endpoints.iter().zip(LETTERS) {
        let letter = if compared {
            format!("{letter}: ")
        } else {
            String::new()
        };
        writeln!(out, "{letter}{}, model {}", endpoint.url, endpoint.model)?;
    }
    let workload = &report.workload;
    write!(out, "prompts: {}", workload.prompts)?;
    if let Some(pictures) = &workload.pictures {
        write!(out, "; pictures: {pictures}")?;
    }
    writeln!(out, "; seed {}", workload.seed)?;
    for note in report.notes() {
        writeln!(out, "{note}")?;
    }
    for (summaries, ratios) in report.by_load().zip(ratios(report)) {
        writeln!(out)?;
        write_load(summaries, ratios, compared, out)?;
    }
    Ok(())
}

/// The ratios of each load, or nothing for each.
fn ratios(report: &Report) -> impl Iterator<Item = Option<&Ratios>> {
    report
        .ratios
        .iter()
        .map(Some)
        .chain(std::iter::repeat(None))
}

fn write_load(
    summaries: &[Summary],
    ratios: Option<&Ratios>,
    compared: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let Some(load) = summaries.first().map(|summary| summary.load) else {
        return Ok(());
    };
    writeln!(out, "{load}")?;
    for summary in summaries {
        let letter = letter(summary, compared);
        let requests = summary.requests;
        writeln!(
            out,
            "  {letter:<4}{} of {} requests answered in {} s; {} prompt tokens, {} output tokens",
            requests.answered,
            requests.sent,
            number(summary.duration_s),
            summary.tokens.prompt,
            summary.tokens.output,
        )?;
        for error in &summary.errors {
            writeln!(out, "      {} failed: {}", error.count, error.message)?;
        }
        for remark in remarks(summary) {
            writeln!(out, "      {remark}")?;
        }
    }
    write!(out, "  {:<24}     ", "")?;
    for column in COLUMNS {
        write!(out, "{column:>10}")?;
    }
    writeln!(out)?;
    for metric in METRICS {
        let mut name = metric.name;
        for summary in summaries {
            if let Some(distribution) = (metric.of)(summary) {
                let letter = letter(summary, compared);
                row(name, letter, &distribution.columns(), out)?;
                name = "";
            }
        }
        if let Some(ratios) = ratios.and_then(metric.ratio) {
            row(name, "B/A", &ratios, out)?;
        }
    }
    single("requests/s", summaries, compared, out, |s| {
        Some(s.request_throughput)
    })?;
    if let Some(ratio) = ratios.and_then(|ratios| ratios.request_throughput) {
        row("", "B/A", &[ratio], out)?;
    }
    single("output tokens/s", summaries, compared, out, |s| {
        s.output_token_throughput
    })?;
    if let Some(ratio) = ratios.and_then(|ratios| ratios.output_token_throughput) {
        row("", "B/A", &[ratio], out)?;
    }
    Ok(())
}

/// A figure that each endpoint has one of.
fn single(
    mut name: &'static str,
    summaries: &[Summary],
    compared: bool,
    out: &mut dyn Write,
    of: fn(&Summary) -> Option<f64>,
) -> io::Result<()> {
    for summary in summaries {
        if let Some(value) = of(summary) {
            row(name, letter(summary, compared), &[value], out)?;
            name = "";
        }
    }
    Ok(())
}

fn row(name: &str, letter: &str, values: &[f64], out: &mut dyn Write) -> io::Result<()> {
    write!(out, "  {name:<24}{letter:>4} ")?;
    for value in values {
        write!(out, "{:>10}", number(*value))?;
    }
    writeln!(out)
}

fn letter(summary: &Summary, compared: bool) -> &'static str {
    let letter = LETTERS.get(summary.endpoint).copied().filter(|_| compared);
    letter.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        write(report, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn both_endpoints_and_their_ratio_have_a_row() {
        let text = text(&example());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .skip_while(|line| !line.contains("request latency"))
            .take(3)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0][3..5], ["A", "350.0"]);
        assert_eq!(rows[1][..2], ["B", "700.0"]);
        assert_eq!(rows[2][..2], ["B/A", "2.00"]);
        assert!(text.contains("1 failed: 503: <b>busy</b>"), "{text}");
        assert!(
            text.contains("2 of 3 requests answered in 0.700 s"),
            "{text}"
        );
        assert!(text.contains("1 requests abandoned") && text.contains("before its time"));
    }

    #[test]
    fn a_single_endpoint_has_no_letters() {
        let mut report = example();
        report.endpoints.truncate(1);
        report.results.truncate(1);
        report.ratios.clear();
        let text = text(&report);
        assert!(!text.contains("B/A") && !text.contains("A: "), "{text}");
        assert!(text.contains("output tokens/s"));
    }
}
