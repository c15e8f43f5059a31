//! What the server tells of the files that it serves.

use std::path::Path;

use vlmd_models::catalog::{self, Card, EMBEDDED_MODEL};
use vlmd_models::{LoadedModel, ModelFiles};
use vlmd_server::{Checkpoint, CheckpointFile};

use crate::args::{Precision, ServeArgs};
use crate::resolve::{ResolvedModel, hub_source};

/// Describes what was loaded, without a word about where it lies on this machine.
pub(crate) fn describe(
    args: &ServeArgs,
    resolved: &ResolvedModel,
    loaded: &LoadedModel,
) -> Checkpoint {
    let origin = Origin::of(&args.model, args.revision.as_deref(), resolved);
    // By its name: what somebody has put into a directory is theirs to describe.
    let card = origin.card;
    Checkpoint {
        url: origin.url,
        version: origin.version,
        architecture: loaded.architecture.to_owned(),
        precision: match args.dtype {
            Precision::Auto if loaded.model.device().is_cpu() => None,
            Precision::Auto | Precision::Bf16 => Some("bf16".to_owned()),
            Precision::F16 => Some("f16".to_owned()),
            Precision::F32 => Some("f32".to_owned()),
        },
        weight_bytes: loaded.weight_bytes,
        licence: card.map(|card| card.licence.clone()),
        files: origin.files,
    }
}

/// Where a model is from.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    url: String,
    version: String,
    card: Option<&'static Card>,
    files: Vec<CheckpointFile>,
}

impl Origin {
    fn of(model: &str, revision: Option<&str>, resolved: &ResolvedModel) -> Self {
        let file = |name: &str, sha256: Option<&String>| CheckpointFile {
            name: name.to_owned(),
            sha256: sha256.cloned(),
        };
        let local = || {
            let name = resolved.names.first().map_or("", String::as_str);
            Self {
                url: format!("local://{name}"),
                version: "local".to_owned(),
                card: None,
                files: Vec::new(),
            }
        };
        match &resolved.files {
            ModelFiles::Embedded(files) => Self {
                url: format!("embedded://{EMBEDDED_MODEL}"),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                card: catalog::find(EMBEDDED_MODEL),
                files: files.iter().map(|(name, _)| file(name, None)).collect(),
            },
            ModelFiles::Directory(_) if !Path::new(model).is_dir() => {
                let Ok(source) = hub_source(model, revision) else {
                    return local();
                };
                let card = catalog::find(model);
                let names = card.and_then(|card| card.hugging_face.as_ref());
                let names = names.into_iter().flat_map(|published| &published.files);
                Self {
                    url: format!("hf://{}@{}", source.repo, source.revision),
                    files: names
                        .map(|name| file(name, source.sha256.get(name)))
                        .collect(),
                    version: source.revision,
                    card,
                }
            }
            ModelFiles::Directory(_) | ModelFiles::Nemo(_) => local(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(files: ModelFiles, name: &str) -> ResolvedModel {
        ResolvedModel {
            files,
            names: vec![name.to_owned()],
        }
    }

    #[test]
    fn a_repository_is_told_with_its_revision_and_files() {
        let found = resolved(ModelFiles::Directory("/cache/x".into()), "some");
        let origin = Origin::of("microsoft/phi-3.5-vision-instruct", None, &found);
        assert!(
            origin
                .url
                .starts_with("hf://microsoft/Phi-3.5-vision-instruct@"),
            "{}",
            origin.url
        );
        assert_eq!(origin.card.map(|card| card.licence.as_str()), Some("MIT"));
        assert!(origin.files.iter().any(|file| file.name == "config.json"));
        let other = Origin::of("someone/model", Some("v2"), &found);
        assert_eq!(
            (other.url.as_str(), other.version.as_str()),
            ("hf://someone/model@v2", "v2")
        );
        assert!(other.card.is_none() && other.files.is_empty());
    }

    #[test]
    fn a_directory_is_told_by_its_name_alone() {
        let folder = env!("CARGO_MANIFEST_DIR");
        let found = resolved(ModelFiles::Directory(folder.into()), "mine");
        let origin = Origin::of(folder, None, &found);
        assert_eq!(origin.url, "local://mine");
        assert!(origin.card.is_none());
    }

    #[test]
    fn the_embedded_model_is_part_of_the_program() {
        let found = resolved(vlmd_models::tiny::embedded(), EMBEDDED_MODEL);
        let origin = Origin::of("tiny", None, &found);
        assert_eq!(origin.url, "embedded://vlmd/tiny");
        assert!(origin.files.iter().any(|file| file.name == "config.json"));
        assert_eq!(
            origin.card.map(|card| card.licence.as_str()),
            Some("MIT OR Apache-2.0")
        );
    }
}
