//! `vlmd models`: the catalog as a table.

use std::io::{self, Write};

use anyhow::Result;
use candle_core::DType;
use vlmd_models::catalog::{self, Card};

/// Prints the catalog.
pub(crate) fn run() -> Result<()> {
    let mut table = vec![
        [
            "MODEL",
            "ARCHITECTURE",
            "CONTEXT",
            "BF16",
            "LICENCE",
            "FROM",
        ]
        .map(str::to_owned),
    ];
    table.extend(catalog::cards().iter().map(row));
    let widths: Vec<usize> = (0..table[0].len())
        .map(|column| {
            table
                .iter()
                .map(|row| row[column].len())
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut out = io::stdout().lock();
    for row in &table {
        let line: String = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn row(card: &Card) -> [String; 6] {
    let from = match &card.hugging_face {
        None if card.archive => "its `.nemo` archive".to_owned(),
        None => "in the program".to_owned(),
        Some(source) if source.gated => format!("{} (gated)", source.repository),
        Some(source) => source.repository.clone(),
    };
    [
        card.id.clone(),
        card.architecture.clone(),
        card.context.to_string(),
        megabytes(card.weight_bytes(DType::BF16)),
        card.licence.clone(),
        from,
    ]
}

fn megabytes(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.0} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.1} GB", bytes as f64 / 1e9)
    }
}
