//! Checkpoints from the Hugging Face hub, through its own cache layout.
//!
//! What is fetched: configuration, tokenizer, template and safetensors weights of **one**
//! commit. Never pickles, never code. A file that breaks off is resumed by the next call; a
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

/// The folder of the cache that holds `source`, if it was fetched before.
pub(crate) fn cached(source: &Source) -> Option<PathBuf> {
    let config = Cache::from_env()
        .repo(source.at(&source.revision))
        .get("config.json")?;
    let folder = config.parent()?;
    // Weights come last: a fetch that broke off leaves a folder without them.
    has_weights(folder).then(|| folder.to_owned())
}

fn has_weights(folder: &Path) -> bool {
    ["model.safetensors", "model.safetensors.index.json"]
        .iter()
        .any(|name| folder.join(name).exists())
}

/// Fetches what is missing of `source` and gives its folder in the cache.
///
/// `HF_HOME` places the cache, `HF_ENDPOINT` the hub, `HF_TOKEN` (or the token file of the
/// Hugging Face tools) opens gated repositories.
pub(crate) fn download(source: &Source) -> Result<PathBuf> {
    let mut builder = ApiBuilder::from_env()
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
    files.retain(|name| is_wanted(name));
    files.sort_by_key(|name| (is_weight(name), name.clone()));
    if !files.iter().any(|name| is_weight(name)) {
        bail!("`{}` holds no safetensors weights", source.repo);
    }
    let cache = Cache::from_env().repo(source.at(&listing.sha));
    let mut config = None;
    for name in &files {
        let path = match cache.get(name) {
            Some(path) => path,
            None => fetch(&commit, name, source.sha256.get(name))?,
        };
        if name == "config.json" {
            config = Some(path);
        }
    }
    // Lets `cached` find the commit by the name it was asked for.
    Cache::from_env()
        .repo(source.at(&source.revision))
        .create_ref(&listing.sha)
        .context("cannot write the cache's reference")?;
    config
        .and_then(|path| path.parent().map(Path::to_owned))
        .with_context(|| format!("`{}` holds no config.json", source.repo))
}

fn is_weight(name: &str) -> bool {
    name.ends_with(".safetensors")
}

/// Top-level files that a server can use without executing anything.
fn is_wanted(name: &str) -> bool {
    let harmless = [".json", ".jinja", ".safetensors"]
        .iter()
        .any(|end| name.ends_with(end));
    !name.contains('/') && (harmless || name == "tokenizer.model" || name.starts_with("LICENSE"))
}

fn fetch(repo: &ApiRepo, name: &str, stated: Option<&String>) -> Result<PathBuf> {
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
    Ok(path)
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
}
