//! From the name of a model to its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hf_hub::Cache;
use vlmd_models::catalog::{self, Card, EMBEDDED_MODEL};
use vlmd_models::{ModelFiles, NemoFiles, neva};

use crate::args::ServeArgs;
use crate::hub::{self, Source};
use crate::nim_cache;

/// A model that is at hand.
pub(crate) struct ResolvedModel {
    /// Where its files are.
    pub(crate) files: ModelFiles,
    /// Names that clients may ask for it by, the preferred one first.
    pub(crate) names: Vec<String>,
}

/// What is asked for on the command line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// A name, a directory or an archive.
    pub(crate) model: &'a str,
    pub(crate) revision: Option<&'a str>,
    /// The tower for an archive that may need one.
    pub(crate) vision_tower: Option<&'a str>,
    /// A cache in NIM's layout to look into and to fetch into.
    pub(crate) cache_path: Option<&'a Path>,
    /// Nothing may be fetched.
    pub(crate) offline: bool,
}

impl<'a> Wanted<'a> {
    /// What a server is to serve.
    pub(crate) fn of(args: &'a ServeArgs) -> Self {
        Self {
            model: &args.model,
            revision: args.revision.as_deref(),
            vision_tower: args.vision_tower.as_deref(),
            cache_path: args.deployment.cache_path.as_deref(),
            offline: args.deployment.offline,
        }
    }
}

/// Finds what is wanted: the embedded model, a `.nemo` archive, a directory, or a repository of
/// the hub, which is fetched unless it is in NIM's cache or Hugging Face's. Before one of the
/// catalog is fetched, `room` may refuse it by its card.
///
/// # Errors
/// When there is no such model, there is no room for it, or it cannot be fetched.
pub(crate) fn resolve(
    wanted: Wanted<'_>,
    room: impl FnOnce(&Card) -> Result<()>,
) -> Result<ResolvedModel> {
    let Wanted {
        model: name,
        revision,
        vision_tower,
        cache_path,
        offline: _,
    } = wanted;
    let path = Path::new(name);
    if path.exists() && NemoFiles::is_nemo(path) {
        let files = nemo(path, wanted)?;
        let stem = path
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        return Ok(ResolvedModel {
            files: ModelFiles::Nemo(files),
            names: match stem {
                Some(stem) => catalog::find(&stem).map_or_else(|| vec![stem], card_names),
                None => vec![name.to_owned()],
            },
        });
    }
    if let Some(tower) = vision_tower {
        bail!(
            "`--vision-tower {tower}` is for `.nemo` archives, and `{name}` is none: other \
             checkpoints bring their tower"
        );
    }
    if let Some(card) = catalog::find(name)
        && card.id == EMBEDDED_MODEL
    {
        return Ok(ResolvedModel {
            files: vlmd_models::tiny::embedded(),
            names: card_names(card),
        });
    }
    if Path::new(name).is_dir() {
        let path = Path::new(name)
            .canonicalize()
            .with_context(|| format!("cannot open the directory `{name}`"))?;
        let stem = path
            .file_name()
            .map(|stem| stem.to_string_lossy().into_owned());
        return Ok(ResolvedModel {
            files: ModelFiles::Directory(path),
            names: vec![stem.unwrap_or_else(|| name.to_owned())],
        });
    }
    let source = hub_source(name, revision)?;
    let card = catalog::find(name);
    let id = card.map_or(name, |card| &card.id);
    let folder = match nim_cache::find(cache_path, id, revision, &source) {
        Some(folder) => folder,
        None => fetched(&source, wanted, || card.map_or(Ok(()), room))?,
    };
    Ok(ResolvedModel {
        files: ModelFiles::Directory(folder),
        names: card.map_or_else(|| vec![name.to_owned()], card_names),
    })
}

/// An archive with the vision tower that it needs.
fn nemo(path: &Path, wanted: Wanted<'_>) -> Result<NemoFiles> {
    let files = NemoFiles::open(path)?;
    let tower = match wanted.vision_tower {
        Some(tower) => Some(tower.to_owned()),
        None => neva::wanted_tower(&files)?,
    };
    let Some(tower) = tower else {
        return Ok(files);
    };
    let folder = if Path::new(&tower).is_dir() {
        PathBuf::from(tower)
    } else {
        let source = hub_source(&tower, None);
        source
            .and_then(|source| fetched(&source, wanted, || Ok(())))
            .with_context(|| format!("`{}` needs the vision tower `{tower}`", path.display()))?
    };
    Ok(files.with_tower(ModelFiles::Directory(folder)))
}

/// The folder of a repository, out of a cache, or else from the hub where there is room.
fn fetched(
    source: &Source,
    wanted: Wanted<'_>,
    room: impl FnOnce() -> Result<()>,
) -> Result<PathBuf> {
    let own = wanted.cache_path.map(hub::within);
    let found = own.as_ref().and_then(|cache| hub::cached_in(cache, source));
    if let Some(folder) = found.or_else(|| hub::cached(source)) {
        return Ok(folder);
    }
    if let Some(by) = forbidden(wanted) {
        let repo = &source.repo;
        bail!("`{repo}` is not in the Hugging Face cache, and {by} forbids fetching it");
    }
    room()?;
    hub::download(source, &own.unwrap_or_else(Cache::from_env))
}

/// The folder of a repository as the hub has it now; where nothing may be fetched, as it is at
/// hand.
///
/// # Errors
/// When there is no such repository, it cannot be fetched, or it is not at hand and may not be.
pub(crate) fn download(wanted: Wanted<'_>) -> Result<PathBuf> {
    let source = hub_source(wanted.model, wanted.revision)?;
    if forbidden(wanted).is_none() {
        let own = wanted.cache_path.map(hub::within);
        return hub::download(&source, &own.unwrap_or_else(Cache::from_env));
    }
    let card = catalog::find(wanted.model);
    let id = card.map_or(wanted.model, |card| &card.id);
    match nim_cache::find(wanted.cache_path, id, wanted.revision, &source) {
        Some(folder) => Ok(folder),
        None => fetched(&source, wanted, || Ok(())),
    }
}

/// What forbids fetching models, if something does.
fn forbidden(wanted: Wanted<'_>) -> Option<&'static str> {
    if wanted.offline {
        Some("`--offline` (NIM_DISABLE_MODEL_DOWNLOAD)")
    } else {
        offline().then_some("HF_HUB_OFFLINE")
    }
}

/// The repository behind a catalog name or alias, or behind a plain `owner/name`.
///
/// # Errors
/// When `name` is neither.
pub(crate) fn hub_source(name: &str, revision: Option<&str>) -> Result<Source> {
    if let Some(card) = catalog::find(name) {
        let Some(published) = &card.hugging_face else {
            if card.archive {
                bail!(
                    "`{}` is published as an archive that is not fetched: name its file with \
                     `--model FILE.nemo`",
                    card.id
                );
            }
            bail!(
                "`{}` is part of the program: there is nothing to download",
                card.id
            );
        };
        return Ok(Source {
            repo: published.repository.clone(),
            revision: revision.unwrap_or(&published.revision).to_owned(),
            // Sums are of the card's own revision.
            sha256: if revision.is_none() {
                published.sha256.clone()
            } else {
                Default::default()
            },
        });
    }
    let valid = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    match name.split_once('/') {
        Some((owner, repo)) if valid(owner) && valid(repo) => Ok(Source {
            repo: name.to_owned(),
            revision: revision.unwrap_or("main").to_owned(),
            sha256: Default::default(),
        }),
        _ => bail!(
            "`{name}` is no directory, no archive, no model of the catalog (see `vlmd models`) and no `owner/name` of a repository"
        ),
    }
}

/// The names that a model of the catalog answers to.
pub(crate) fn card_names(card: &Card) -> Vec<String> {
    let repository = card
        .hugging_face
        .iter()
        .map(|published| &published.repository);
    let mut names: Vec<String> = Vec::new();
    for name in std::iter::once(&card.id)
        .chain(&card.aliases)
        .chain(repository)
    {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Whether the Hugging Face tools' own switch forbids the network.
fn offline() -> bool {
    std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| {
        matches!(
            value.to_ascii_uppercase().as_str(),
            "1" | "ON" | "YES" | "TRUE"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_repositories() {
        let source = hub_source("ai-phi-3-vision-128k-instruct", None).unwrap();
        assert_eq!(source.repo, "microsoft/Phi-3-vision-128k-instruct");
        let source = hub_source("someone/some-model", Some("v2")).unwrap();
        assert_eq!(
            (source.repo.as_str(), source.revision.as_str()),
            ("someone/some-model", "v2")
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in [
            "",
            "tiny",
            "../x/y",
            "a/b/c",
            "/etc",
            "a/..",
            "http://x/y",
            EMBEDDED_MODEL,
        ] {
            assert!(hub_source(name, None).is_err(), "{name}");
        }
    }

    #[test]
    fn the_embedded_model_answers_to_its_alias() {
        for name in [EMBEDDED_MODEL, "TINY"] {
            let wanted = Wanted {
                model: name,
                revision: None,
                vision_tower: None,
                cache_path: None,
                offline: false,
            };
            let resolved = resolve(wanted, |_| Ok(())).unwrap();
            assert_eq!(resolved.names, [EMBEDDED_MODEL, "tiny"]);
            assert!(matches!(resolved.files, ModelFiles::Embedded(_)));
        }
    }

    #[test]
    fn a_card_is_known_by_all_its_names_once() {
        let card = catalog::find("microsoft/phi-3.5-vision-instruct").unwrap();
        let names = card_names(card);
        assert_eq!(names[0], card.id);
        assert!(names.contains(&"microsoft/Phi-3.5-vision-instruct".to_owned()));
    }
}
