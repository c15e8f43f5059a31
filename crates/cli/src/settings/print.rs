//! `--print-config`: each setting, its value, and where that came from.

use std::io::{self, Write as _};

use anyhow::Result;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction};
use serde_json::{Map, Value, json};
use vlmd_models::catalog;

use super::{Below, PrintFormat, Provenance, Settings, raw};
use crate::resolve;

/// What is asked for once, and is no setting.
const ASKED: [&str; 3] = ["print_config", "plan_only", "gpu_memory"];

/// What stands for a secret.
const MASK: &str = "********";

/// A setting as it is printed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The flag, without dashes.
    pub(super) name: String,
    /// A text as the flag takes it, a list of them, or whether a switch is on. None where the
    /// server decides for itself when it starts.
    pub(super) value: Value,
    /// `flag`, the variable's name, `card` or `default`.
    pub(super) source: String,
}

/// Prints all settings on standard output.
///
/// # Errors
/// When it cannot be written to.
pub(crate) fn print(settings: &Settings, format: PrintFormat) -> Result<()> {
    let rows = settings.provenance.rows();
    let text = match format {
        PrintFormat::Text => table(&rows),
        PrintFormat::Json => {
            let rows = rows
                .into_iter()
                .map(|row| (row.name, json!({"value": row.value, "source": row.source})));
            let rows: Map<String, Value> = rows.collect();
            format!("{:#}\n", Value::Object(rows))
        }
    };
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let shown = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            items.join(",")
        }
        other => other.to_string(),
    };
    let cells: Vec<(&str, String, &str)> = rows
        .iter()
        .map(|row| (row.name.as_str(), shown(&row.value), row.source.as_str()))
        .collect();
    let width = |of: fn(&(&str, String, &str)) -> usize| cells.iter().map(of).max().unwrap_or(0);
    let names = width(|(name, ..)| name.len());
    let values = width(|(_, value, _)| value.len()).min(48);
    let lines = cells
        .iter()
        .map(|(name, value, source)| format!("{name:<names$}  {value:<values$}  {source}\n"));
    lines.collect()
}

impl Provenance {
    /// All settings, in the order of their flags in `--help`.
    pub(super) fn rows(&self) -> Vec<Row> {
        let settings = self.command.get_arguments().filter(|arg| {
            let action = arg.get_action();
            let acts = matches!(
                action,
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
            );
            !acts && !ASKED.contains(&arg.get_id().as_str())
        });
        settings.filter_map(|arg| self.row(arg)).collect()
    }

    fn row(&self, arg: &Arg) -> Option<Row> {
        let id = arg.get_id().as_str();
        let mut source = match self.matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".to_owned(),
            Some(ValueSource::EnvVariable) => arg.get_env()?.to_string_lossy().into_owned(),
            _ => match self.below.get(id) {
                Some(Below::Nim(variable)) => (*variable).to_owned(),
                Some(Below::Card) => "card".to_owned(),
                None => "default".to_owned(),
            },
        };
        let mut value = self.value(arg);
        if source == "default"
            && let Some(from_card) = self.of_card(id)
        {
            value = from_card;
            source = "card".to_owned();
        }
        Some(Row {
            name: arg.get_long()?.to_owned(),
            value,
            source,
        })
    }

    fn value(&self, arg: &Arg) -> Value {
        let id = arg.get_id().as_str();
        if !arg.get_action().takes_values() {
            return Value::Bool(self.matches.get_flag(id));
        }
        let values: Vec<String> = match self.matches.get_raw(id) {
            Some(values) => values
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
            None => Vec::new(),
        };
        // What may not be shown in help may not be shown here.
        let secret = arg.is_hide_env_values_set();
        let shown = |value: String| if secret { MASK.to_owned() } else { value };
        let list = matches!(arg.get_action(), ArgAction::Append);
        let mut values = values.into_iter().map(shown);
        if list {
            return values.collect();
        }
        values.next().map_or(Value::Null, Value::String)
    }

    /// What the model's card says where nobody else does.
    fn of_card(&self, id: &str) -> Option<Value> {
        let card = catalog::find(&raw(&self.matches, "model")?)?;
        match id {
            "served_model_name" => Some(resolve::card_names(card).into()),
            "revision" => Some(card.hugging_face.as_ref()?.revision.clone().into()),
            _ => None,
        }
    }
}
