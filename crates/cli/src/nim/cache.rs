//! `download-to-cache`, `create-model-store` and `check-cache-env`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use vlmd_models::ModelFiles;
use vlmd_models::catalog::EMBEDDED_MODEL;

use super::profiles::Chosen;
use crate::args::ServeArgs;
use crate::resolve::{Wanted, resolve};
use crate::settings::{self, Environment};

/// Fetch models into the cache at NIM_CACHE_PATH, or else into Hugging Face's.
///
/// Without arguments: the model that the environment names (NIM_MODEL_PATH, NIM_MODEL_NAME,
/// VLMD_MODEL). All profiles of a model have the same files.
#[derive(Debug, Parser)]
#[command(name = "download-to-cache", version)]
struct DownloadArguments {
    /// Profiles, by the id or name that list-model-profiles prints, or models by name
    #[arg(short = 'p', long, alias = "profile", value_name = "ID", num_args = 0..)]
    profiles: Vec<String>,
    /// All profiles of the model that the environment names
    #[arg(long, conflicts_with = "profiles")]
    all: bool,
    /// The default adapters: there are none
    #[arg(long)]
    lora: bool,
    /// A model by URI, such as hf://OWNER/NAME
    #[arg(long, value_name = "URI", conflicts_with_all = ["profiles", "all"])]
    model_uri: Option<String>,
    /// Not used: models are known by the catalog
    #[arg(long, value_name = "FILE")]
    manifest_file: Option<PathBuf>,
}

/// Put the files of a model into a directory of its own, for hosts without a network: give it to
/// NIM_MODEL_PATH there. What is not in the cache is fetched first.
#[derive(Debug, Parser)]
#[command(name = "create-model-store", version)]
struct StoreArguments {
    /// A profile, by the id or name that list-model-profiles prints, or a model by name
    #[arg(short = 'p', long, value_name = "ID")]
    profile: String,
    /// The directory, which is made if it is not there
    #[arg(short = 'm', long, value_name = "DIR")]
    model_store: PathBuf,
}

/// Fetches models, and prints the folder of each.
pub(super) fn download(arguments: &[OsString], environment: &Environment) -> Result<()> {
    let arguments = DownloadArguments::parse_from(arguments);
    if arguments.lora {
        bail!("`--lora`: adapters are not served, and there are none to fetch");
    }
    let mut environment = environment.clone();
    if let Some(uri) = arguments.model_uri {
        // Read as the variable is, which goes first of all that name a model.
        environment.remove("VLMD_MODEL");
        environment.insert("NIM_MODEL_PATH".to_owned(), uri);
    }
    if let Some(file) = arguments.manifest_file {
        let line = format!("`--manifest-file {}` is not used", file.display());
        writeln!(io::stderr(), "download-to-cache: {line}").ok();
    }
    let args = configured(&environment)?;
    let mut models = BTreeSet::new();
    for profile in &arguments.profiles {
        models.insert(model_of(profile, &args.model)?);
    }
    if models.is_empty() {
        models.insert(args.model.clone());
    }
    for model in models {
        if model == EMBEDDED_MODEL {
            bail!(
                "`{EMBEDDED_MODEL}` is part of the program: there is nothing to fetch. Name a model \
                 with NIM_MODEL_PATH or `--model-uri`, or a profile with `--profiles`"
            );
        }
        let folder = folder(&model, &args)?;
        writeln!(io::stdout(), "{}", folder.display())?;
    }
    Ok(())
}

/// Makes a model store, and prints its path.
pub(super) fn create_store(arguments: &[OsString], environment: &Environment) -> Result<()> {
    let arguments = StoreArguments::parse_from(arguments);
    let args = configured(environment)?;
    let model = model_of(&arguments.profile, &args.model)?;
    let folder = folder(&model, &args)?;
    let store = &arguments.model_store;
    copy_files(&folder, store)
        .with_context(|| format!("cannot make the model store `{}`", store.display()))?;
    writeln!(io::stdout(), "{}", store.display())?;
    Ok(())
}

/// Tells whether the cache can be used.
pub(super) fn check(environment: &Environment) -> Result<()> {
    let args = configured(environment)?;
    let Some(path) = args.deployment.cache_path else {
        bail!("NIM_CACHE_PATH is not set: models are fetched into Hugging Face's own cache");
    };
    let probe = path.join(format!(".vlmd-{}", std::process::id()));
    let written = fs::create_dir_all(&path).and_then(|()| fs::write(&probe, ""));
    fs::remove_file(&probe).ok();
    written.with_context(|| {
        format!(
            "the cache `{}` cannot be written to; mount a directory that this user owns",
            path.display()
        )
    })?;
    writeln!(io::stdout(), "{} can be used", path.display())?;
    Ok(())
}

/// The settings that the environment makes.
fn configured(environment: &Environment) -> Result<ServeArgs> {
    settings::of_environment(environment)?
        .serve()
        .context("there are no settings")
}

/// The model of a profile. Names of profiles are of the `configured` one.
fn model_of(profile: &str, configured: &str) -> Result<String> {
    match Chosen::by_name(profile, &[configured]) {
        Some(Chosen {
            model: Some(model), ..
        }) => Ok(model),
        Some(_) => Ok(configured.to_owned()),
        None if profile.contains('/') || Path::new(profile).exists() => Ok(profile.to_owned()),
        None => match vlmd_models::catalog::find(profile) {
            Some(card) => Ok(card.id.clone()),
            None => bail!("`{profile}` is none of the profiles that `list-model-profiles` names"),
        },
    }
}

/// The folder of a model, which is fetched unless it is there.
fn folder(model: &str, args: &ServeArgs) -> Result<PathBuf> {
    let wanted = Wanted {
        model,
        revision: args.revision.as_deref(),
        vision_tower: None,
        cache_path: args.deployment.cache_path.as_deref(),
        offline: args.deployment.offline,
    };
    // Whether it fits into this machine is not asked: it may be for another.
    match resolve(wanted, |_| Ok(()))?.files {
        ModelFiles::Directory(folder) => Ok(folder),
        _ => bail!("`{model}` is one file, or part of the program: there is no folder to make"),
    }
}

/// Copies the files of a folder, through links, without folders in it. What is there in the right
/// length stays; no file is ever seen half.
fn copy_files(folder: &Path, store: &Path) -> Result<()> {
    fs::create_dir_all(store)?;
    for entry in fs::read_dir(folder)? {
        let from = entry?.path();
        let data = fs::metadata(&from).with_context(|| format!("`{}`", from.display()))?;
        let Some(name) = from.file_name().filter(|_| data.is_file()) else {
            continue;
        };
        let to = store.join(name);
        if fs::metadata(&to).is_ok_and(|there| there.len() == data.len()) {
            continue;
        }
        let part = store.join(format!("{}.part", name.to_string_lossy()));
        fs::copy(&from, &part)
            .and_then(|_| fs::rename(&part, &to))
            .with_context(|| format!("`{}`", to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        DownloadArguments::command().debug_assert();
        StoreArguments::command().debug_assert();
        let given = ["download-to-cache", "--profile", "a", "b", "-p", "c"];
        assert_eq!(
            DownloadArguments::parse_from(given).profiles,
            ["a", "b", "c"]
        );
    }

    #[test]
    fn profiles_lead_to_models() {
        let of = |profile: &str| model_of(profile, "owner/model").map_err(|e| e.to_string());
        assert_eq!(of("vllm-bf16-tp1-pp1").as_deref(), Ok("owner/model"));
        assert_eq!(of("kosmos-2").as_deref(), Ok("microsoft/kosmos-2"));
        assert_eq!(of("someone/other").as_deref(), Ok("someone/other"));
        for odd in ["", "nonsense", &"0".repeat(64)] {
            assert!(
                of(odd).unwrap_err().contains("list-model-profiles"),
                "{odd}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_store_holds_files_and_no_links() {
        let root = tempfile::tempdir().unwrap();
        let (folder, store) = (root.path().join("snapshot"), root.path().join("a/store"));
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(root.path().join("blob"), "weights").unwrap();
        std::os::unix::fs::symlink("../blob", folder.join("model.safetensors")).unwrap();
        fs::write(folder.join("config.json"), "{}").unwrap();
        copy_files(&folder, &store).unwrap();
        // A second time nothing is left to be done, and what is short is made whole.
        fs::write(store.join("model.safetensors"), "wei").unwrap();
        copy_files(&folder, &store).unwrap();
        let weights = store.join("model.safetensors");
        assert!(fs::symlink_metadata(&weights).unwrap().is_file());
        assert_eq!(fs::read_to_string(&weights).unwrap(), "weights");
        let mut names: Vec<_> = fs::read_dir(&store)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["config.json", "model.safetensors"]);
    }
}
