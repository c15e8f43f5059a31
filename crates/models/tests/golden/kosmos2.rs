//! Kosmos-2 against the reference implementation.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use futures::executor::block_on;
use vlmd_backend::KvDtype;
use vlmd_engine::{Engine, EngineConfig, Event, GenerateRequest, Limits, Sampling};
use vlmd_models::kosmos2::Kosmos2Processor;
use vlmd_models::{LoadOptions, ModelFiles, load};

use crate::support::suite::{NEW_TOKENS, Suite};

static SUITES: LazyLock<Mutex<Vec<Suite>>> = LazyLock::new(|| {
    let suite = |path: &std::path::PathBuf| {
        let files = ModelFiles::Directory(path.clone());
        let options = LoadOptions::default();
        let written = Kosmos2Processor::load(&files, &options).unwrap();
        Suite::new(path, &options, |_, golden, case| {
            written
                .prepare_prompt(&case.prompt, &golden.pictures(case))
                .unwrap()
        })
    };
    Mutex::new(
        crate::support::directories("kosmos2")
            .iter()
            .map(suite)
            .collect(),
    )
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
        suite.check_pixels(|stored, _| stored.clone());
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

/// As the checkpoint's own settings ask for it, through the engine: runs are counted over the
/// prompt with the ids that stand where the picture does.
#[test]
fn answers_that_repeat_no_three_tokens_are_the_references() {
    for suite in suites().iter() {
        let files = ModelFiles::Directory(suite.golden.directory.clone());
        let model = load(&files, &LoadOptions::default()).unwrap().model;
        let engine = Engine::start(model, EngineConfig::new(64, KvDtype::F32, 512)).unwrap();
        assert_eq!(suite.processor.no_repeat_ngram_size(), 3);
        for (case, (prompt, _)) in suite.golden.cases.iter().zip(&suite.prompts) {
            let sampling = Sampling {
                temperature: 0.0,
                no_repeat_ngram_size: suite.processor.no_repeat_ngram_size(),
                ..Sampling::default()
            };
            let limits = Limits {
                max_tokens: NEW_TOKENS,
                ..Limits::default()
            };
            let request = GenerateRequest::new(prompt.clone(), sampling, limits);
            let events: Vec<Event> = block_on(engine.submit(request).unwrap().remove(0).collect());
            let ids = events.iter().filter_map(|event| match event {
                Event::Token { id, .. } => Some(*id),
                _ => None,
            });
            let found: Vec<u32> = ids.collect();
            let expected: Vec<u32> = case.generated("generated_ids", "_ngram3").unwrap();
            let gaps: Vec<f64> = case.generated("top2_gaps", "_ngram3").unwrap();
            // A tie may fall the other way, and all that follows with it.
            let clear = gaps.iter().take_while(|gap| **gap > 1e-3).count();
            assert_eq!(found[..clear], expected[..clear], "{}", suite.label(case));
            if clear == NEW_TOKENS {
                let text = suite.processor.tokenizer().decode(&found, false).unwrap();
                let expected: String = case.generated("generated_text", "_ngram3").unwrap();
                assert_eq!(text, expected, "{}", suite.label(case));
            }
        }
    }
}
