//! NeVA against its reference, and `.nemo` archives that wish a server ill.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use tempfile::TempDir;
use vlmd_media::Picture;
use vlmd_models::{LoadOptions, ModelFiles, NemoFiles, Processor, load};

use crate::support::suite::{Suite, chat, prepare_chat};
use crate::support::{GoldenMessage, directories};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

static SUITES: LazyLock<Mutex<Vec<Suite>>> = LazyLock::new(|| {
    let load = |path: &std::path::PathBuf| Suite::new(path, &LoadOptions::default(), prepare_chat);
    Mutex::new(directories("neva").iter().map(load).collect())
});

fn suites() -> MutexGuard<'static, Vec<Suite>> {
    // A test that failed has changed nothing in here.
    SUITES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn prompts_ids_and_pixels_are_the_references() {
    for suite in suites().iter() {
        suite.check_prompts();
        suite.check_ids();
        suite.check_pixels(|stored, picture| stored.narrow(0, picture, 1).unwrap());
    }
}

#[test]
fn logits_and_tokens_are_the_references() {
    for suite in suites().iter() {
        suite.check_runs(&suite.runs(""));
    }
}

#[test]
fn answers_are_the_same_alone_and_in_company() {
    for suite in suites().iter() {
        suite.check_in_company(&suite.runs(""), false);
    }
}

#[test]
fn caches_of_fewer_bits_stay_close() {
    for suite in suites().iter() {
        suite.check_kv_dtypes(&suite.runs(""));
    }
}

#[test]
fn pictures_encoded_together_equal_pictures_encoded_alone() {
    for suite in suites().iter() {
        suite.check_encoded_together();
    }
}

#[test]
fn pictures_encoded_in_pieces_equal_pictures_encoded_whole() {
    for suite in suites().iter() {
        suite.check_encoded_in_pieces();
    }
}

#[test]
fn weights_widened_on_loading_change_nothing() {
    for suite in suites().iter() {
        suite.check_widened(LoadOptions::default(), "");
    }
}

/// A conversation in one template.
#[derive(Deserialize)]
struct Prompt {
    name: String,
    conv_template: String,
    use_im_start_end: bool,
    messages: Vec<GoldenMessage>,
    prompt: String,
    input_ids: Vec<u32>,
}

#[test]
fn every_template_writes_what_nemo_writes() {
    let golden = Path::new(GOLDENS).join("neva");
    let prompts = std::fs::read(golden.join("prompts.json")).unwrap();
    let prompts: Vec<Prompt> = serde_json::from_slice(&prompts).unwrap();
    assert!(prompts.len() > 60);
    let picture = Picture::from_rgb(2, 1, vec![9; 6]).unwrap();
    let mut processors: HashMap<(&str, bool), Arc<dyn Processor>> = HashMap::new();
    for prompt in &prompts {
        let template = (prompt.conv_template.as_str(), prompt.use_im_start_end);
        let name = format!("{}, {template:?}", prompt.name);
        let processor = processors.entry(template).or_insert_with(|| {
            let changed = unpacked(&golden.join("neva.nemo"), |config| {
                let (template, marks) = template;
                config
                    .replace(
                        "conv_template: nv_steerlm",
                        &format!("conv_template: {template}"),
                    )
                    .replace(
                        "use_im_start_end: false",
                        &format!("use_im_start_end: {marks}"),
                    )
            });
            let archive = NemoFiles::open(changed.path()).unwrap();
            let tower = ModelFiles::Directory(golden.join("clip"));
            let files = ModelFiles::Nemo(archive.with_tower(tower));
            load(&files, &LoadOptions::default()).unwrap().processor
        });
        let chat = chat(&prompt.messages).unwrap();
        assert_eq!(processor.render(&chat).unwrap(), prompt.prompt, "{name}");
        let shown = prompt.prompt.matches("<extra_id_5>").count();
        let prepared = processor
            .prepare(&chat, &vec![picture.clone(); shown])
            .unwrap();
        assert_eq!(prepared.tokens, prompt.input_ids, "{name}");
        assert_eq!(prepared.spans.len(), shown, "{name}");
    }
}

/// An archive as a directory, its configuration changed.
fn unpacked(archive: &Path, change: impl Fn(&str) -> String) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(File::open(archive).unwrap());
    archive.unpack(directory.path()).unwrap();
    let config = directory.path().join("model_config.yaml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, change(&text)).unwrap();
    directory
}

/// One of the archives that `tests/reference/broken_nemo.py` makes.
#[derive(Deserialize)]
struct Broken {
    file: String,
    about: String,
    outcomes: Vec<String>,
}

#[test]
fn hostile_archives_are_refused_in_words() {
    let folder = Path::new(GOLDENS).join("broken_nemo");
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
    let manifest: Vec<Broken> = serde_json::from_slice(&manifest).unwrap();
    assert!(manifest.len() > 60);
    let tower = ModelFiles::Directory(Path::new(GOLDENS).join("neva/clip"));
    for Broken {
        file,
        about,
        outcomes,
    } in manifest
    {
        let outcome = NemoFiles::open(&folder.join(&file)).and_then(|archive| {
            let files = ModelFiles::Nemo(archive.with_tower(tower.clone()));
            load(&files, &LoadOptions::default())
        });
        let (found, words) = match &outcome {
            Ok(_) => ("loads", String::new()),
            Err(error) => ("refused", error.to_string()),
        };
        assert!(
            outcomes.iter().any(|allowed| allowed == found),
            "{file} ({about}): {found} {words}"
        );
        // One sentence that names something, and not a dump.
        assert!(
            found == "loads" || (words.len() < 600 && words.contains('`')),
            "{file}: {words}"
        );
        if found == "refused" {
            println!("{file} ({about}): {words}");
        }
    }
    for escaped in ["../vlmd-escaped.txt", "../../vlmd-escaped.txt"] {
        assert!(!folder.join(escaped).exists());
    }
    assert!(!Path::new("/vlmd-escaped.txt").exists());
}

#[test]
fn any_number_of_ranks_may_have_written_a_distributed_checkpoint() {
    let golden = Path::new(GOLDENS).join("neva_dist");
    let changed = unpacked(&golden.join("neva.nemo"), |config| {
        config
            .replace(
                "tensor_model_parallel_size: 1",
                "tensor_model_parallel_size: 8",
            )
            .replace(
                "pipeline_model_parallel_size: 1",
                "pipeline_model_parallel_size: 4",
            )
    });
    let config = std::fs::read_to_string(changed.path().join("model_config.yaml")).unwrap();
    assert!(config.contains("\ntensor_model_parallel_size: 8"));
    let archive = NemoFiles::open(changed.path()).unwrap();
    let files = ModelFiles::Nemo(archive.with_tower(ModelFiles::Directory(golden.join("clip"))));
    assert!(load(&files, &LoadOptions::default()).is_ok());
}

#[test]
fn an_archive_without_a_tower_says_which_it_wants() {
    let archive = NemoFiles::open(&Path::new(GOLDENS).join("neva/neva.nemo")).unwrap();
    let wanted = vlmd_models::neva::wanted_tower(&archive).unwrap();
    assert_eq!(wanted.as_deref(), Some("openai/clip-vit-large-patch14-336"));
    let error = load(&ModelFiles::Nemo(archive), &LoadOptions::default()).unwrap_err();
    let words = error.to_string();
    assert!(words.contains("--vision-tower"), "{words}");
    assert!(words.contains("clip-vit-large-patch14-336"), "{words}");
    // This one was trained with its tower.
    let archive = NemoFiles::open(&Path::new(GOLDENS).join("neva_llama/neva.nemo")).unwrap();
    assert_eq!(vlmd_models::neva::wanted_tower(&archive).unwrap(), None);
}
