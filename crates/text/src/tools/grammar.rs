//! The other way round: grammars for answers that must be calls.

use serde_json::Value;

use super::ToolFamily;
use crate::constraint::{GrammarSource, literal};

/// What an answer must be that calls tools.
#[derive(Debug, Clone, PartialEq)]
pub struct CallGrammar {
    /// The form in which the model calls.
    pub family: ToolFamily,
    /// Names of the functions that may be called, with schemas of their arguments, which must be
    /// objects. At least one.
    pub functions: Vec<(String, Value)>,
    /// Whether there may be several calls. Llama's models are made for one at a time, and get one.
    pub parallel: bool,
    /// Id of [`ToolFamily::mark`] where that is a special token, which is never text.
    pub mark: Option<u32>,
    /// A schema of what the answer may be instead.
    pub otherwise: Option<Value>,
}

impl CallGrammar {
    /// The grammar. Whatever belongs to it is a call, or several, to
    /// [`ToolParser`](super::ToolParser).
    #[must_use]
    pub fn source(&self) -> GrammarSource {
        let mark = match self.mark {
            Some(id) => format!("<[{id}]>"),
            None => literal(self.family.mark()),
        };
        let more = |separator: &str, call: &str| match self.parallel {
            true => format!(" ({} {call})*", literal(separator)),
            false => String::new(),
        };
        let (arguments, rules) = match self.family {
            ToolFamily::Llama3Json => ("parameters", "calls: call\n".to_owned()),
            ToolFamily::Hermes => {
                let end = literal(&format!("\n{}", super::hermes::END));
                let marked = format!("marked: {mark} \"\\n\" call {end}\n");
                (
                    "arguments",
                    format!("calls: marked{}\n{marked}", more("\n", "marked")),
                )
            }
            ToolFamily::Mistral => {
                let more = more(", ", "call");
                (
                    "arguments",
                    format!("calls: {mark} \"[\" call{more} \"]\"\n"),
                )
            }
        };
        let mut grammar = match &self.otherwise {
            None => format!("start: calls\n{rules}"),
            Some(schema) => {
                format!("start: calls | otherwise\notherwise: %json {schema}\n{rules}")
            }
        };
        let names: Vec<String> = (0..self.functions.len())
            .map(|n| format!("call_{n}"))
            .collect();
        grammar.push_str(&format!("call: {}\n", names.join(" | ")));
        for ((name, schema), rule) in self.functions.iter().zip(names) {
            let begin = literal(&format!(
                "{{\"name\": {}, \"{arguments}\": ",
                Value::from(name.as_str())
            ));
            grammar.push_str(&format!(
                "{rule}: {begin} {rule}_arguments \"}}\"\n{rule}_arguments: %json {schema}\n"
            ));
        }
        GrammarSource::Lark(grammar)
    }
}
