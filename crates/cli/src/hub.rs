//! Checkpoints from the Hugging Face hub, through its own cache layout.
//!
//! What is fetched: configuration, tokenizer, template and weights of **one** commit. Never code;
//! and pickles, which are read without executing anything in them, only of a repository that has
//! no safetensors, as OpenAI's CLIP has none. A file that breaks off is resumed by the next call; a
//! file whose SHA-256 the hub or the catalog states is checked before it is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};
use vlmd_models::{
    TORCH_WEIGHTS_FILE, TORCH_WEIGHTS_INDEX_FILE, WEIGHTS_FILE, WEIGHTS_INDEX_FILE, shard_names,
};

/// Every checkpoint has one.
const CONFIG_FILE: &str = "config.json";

/// Tries per file after the first, with growing pauses.
const RETRIES: usize = 3;

/// A repository at a revision.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// `owner/name`.
    pub(crate) repo: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
    /// SHA-256 that the catalog states, by file name.
    pub(crate) sha256: BTreeMap<String, String>,
}

impl Source {
    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }
}

/// The folder of the cache that holds `source`, if it was fetched before: by `vlmd download`, or
/// by any other of the Hugging Face tools.
pub(crate) fn cached(source: &Source) -> Option<PathBuf> {
    cached_in(&Cache::from_env(), source)
}

/// The same in another cache of this layout.
pub(crate) fn cached_in(cache: &Cache, source: &Source) -> Option<PathBuf> {
    let repo = cache.repo(source.at(&source.revision));
    // A branch or tag has a file that names its commit; a commit is a folder's name itself.
    let folder = match repo.get(CONFIG_FILE) {
        Some(config) => config.parent()?.to_owned(),
        None if is_commit(&source.revision) => repo.pointer_path(&source.revision),
        None => return None,
    };
    is_whole(&folder).then_some(folder)
}

/// Whether a revision is a commit's full name, and so no path.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether everything that is fetched last is there: the weights, each shard of them. A fetch
/// that broke off leaves a folder without them. `exists` follows the links to where bytes are.
pub(crate) fn is_whole(folder: &Path) -> bool {
    let exists = |name: &str| folder.join(name).exists();
    let shards = |index: &str| {
        let bytes = std::fs::read(folder.join(index)).ok()?;
        // One that cannot be read is not for the network to mend: loading says what is wrong.
        let Ok(names) = shard_names(index, &bytes) else {
            return Some(true);
        };
        Some(names.iter().all(|name| exists(name)))
    };
    let weights = [
        (WEIGHTS_FILE, WEIGHTS_INDEX_FILE),
        (TORCH_WEIGHTS_FILE, TORCH_WEIGHTS_INDEX_FILE),
    ];
    let whole = |&(file, index): &(&str, &str)| exists(file) || shards(index).unwrap_or(false);
    exists(CONFIG_FILE) && weights.iter().any(whole)
}

/// The part of a NIM container's cache at `root` that is one of this layout.
pub(crate) fn within(root: &Path) -> Cache {
    Cache::new(root.join("huggingface/hub"))
}

/// Fetches what is missing of `source` and gives its folder in `cache`.
///
/// `HF_HOME` places the tools' own cache, `HF_ENDPOINT` the hub, `HF_TOKEN` (or the token file of the
/// Hugging Face tools) opens gated repositories.
pub(crate) fn download(source: &Source, cache: &Cache) -> Result<PathBuf> {
    let mut builder = ApiBuilder::from_env()
        .with_cache_dir(cache.path().clone())
        .with_retries(RETRIES)
        .with_user_agent("vlmd", env!("CARGO_PKG_VERSION"));
    if let Ok(token) = std::env::var("HF_TOKEN")
        && !token.trim().is_empty()
    {
        builder = builder.with_token(Some(token.trim().to_owned()));
    }
    let api = builder.build().context("cannot set up the hub client")?;
    let listing = api.repo(source.at(&source.revision)).info().with_context(|| {
        format!(
            "cannot list `{}` at `{}`; a gated repository needs HF_TOKEN and an accepted licence",
            source.repo, source.revision
        )
    })?;
    // From here on one commit, whatever is pushed meanwhile.
    let commit = api.repo(source.at(&listing.sha));
    let mut files: Vec<_> = listing
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let safe = files.iter().any(|name| is_safetensors(name));
    files.retain(|name| is_wanted(name) || (!safe && is_pickle(name)));
    files.sort_by_key(|name| (is_weight(name), name.clone()));
    if !files.iter().any(|name| is_weight(name)) {
        bail!(
            "`{}` holds no weights in safetensors or `pytorch_model.bin`",
            source.repo
        );
    }
    if !files.iter().any(|name| name == CONFIG_FILE) {
        bail!("`{}` holds no {CONFIG_FILE}", source.repo);
    }
    let cache = cache.repo(source.at(&source.revision));
    let folder = cache.pointer_path(&listing.sha);
    for name in &files {
        if !folder.join(name).exists() {
            fetch(&commit, name, source.sha256.get(name))?;
        }
    }
    // Lets `cached` find the commit by the name it was asked for.
    cache
        .create_ref(&listing.sha)
        .context("cannot write the cache's reference")?;
    Ok(folder)
}

fn is_weight(name: &str) -> bool {
    is_safetensors(name) || is_pickle(name)
}

fn is_safetensors(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// `pytorch_model.bin` or one of its shards.
fn is_pickle(name: &str) -> bool {
    !name.contains('/') && name.starts_with("pytorch_model") && name.ends_with(".bin")
}

/// Top-level files that a server can use without executing anything.
fn is_wanted(name: &str) -> bool {
    let harmless = [".json", ".jinja", ".safetensors"]
        .iter()
        .any(|end| name.ends_with(end));
    !name.contains('/') && (harmless || name == "tokenizer.model" || name.starts_with("LICENSE"))
}

fn fetch(repo: &ApiRepo, name: &str, stated: Option<&String>) -> Result<()> {
    let path = repo
        .download_with_progress(name, Bar::default())
        .with_context(|| format!("cannot fetch `{name}`; run the command again to resume"))?;
    let blob = path
        .canonicalize()
        .with_context(|| format!("cannot find the fetched `{name}`"))?;
    // The hub names large files by their SHA-256, and the cache keeps that name.
    let by_hub = blob
        .file_name()
        .and_then(|etag| etag.to_str())
        .filter(|etag| etag.len() == 64);
    for expected in [by_hub, stated.map(String::as_str)].into_iter().flatten() {
        let found = sha256(&blob).with_context(|| format!("cannot read the fetched `{name}`"))?;
        if found != expected {
            std::fs::remove_file(&path).ok();
            std::fs::remove_file(&blob).ok();
            bail!("`{name}` has SHA-256 {found}, expected {expected}; it was removed");
        }
    }
    Ok(())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// One file's progress, on standard error where that is a terminal.
#[derive(Default)]
struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn init(&mut self, size: usize, name: &str) {
        let bar = ProgressBar::new(size as u64).with_message(name.to_owned());
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:40!} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        self.0 = Some(bar);
    }

    fn update(&mut self, size: usize) {
        if let Some(bar) = &self.0 {
            bar.inc(size as u64);
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_top_level_files_are_wanted() {
        for name in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "chat_template.jinja",
            "LICENSE",
        ] {
            assert!(is_wanted(name), "{name}");
        }
        for name in [
            "pytorch_model.bin",
            "modeling_phi3_v.py",
            "onnx/model.json",
            "../config.json",
        ] {
            assert!(!is_wanted(name), "{name}");
        }
    }

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    const SHARD_1: &str = "model-00001-of-00002.safetensors";
    const SHARD_2: &str = "model-00002-of-00002.safetensors";

    /// A cache with `org/model` at [`COMMIT`], as the Hugging Face tools lay it out.
    fn cache(files: &[&str]) -> (tempfile::TempDir, Cache) {
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::new(home.path().to_owned());
        let snapshot = home
            .path()
            .join("models--org--model/snapshots")
            .join(COMMIT);
        std::fs::create_dir_all(&snapshot).unwrap();
        for file in files {
            let index = format!(r#"{{"weight_map": {{"a": "{SHARD_1}", "b": "{SHARD_2}"}}}}"#);
            std::fs::write(snapshot.join(file), index).unwrap();
        }
        (home, cache)
    }

    fn at(revision: &str) -> Source {
        Source {
            repo: "org/model".to_owned(),
            revision: revision.to_owned(),
            sha256: BTreeMap::new(),
        }
    }

    #[test]
    fn a_folder_without_all_of_its_weights_is_fetched_again() {
        for (files, whole) in [
            (vec![CONFIG_FILE, WEIGHTS_FILE], true),
            (
                vec![CONFIG_FILE, WEIGHTS_INDEX_FILE, SHARD_1, SHARD_2],
                true,
            ),
            (vec![CONFIG_FILE, WEIGHTS_INDEX_FILE, SHARD_1], false),
            (vec![CONFIG_FILE], false),
            (vec![WEIGHTS_FILE], false),
        ] {
            let (_home, cache) = cache(&files);
            cache
                .repo(at("main").at("main"))
                .create_ref(COMMIT)
                .unwrap();
            assert_eq!(cached_in(&cache, &at("main")).is_some(), whole, "{files:?}");
        }
    }

    #[test]
    fn a_commit_is_found_by_itself_and_a_branch_by_its_reference() {
        let (home, cache) = cache(&[CONFIG_FILE, WEIGHTS_FILE]);
        let snapshot = home
            .path()
            .join("models--org--model/snapshots")
            .join(COMMIT);
        assert_eq!(cached_in(&cache, &at(COMMIT)), Some(snapshot));
        for revision in ["main", "../snapshots", "0123456", &COMMIT.replace('0', "f")] {
            assert_eq!(cached_in(&cache, &at(revision)), None, "{revision}");
        }
    }
}
