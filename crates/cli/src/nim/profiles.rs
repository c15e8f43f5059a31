//! Profiles: what NIM calls the ways in which a model can be run. Here these are the types that its
//! weights can have.
//!
//! A profile has an id of 64 hexadecimal digits, which scripts pick out of `list-model-profiles`, and
//! a name that says what it is. Ids are digests of the model and the type: they stay the same from
//! release to release.

use sha2::{Digest, Sha256};
use vlmd_models::catalog;

/// Types: in NIM's names, and in those of `--dtype`. The one that is taken by itself comes first.
const TYPES: [(&str, &str); 3] = [("bf16", "bf16"), ("fp16", "f16"), ("fp32", "f32")];

/// Engines whose profiles have names of this form.
const ENGINES: [&str; 5] = ["vlmd", "vllm", "sglang", "tensorrt_llm", "trtllm"];

/// A model with a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    /// As it was named, or as the catalog names it.
    pub(crate) model: String,
    nim: &'static str,
    /// As `--dtype` takes it.
    pub(crate) dtype: &'static str,
}

impl Profile {
    /// All profiles of a model.
    pub(crate) fn of(model: &str) -> impl Iterator<Item = Self> {
        let model = catalog::find(model)
            .map_or(model, |card| &card.id)
            .to_owned();
        TYPES.into_iter().map(move |(nim, dtype)| Self {
            model: model.clone(),
            nim,
            dtype,
        })
    }

    /// 64 hexadecimal digits.
    pub(crate) fn id(&self) -> String {
        let digest = Sha256::digest(format!("vlmd profile\n{}\n{}\n", self.model, self.nim));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// For people, and for scripts that look for a type.
    pub(crate) fn name(&self) -> String {
        format!("vlmd-{}-tp1-pp1", self.nim)
    }
}

/// What the id or the name of a profile stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Told by ids alone.
    pub(crate) model: Option<String>,
    /// As `--dtype` takes it.
    pub(crate) dtype: &'static str,
}

impl Chosen {
    /// Finds a profile of the catalog or of `models`: by its id, or a type by a name such as
    /// `vllm-bf16-tp1-pp1`.
    pub(crate) fn by_name(text: &str, models: &[&str]) -> Option<Self> {
        let is_id = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id {
            let cards = catalog::cards().iter().map(|card| card.id.as_str());
            let mut profiles = cards.chain(models.iter().copied()).flat_map(Profile::of);
            let found = profiles.find(|profile| profile.id().eq_ignore_ascii_case(text))?;
            return Some(Self {
                model: Some(found.model),
                dtype: found.dtype,
            });
        }
        let mut parts = text.split('-');
        if !ENGINES.contains(&parts.next()?) {
            return None;
        }
        parts.find_map(|part| {
            let (_, dtype) = TYPES.into_iter().find(|(nim, _)| *nim == part)?;
            Some(Self { model: None, dtype })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_and_lead_back_to_their_profile() {
        let mut ids = Vec::new();
        for card in catalog::cards() {
            for profile in Profile::of(&card.id) {
                let id = profile.id();
                assert_eq!(id.len(), 64);
                let chosen = Chosen::by_name(&id, &[]).unwrap();
                assert_eq!(chosen.model.as_ref(), Some(&card.id));
                assert_eq!(chosen.dtype, profile.dtype);
                ids.push(id);
            }
        }
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn a_model_has_the_same_profiles_by_any_of_its_names() {
        let ids = |name| {
            Profile::of(name)
                .map(|profile| profile.id())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids("TINY"), ids("vlmd/tiny"));
        let own = ids("/models/mine");
        assert_eq!(Chosen::by_name(&own[0], &[]), None);
        let chosen = Chosen::by_name(&own[0], &["/models/mine"]).unwrap();
        assert_eq!(chosen.model.as_deref(), Some("/models/mine"));
    }

    #[test]
    fn names_of_other_engines_say_a_type() {
        for (name, dtype) in [
            ("vlmd-bf16-tp1-pp1", Some("bf16")),
            ("vllm-fp16-tp1-pp1", Some("f16")),
            ("tensorrt_llm-h100-bf16-tp2-pp1-latency", Some("bf16")),
            ("vllm-fp8-tp1-pp1", None),
            ("bf16", None),
            ("", None),
        ] {
            let chosen = Chosen::by_name(name, &[]);
            assert_eq!(chosen.map(|chosen| chosen.dtype), dtype, "{name}");
        }
    }
}
