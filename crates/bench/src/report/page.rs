//! The report as a page: tables and charts in one file, without scripts and without anything
//! loaded from elsewhere.

use std::fmt::Write as _;

use super::chart::{Group, bars};
use super::metric::METRICS;
use super::{LETTERS, Ratios, Report, number, remarks};
use crate::statistics::COLUMNS;
use crate::summary::Summary;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;\
    padding:0 1rem;color:#222}table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid \
    #ddd;padding:.3em .7em;text-align:right}td:first-child,th:first-child{text-align:left}\
    svg{max-width:100%;height:auto}.error{color:#a00}h2{margin-top:2.5rem}code{background:#f2f2f2;\
    padding:0 .2em}";

/// Renders a report.
pub(crate) fn render(report: &Report) -> String {
    let mut page = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>vlmd bench</title>\
         <style>{STYLE}</style></head><body><h1>vlmd bench</h1><ul>"
    );
    for (index, endpoint) in report.endpoints.iter().enumerate() {
        let fields = serde_json::Value::Object(endpoint.fields.clone()).to_string();
        // Writing into a String cannot fail, here and below.
        let _ = write!(
            page,
            "<li>{}<code>{}</code>, model <code>{}</code>, <code>{}</code></li>",
            letter(report, index, ": "),
            escape(&endpoint.url),
            escape(&endpoint.model),
            escape(&fields),
        );
    }
    let workload = &report.workload;
    let _ = write!(
        page,
        "<li>prompts: {}; pictures: {}; seed {}</li></ul>",
        escape(&workload.prompts),
        escape(workload.pictures.as_deref().unwrap_or("none")),
        workload.seed,
    );
    for note in report.notes() {
        let _ = write!(page, "<p>{}</p>", escape(&note));
    }
    charts(&mut page, report);
    let ratios = report
        .ratios
        .iter()
        .map(Some)
        .chain(std::iter::repeat(None));
    for (summaries, ratios) in report.by_load().zip(ratios) {
        load_section(&mut page, report, summaries, ratios);
    }
    page.push_str("</body></html>\n");
    page
}

fn charts(page: &mut String, report: &Report) {
    type Bar = (&'static str, fn(&Summary) -> Option<f64>);
    let all: [(&str, &[Bar]); 4] = [
        (
            "Output tokens a second",
            &[("", |summary| summary.output_token_throughput)],
        ),
        (
            "Time to first token, ms",
            &[
                ("p50", |summary| Some(summary.time_to_first_token_ms?.p50)),
                ("p99", |summary| Some(summary.time_to_first_token_ms?.p99)),
            ],
        ),
        (
            "Inter-token latency, ms",
            &[
                ("p50", |summary| Some(summary.inter_token_latency_ms?.p50)),
                ("p99", |summary| Some(summary.inter_token_latency_ms?.p99)),
            ],
        ),
        (
            "Request latency, ms",
            &[
                ("p50", |summary| Some(summary.request_latency_ms?.p50)),
                ("p99", |summary| Some(summary.request_latency_ms?.p99)),
            ],
        ),
    ];
    for (title, series) in all {
        let groups: Vec<Group> = report
            .by_load()
            .map(|summaries| Group {
                label: summaries
                    .first()
                    .map(|s| s.load.to_string())
                    .unwrap_or_default(),
                bars: summaries
                    .iter()
                    .flat_map(|summary| {
                        series.iter().filter_map(|(name, of)| {
                            let label = format!("{} {name}", letter(report, summary.endpoint, ""));
                            Some((label.trim().to_owned(), of(summary)?))
                        })
                    })
                    .collect(),
            })
            .collect();
        page.push_str(&bars(title, &groups));
    }
}

fn load_section(
    page: &mut String,
    report: &Report,
    summaries: &[Summary],
    ratios: Option<&Ratios>,
) {
    let load = summaries.first().map(|summary| summary.load.to_string());
    let _ = write!(page, "<h2>{}</h2>", escape(&load.unwrap_or_default()));
    for summary in summaries {
        let _ = write!(
            page,
            "<p>{}{} of {} requests answered in {} s; {} requests/s; {} output tokens/s; {} prompt \
             and {} output tokens</p>",
            letter(report, summary.endpoint, ": "),
            summary.requests.answered,
            summary.requests.sent,
            number(summary.duration_s),
            number(summary.request_throughput),
            summary
                .output_token_throughput
                .map_or("?".to_owned(), number),
            summary.tokens.prompt,
            summary.tokens.output,
        );
        for error in &summary.errors {
            let message = escape(&error.message);
            let _ = write!(
                page,
                "<p class=\"error\">{} failed: {message}</p>",
                error.count
            );
        }
        for remark in remarks(summary) {
            let _ = write!(page, "<p>{}</p>", escape(&remark));
        }
    }
    page.push_str("<table><tr><th></th><th></th>");
    for column in COLUMNS {
        let _ = write!(page, "<th>{column}</th>");
    }
    page.push_str("</tr>");
    for metric in METRICS {
        for summary in summaries {
            if let Some(distribution) = (metric.of)(summary) {
                let who = letter(report, summary.endpoint, "");
                row(page, metric.name, &who, &distribution.columns());
            }
        }
        if let Some(columns) = ratios.and_then(metric.ratio) {
            row(page, metric.name, "B/A", &columns);
        }
    }
    page.push_str("</table>");
    if let Some(ratio) = ratios.and_then(|ratios| ratios.output_token_throughput) {
        let _ = write!(
            page,
            "<p>Output tokens a second, B/A: {}</p>",
            number(ratio)
        );
    }
    if let Some(ratio) = ratios.and_then(|ratios| ratios.request_throughput) {
        let _ = write!(page, "<p>Requests a second, B/A: {}</p>", number(ratio));
    }
}

fn row(page: &mut String, name: &str, who: &str, values: &[f64]) {
    let _ = write!(page, "<tr><td>{name}</td><td>{who}</td>");
    for value in values {
        let _ = write!(page, "<td>{}</td>", number(*value));
    }
    page.push_str("</tr>");
}

/// An endpoint's letter with what follows it, or nothing where there is one endpoint only.
fn letter(report: &Report, endpoint: usize, after: &str) -> String {
    match LETTERS.get(endpoint) {
        Some(letter) if report.endpoints.len() > 1 => format!("{letter}{after}"),
        _ => String::new(),
    }
}

/// Text that means nothing to a browser.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn what_others_say_is_text() {
        let page = render(&example());
        assert!(
            !page.contains("<script") && !page.contains("<b>busy"),
            "{page}"
        );
        assert!(page.contains("a&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("&lt;b&gt;busy&lt;/b&gt; &amp; &quot;full&quot;"));
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let page = render(&example());
        assert_eq!(page.matches("<svg").count(), 4);
        for other in ["src=", "href=", "url(", "@import"] {
            assert!(!page.contains(other), "{other}");
        }
        for (open, close) in [("<table", "</table>"), ("<svg", "</svg>"), ("<td", "</td>")] {
            assert_eq!(
                page.matches(open).count(),
                page.matches(close).count(),
                "{open}"
            );
        }
    }
}
