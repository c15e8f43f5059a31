//! Models that a NIM container left in its cache.
//!
//! Below `NIM_CACHE_PATH` (`/opt/nim/.cache` in the container) lies what came from NGC, at
//! `ngc/hub/models--nim--{org}--{model}/snapshots/{version}`, in links to `blobs` as in the
//! Hugging Face cache, and at `huggingface/hub` what came from there. Of the versions only those
//! can be served that hold a checkpoint: a profile of TensorRT-LLM is compiled for one card.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::hub::{self, Source};

/// Where containers keep it.
const DEFAULT_PATH: &str = "/opt/nim/.cache";

/// The folder of the cache that holds the model called `name`, which on the hub is `source`.
/// `version` is one of NGC's, or none for the one fetched last. `root` is the cache, or none for
/// where containers keep it.
pub(crate) fn find(
    root: Option<&Path>,
    name: &str,
    version: Option<&str>,
    source: &Source,
) -> Option<PathBuf> {
    find_in(
        root.unwrap_or(Path::new(DEFAULT_PATH)),
        name,
        version,
        source,
    )
}

fn find_in(root: &Path, name: &str, version: Option<&str>, source: &Source) -> Option<PathBuf> {
    let hub = hub::within(root);
    from_ngc(root, name, version).or_else(|| hub::cached_in(&hub, source))
}

fn from_ngc(root: &Path, name: &str, version: Option<&str>) -> Option<PathBuf> {
    let model = format!("models--nim--{}", name.replace('/', "--"));
    let snapshots = root.join("ngc/hub").join(model).join("snapshots");
    let folders = std::fs::read_dir(snapshots).ok()?.filter_map(Result::ok);
    folders
        .filter(|folder| version.is_none_or(|version| folder.file_name() == version))
        .filter(|folder| hub::is_whole(&folder.path()))
        .max_by_key(|folder| {
            let changed = folder.metadata().and_then(|data| data.modified());
            // One name of two is taken always, where the clock does not tell.
            (
                changed.unwrap_or(SystemTime::UNIX_EPOCH),
                folder.file_name(),
            )
        })
        .map(|folder| folder.path())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn source() -> Source {
        Source {
            repo: "owner/Model".to_owned(),
            revision: "main".to_owned(),
            sha256: Default::default(),
        }
    }

    fn add(root: &Path, snapshot: &str, files: &[&str]) -> PathBuf {
        let folder = root.join(snapshot);
        fs::create_dir_all(&folder).unwrap();
        for file in files {
            fs::write(folder.join(file), "{}").unwrap();
        }
        folder
    }

    #[test]
    fn versions_with_a_checkpoint_are_found_by_the_models_name() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let model = "ngc/hub/models--nim--meta--some-model/snapshots";
        let find = |version| find_in(root, "meta/some-model", version, &source());
        assert_eq!(find(None), None);
        add(
            root,
            &format!("{model}/h100-trtllm"),
            &["config.json", "rank0.engine"],
        );
        assert_eq!(find(None), None);
        let whole = ["config.json", "model.safetensors"];
        let first = add(root, &format!("{model}/hf-1"), &whole);
        assert_eq!(find(None), Some(first.clone()));
        let second = add(root, &format!("{model}/hf-2"), &whole);
        assert_eq!(find(None), Some(second));
        assert_eq!(find(Some("hf-1")), Some(first));
        assert_eq!(find(Some("h100-trtllm")), None);
        assert_eq!(find_in(root, "meta/other", None, &source()), None);
    }

    #[test]
    fn what_came_from_hugging_face_is_found_by_its_repository() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let model = "huggingface/hub/models--owner--Model";
        let whole = ["config.json", "model.safetensors"];
        let folder = add(root, &format!("{model}/snapshots/{commit}"), &whole);
        fs::create_dir_all(root.join(model).join("refs")).unwrap();
        fs::write(root.join(model).join("refs/main"), commit).unwrap();
        let found = find_in(root, "meta/some-model", None, &source());
        assert_eq!(found, Some(folder));
    }
}
