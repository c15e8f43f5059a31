//! The goldens' checkpoints as other versions of the Hugging Face tools write them: the tensors'
//! newer names, settings left out or all spelt out, files that old copies lack. Whatever the
//! spelling, it is the same model.

use std::fs;
use std::path::Path;

use candle_core::Tensor;
use serde::Deserialize;
use vlmd_backend::{KvDtype, Prepared};
use vlmd_models::kosmos2::Kosmos2Processor;
use vlmd_models::mllama::MllamaProcessor;
use vlmd_models::{LoadOptions, ModelFiles, load};

use crate::checkpoint::Checkpoint;
use crate::support::runner::{MaxLen, Runner, Sequence};
use crate::support::suite::{chat, prepare_chat};
use crate::support::{Case, Golden, directories};

/// Prompts are run up to this length: spellings show in any.
const LONGEST: usize = 128;

/// What `golden.json` says of other spellings.
#[derive(Deserialize)]
struct Spellings {
    /// Prefixes by which newer checkpoints name the tensors, the first that fits.
    #[serde(default)]
    key_renames: Vec<(String, String)>,
    /// Files that may each be `config.json`.
    #[serde(default)]
    same_config: Vec<String>,
    /// Files that may each be `preprocessor_config.json`.
    #[serde(default)]
    same_preprocessor: Vec<String>,
}

impl Spellings {
    fn read(golden: &Golden) -> Self {
        let bytes = fs::read(golden.directory.join("golden.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

/// What a checkpoint makes of one case.
struct Outcome {
    prompt: Prepared,
    features: Vec<Tensor>,
    logits: Vec<f32>,
}

/// What the checkpoint in `directory` makes of the golden's shorter cases, and where it stops.
fn outcomes(directory: &Path, golden: &Golden) -> (Vec<u32>, Vec<Outcome>) {
    let files = ModelFiles::Directory(directory.to_owned());
    let options = LoadOptions::default();
    let loaded = load(&files, &options).unwrap();
    let prepare = |case: &Case| {
        let pictures = golden.pictures(case);
        match (loaded.architecture, &case.raw_prompt) {
            ("kosmos-2", _) => Kosmos2Processor::load(&files, &options)
                .unwrap()
                .prepare_prompt(&case.prompt, &pictures),
            (_, Some(prompt)) => MllamaProcessor::load(&files, &options)
                .unwrap()
                .prepare_prompt(prompt, &pictures),
            _ => Ok(prepare_chat(&*loaded.processor, golden, case)),
        }
        .unwrap()
    };
    let short = |case: &&Case| case.input_ids.len() < LONGEST;
    let outcome = |case: &Case| {
        let prompt = prepare(case);
        let images: Vec<_> = prompt.images.iter().collect();
        let features = loaded.model.encode(&images).unwrap();
        let length = prompt.tokens.len();
        let mut runner = Runner::new(&*loaded.model, KvDtype::F32, [length].into_iter());
        let sequence = Sequence::new(&prompt, &features, MaxLen::Fixed(length));
        let logits = runner.finish(&mut [sequence], usize::MAX).remove(0);
        Outcome {
            prompt,
            features,
            logits,
        }
    };
    let outcomes: Vec<_> = golden.cases.iter().filter(short).map(outcome).collect();
    let pictures = outcomes.iter().map(|outcome| outcome.features.len());
    assert!(pictures.sum::<usize>() > 0, "no short case has a picture");
    (loaded.processor.stop_ids().to_vec(), outcomes)
}

/// The copy does what the golden does, to the last bit.
fn assert_same(copy: &Checkpoint, golden: &Golden) {
    let (stop_ids, found) = outcomes(copy.directory(), golden);
    let (expected_stop_ids, expected) = outcomes(&golden.directory, golden);
    assert_eq!(stop_ids, expected_stop_ids);
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found.prompt.tokens, expected.prompt.tokens);
        assert_eq!(found.prompt.spans, expected.prompt.spans);
        assert_eq!(found.prompt.cross, expected.prompt.cross);
        let images = found.prompt.images.iter().zip(&expected.prompt.images);
        for (found, expected) in images {
            assert_eq!(found.key(), expected.key());
        }
        for (found, expected) in found.features.iter().zip(&expected.features) {
            assert_eq!(values(found), values(expected));
        }
        assert_eq!(found.logits, expected.logits);
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The goldens of some architectures with their spellings.
fn goldens(architectures: &[&str]) -> Vec<(Golden, Spellings)> {
    let directories = architectures.iter().flat_map(|name| directories(name));
    directories
        .map(|directory| {
            let golden = Golden::read(&directory);
            let spellings = Spellings::read(&golden);
            (golden, spellings)
        })
        .collect()
}

/// transformers from 4.52 on names the tensors anew.
#[test]
fn newer_names_of_the_tensors() {
    for (golden, spellings) in goldens(&["llava", "llava_next", "mllama"]) {
        let copy = Checkpoint::copy(&golden.directory);
        copy.edit_tensors(|tensors| {
            for (name, tensor) in std::mem::take(tensors) {
                let mut renames = spellings.key_renames.iter();
                let renamed = renames.find_map(|(old, new)| {
                    let rest = name.strip_prefix(old.as_str())?;
                    Some(format!("{new}{rest}"))
                });
                assert!(tensors.insert(renamed.unwrap(), tensor).is_none());
            }
        });
        assert_same(&copy, &golden);
    }
}

/// With every default written out, those of fields that mean nothing here, too.
#[test]
fn configurations_that_mean_the_same() {
    for (golden, spellings) in goldens(&["llava", "llava_next"]) {
        assert!(spellings.same_config.len() > 1);
        for file in &spellings.same_config {
            let copy = Checkpoint::copy(&golden.directory);
            fs::copy(golden.directory.join(file), copy.path("config.json")).unwrap();
            assert_same(&copy, &golden);
        }
    }
}

#[test]
fn settings_of_pictures_that_mean_the_same() {
    for (golden, spellings) in goldens(&["kosmos2"]) {
        assert!(spellings.same_preprocessor.len() > 1);
        for file in &spellings.same_preprocessor {
            let copy = Checkpoint::copy(&golden.directory);
            let settings = copy.path("preprocessor_config.json");
            fs::copy(golden.directory.join(file), settings).unwrap();
            assert_same(&copy, &golden);
        }
    }
}

/// The first copies had no processor of their own and no template.
#[test]
fn old_copies_without_processor_and_template() {
    for (golden, _) in goldens(&["llava", "llava_next"]) {
        let copy = Checkpoint::copy(&golden.directory);
        for file in ["processor_config.json", "chat_template.json"] {
            fs::remove_file(copy.path(file)).unwrap();
        }
        assert_same(&copy, &golden);
        let files = ModelFiles::Directory(copy.directory().to_owned());
        let processor = load(&files, &LoadOptions::default()).unwrap().processor;
        for case in &golden.cases {
            let chat = chat(&case.messages).unwrap();
            assert_eq!(processor.render(&chat).unwrap(), case.prompt);
        }
    }
}
