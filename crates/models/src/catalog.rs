//! The models that are known by name: one card each, in `models/catalog/`.
//!
//! A card says where a model comes from, under which names clients ask for it, and what it needs.
//! Whether it runs is decided by its checkpoint's own files (see [`load()`](crate::load())); a
//! directory that no card describes is served just as well.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use candle_core::DType;
use serde::Deserialize;

/// A card's file name and contents.
macro_rules! card {
    ($file:literal) => {
        (
            $file,
            include_str!(concat!("../../../models/catalog/", $file)),
        )
    };
}

/// The cards as they are written, in the order of their file names.
const CARDS: &[(&str, &str)] = &[
    card!("llava-1.5-13b.toml"),
    card!("llava-1.5-7b.toml"),
    card!("llava-v1.6-34b.toml"),
    card!("llava-v1.6-mistral-7b.toml"),
    card!("llava-v1.6-vicuna-7b.toml"),
    card!("meta-llama-3.2-11b-vision-instruct.toml"),
    card!("meta-llama-3.2-90b-vision-instruct.toml"),
    card!("microsoft-kosmos-2.toml"),
    card!("microsoft-phi-3-vision-128k-instruct.toml"),
    card!("microsoft-phi-3.5-vision-instruct.toml"),
    card!("nvidia-neva-22b.toml"),
    card!("vlmd-tiny.toml"),
];

/// The id of the model that is compiled into the program.
pub const EMBEDDED_MODEL: &str = "vlmd/tiny";

/// What is known of one model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The name that the hosted API uses.
    pub id: String,
    /// Other names that clients send.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// For people.
    pub title: String,
    /// Short name of the architecture, as in [`registry::Entry`](crate::registry::Entry).
    pub architecture: String,
    /// SPDX expression of the weights' licence.
    pub licence: String,
    /// How its answers were held against the reference's, in a few words.
    pub verified: String,
    /// Most tokens of prompt and answer together.
    pub context: usize,
    /// Most pictures that one request should carry.
    pub images_per_request: usize,
    /// Weights, the vision tower's included.
    pub parameters: u64,
    /// Numbers that the cache keeps for one token, over all layers, where it is known.
    pub kv_values_per_token: Option<u64>,
    /// Where to get it.
    pub hugging_face: Option<HuggingFace>,
    /// Published as a `.nemo` archive, whose file the user has to name.
    #[serde(default)]
    pub archive: bool,
}

/// A repository on the Hugging Face hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HuggingFace {
    /// `owner/name`.
    pub repository: String,
    /// Commit, tag or branch.
    pub revision: String,
    /// Whether `revision` is a commit, which cannot change under its name.
    pub revision_pinned: bool,
    /// Whether its owner must grant access first.
    pub gated: bool,
    /// What is needed to serve it.
    pub files: Vec<String>,
    /// SHA-256 in hexadecimal of those files for which it is known.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
}

impl Card {
    /// Bytes of the weights in memory.
    #[must_use]
    pub fn weight_bytes(&self, dtype: DType) -> u64 {
        self.parameters * dtype.size_in_bytes() as u64
    }

    /// Bytes of cache for one token, where it is known.
    #[must_use]
    pub fn kv_bytes_per_token(&self, dtype: DType) -> Option<u64> {
        Some(self.kv_values_per_token? * dtype.size_in_bytes() as u64)
    }

    fn answers_to(&self, name: &str) -> bool {
        let names = std::iter::once(&self.id).chain(&self.aliases);
        names.into_iter().any(|own| own.eq_ignore_ascii_case(name))
            || self
                .hugging_face
                .as_ref()
                .is_some_and(|source| source.repository.eq_ignore_ascii_case(name))
    }
}

/// All cards, in the order of their ids.
#[must_use]
pub fn cards() -> &'static [Card] {
    static PARSED: LazyLock<Vec<Card>> = LazyLock::new(|| {
        // The cards are part of the program, and a test parses each of them.
        let parse = |(_, card): &(&str, &str)| toml::from_str(card).ok();
        let mut cards: Vec<Card> = CARDS.iter().filter_map(parse).collect();
        cards.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        cards
    });
    &PARSED
}

/// The card of the model that goes by `name`: its id, an alias, or its repository on the hub, in
/// upper or lower case.
#[must_use]
pub fn find(name: &str) -> Option<&'static Card> {
    cards().iter().find(|card| card.answers_to(name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::registry::ENTRIES;

    #[test]
    fn every_card_parses() {
        for (file, card) in CARDS {
            if let Err(error) = toml::from_str::<Card>(card) {
                panic!("{file}: {error}");
            }
        }
        assert_eq!(cards().len(), CARDS.len());
    }

    #[test]
    fn every_card_file_is_listed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/catalog");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort_unstable();
        let listed: Vec<&str> = CARDS.iter().map(|(file, _)| *file).collect();
        assert_eq!(files, listed);
    }

    #[test]
    fn every_card_is_usable() {
        for card in cards() {
            let id = &card.id;
            assert!(
                ENTRIES.iter().any(|entry| entry.name == card.architecture),
                "{id}"
            );
            assert!(card.context > 0 && card.images_per_request > 0, "{id}");
            assert!(card.parameters > 0, "{id}");
            assert_eq!(
                card.kv_values_per_token.is_some_and(|values| values > 0),
                !card.archive,
                "{id}"
            );
            let elsewhere = card.archive || id == EMBEDDED_MODEL;
            assert_eq!(card.hugging_face.is_none(), elsewhere, "{id}");
            let Some(source) = &card.hugging_face else {
                continue;
            };
            let commit = source.revision.len() == 40
                && source.revision.bytes().all(|b| b.is_ascii_hexdigit());
            assert_eq!(source.revision_pinned, commit, "{id}");
            assert!(
                source.files.iter().any(|file| file == "config.json"),
                "{id}"
            );
            for (file, digest) in &source.sha256 {
                assert!(source.files.contains(file), "{id}: {file}");
                assert_eq!(digest.len(), 64, "{id}: {file}");
            }
        }
    }

    /// The table in `README.md`.
    fn table() -> String {
        let mut table = String::from(
            "| Model | Names | Licence | bf16 | Verified how |\n|---|---|---|---|---|\n",
        );
        for card in cards() {
            let source = card.hugging_face.iter().map(|source| &source.repository);
            let mut names: Vec<_> = std::iter::once(&card.id).chain(source).collect();
            names.dedup();
            let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
            let gated = card
                .hugging_face
                .as_ref()
                .is_some_and(|source| source.gated);
            let bytes = card.weight_bytes(DType::BF16) as f64;
            table += &format!(
                "| {} | {} | {}{} | {} | {} |\n",
                card.title,
                names.join(", "),
                card.licence,
                if gated { ", gated" } else { "" },
                if bytes < 1e9 {
                    format!("{:.0} MB", bytes / 1e6)
                } else {
                    format!("{:.1} GB", bytes / 1e9)
                },
                card.verified,
            );
        }
        table
    }

    #[test]
    fn the_readme_shows_the_cards() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
        let readme = std::fs::read_to_string(readme).unwrap();
        let table = table();
        assert!(readme.contains(&table), "README.md must have:\n{table}");
    }

    #[test]
    fn no_name_means_two_models() {
        let mut seen = BTreeSet::new();
        for card in cards() {
            for name in std::iter::once(&card.id).chain(&card.aliases) {
                assert!(seen.insert(name.to_ascii_lowercase()), "{name}");
            }
        }
    }

    #[test]
    fn models_are_found_by_any_name_in_any_case() {
        for name in [
            "microsoft/phi-3-vision-128k-instruct",
            "microsoft/Phi-3-vision-128k-instruct",
            "AI-phi-3-vision-128k-instruct",
        ] {
            let card = find(name).map(|card| card.id.as_str());
            assert_eq!(card, Some("microsoft/phi-3-vision-128k-instruct"), "{name}");
        }
        assert!(find("microsoft/phi-4").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn memory_follows_from_the_precision() {
        let card = find("phi-3.5-vision").unwrap();
        assert_eq!(card.weight_bytes(DType::BF16), 8_293_242_880);
        assert_eq!(card.weight_bytes(DType::F32), 16_586_485_760);
        assert_eq!(card.kv_bytes_per_token(DType::F16), Some(393_216));
    }
}
