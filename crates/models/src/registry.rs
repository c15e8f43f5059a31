//! Which architecture a checkpoint belongs to.

use std::sync::Arc;

use serde::Deserialize;
use vlmd_backend::Model;

use crate::common::fields::CONFIG;
use crate::load::Source;
use crate::outline::{Outline, Sketch};
use crate::{LoadError, ModelFiles, Processor, kosmos2, llava, mllama, nemo, neva, phi3_v};

/// The two halves of an architecture, ready to work.
pub(crate) type Parts = (Arc<dyn Processor>, Box<dyn Model>);

/// An architecture. Each stands beside its code as a `pub const ENTRY`.
#[derive(Debug)]
pub struct Entry {
    /// Short name, which is also `model_type` in `config.json`.
    pub name: &'static str,
    /// Names under `architectures` in `config.json`.
    pub architectures: &'static [&'static str],
    /// Reads configuration, tokenizer and weights.
    pub(crate) load: fn(&ModelFiles, &Source<'_>) -> Result<Parts, LoadError>,
    /// Tells what a model needs before any of its weights is read.
    pub(crate) outline: fn(&Sketch<'_>) -> Result<Outline, LoadError>,
}

/// Every architecture that can be served.
pub const ENTRIES: &[Entry] = &[
    kosmos2::ENTRY,
    llava::LLAVA,
    llava::LLAVA_NEXT,
    mllama::ENTRY,
    neva::ENTRY,
    phi3_v::ENTRY,
];

/// The part of `config.json` that says what the checkpoint is.
#[derive(Debug, Default, Deserialize)]
struct Identity {
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    model_type: Option<String>,
}

impl Identity {
    fn of(files: &ModelFiles) -> Result<Self, LoadError> {
        let ModelFiles::Nemo(nemo) = files else {
            return files.json(CONFIG.0);
        };
        let class = nemo.class()?;
        Ok(Self {
            architectures: class.map(|class| vec![class]),
            model_type: None,
        })
    }
}

/// The entry for a checkpoint, by `architectures` or else by `model_type`.
pub(crate) fn pick(files: &ModelFiles) -> Result<&'static Entry, LoadError> {
    let identity = Identity::of(files)?;
    let names = identity.architectures.unwrap_or_default();
    let by_architecture = ENTRIES.iter().find(|entry| {
        let known = |name: &String| entry.architectures.contains(&name.as_str());
        names.iter().any(known)
    });
    let by_type = || {
        let model_type = identity.model_type.as_deref()?;
        ENTRIES.iter().find(|entry| entry.name == model_type)
    };
    by_architecture.or_else(by_type).ok_or_else(|| {
        let found = match (names.as_slice(), &identity.model_type) {
            ([], None) => "a checkpoint with neither `architectures` nor `model_type`".to_owned(),
            ([], Some(model_type)) => format!("`model_type` `{model_type}`"),
            (names, _) => format!("architecture `{}`", names.join("`, `")),
        };
        LoadError::Architecture {
            file: match files {
                ModelFiles::Nemo(_) => nemo::CONFIG_FILE,
                _ => CONFIG.0,
            },
            found,
            supported: supported(),
        }
    })
}

fn supported() -> String {
    let entry = |entry: &Entry| format!("{} ({})", entry.name, entry.architectures.join(", "));
    ENTRIES.iter().map(entry).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(config: &'static str) -> Result<&'static str, String> {
        let files = Box::leak(Box::new([("config.json", config.as_bytes())]));
        match pick(&ModelFiles::Embedded(files)) {
            Ok(entry) => Ok(entry.name),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn architecture_or_model_type_picks_the_entry() {
        assert_eq!(
            picked(r#"{"architectures": ["Phi3VForCausalLM"]}"#),
            Ok("phi3_v")
        );
        assert_eq!(picked(r#"{"model_type": "phi3_v"}"#), Ok("phi3_v"));
        assert_eq!(
            picked(r#"{"architectures": null, "model_type": "phi3_v"}"#),
            Ok("phi3_v")
        );
    }

    #[test]
    fn an_unknown_architecture_is_answered_with_the_known_ones() {
        let error = picked(r#"{"architectures": ["BertModel"], "model_type": "bert"}"#);
        assert_eq!(
            error.unwrap_err(),
            "`config.json`: architecture `BertModel` is not supported; \
             supported are kosmos-2 (Kosmos2ForConditionalGeneration), \
             llava (LlavaForConditionalGeneration), \
             llava_next (LlavaNextForConditionalGeneration), mllama (MllamaForConditionalGeneration), neva (MegatronNevaModel), phi3_v (Phi3VForCausalLM)"
        );
        assert!(picked("{}").unwrap_err().contains("neither"));
    }
}
