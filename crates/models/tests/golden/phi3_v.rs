//! phi3_v against the reference implementation.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::support::runner::MaxLen;
use crate::support::suite::{NEW_TOKENS, Run, Suite, chat, prepare_chat};
use serde::Deserialize;
use vlmd_media::Picture;
use vlmd_models::phi3_v::Phi3VProcessor;
use vlmd_models::{LoadOptions, ModelFiles};

/// A suite, and the longest sequence that takes the short rope factors.
static SUITES: LazyLock<Mutex<Vec<(Suite, usize)>>> = LazyLock::new(|| {
    #[derive(Deserialize)]
    struct Config {
        original_max_position_embeddings: usize,
    }
    let load = |path: &std::path::PathBuf| {
        let files = ModelFiles::Directory(path.clone());
        let config: Config = files.json("config.json").unwrap();
        let written = Phi3VProcessor::load(&files).unwrap();
        // Through the chat interface where it can say what the case says, else from the prompt.
        let suite = Suite::new(path, &LoadOptions::default(), |processor, golden, case| {
            if chat(&case.messages).is_some() {
                return prepare_chat(processor, golden, case);
            }
            let pictures = golden.pictures(case);
            let pictures: Vec<&Picture> = pictures.iter().collect();
            written.prepare_prompt(&case.prompt, &pictures).unwrap()
        });
        (suite, config.original_max_position_embeddings)
    };
    Mutex::new(
        crate::support::directories("phi3_v")
            .iter()
            .map(load)
            .collect(),
    )
});

fn suites() -> MutexGuard<'static, Vec<(Suite, usize)>> {
    // A test that failed has changed nothing in here.
    SUITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every way in which each case is to be run: where the answer crosses the original context, in
/// the reference's own mode, which changes its factors in the middle, and in either of the fixed
/// ones.
fn runs(suite: &Suite, original_context: usize) -> Vec<Run<'_>> {
    let cases = suite.golden.cases.iter().zip(&suite.prompts);
    cases
        .flat_map(|(case, prompt)| {
            let longest = case.input_ids.len() + NEW_TOKENS;
            let run = |suffix, max_len| suite.run(case, prompt, suffix, max_len);
            // The reference feeds all but the last token, and goes by what it has fed.
            let rule_is_long = longest > original_context;
            let reference_is_long = case.input_ids.len() > original_context;
            if rule_is_long == reference_is_long {
                return vec![run("", MaxLen::Fixed(longest)).unwrap()];
            }
            let modes = [
                run("", MaxLen::Present),
                run("_long", MaxLen::Fixed(longest)),
                run("_short", MaxLen::Fixed(original_context)),
            ];
            assert!(modes[0].is_some());
            modes.into_iter().flatten().collect()
        })
        .collect()
}

#[test]
fn prompts_ids_and_pixels_are_the_references() {
    for (suite, _) in suites().iter() {
        suite.check_prompts();
        suite.check_ids();
        suite.check_pixels(|stored, picture| stored.get(picture).unwrap());
    }
}

#[test]
fn logits_and_tokens_are_the_references() {
    for (suite, original_context) in suites().iter() {
        suite.check_runs(&runs(suite, *original_context));
    }
}

#[test]
fn answers_are_the_same_alone_and_in_company() {
    for (suite, original_context) in suites().iter() {
        suite.check_in_company(&runs(suite, *original_context), false);
    }
}

#[test]
fn caches_of_fewer_bits_stay_close() {
    for (suite, original_context) in suites().iter() {
        suite.check_kv_dtypes(&runs(suite, *original_context));
    }
}

#[test]
fn pictures_encoded_together_equal_pictures_encoded_alone() {
    for (suite, _) in suites().iter() {
        suite.check_encoded_together();
    }
}

#[test]
fn pictures_encoded_in_pieces_equal_pictures_encoded_whole() {
    for (suite, _) in suites().iter() {
        suite.check_encoded_in_pieces();
    }
}

#[test]
fn weights_widened_on_loading_change_nothing() {
    for (suite, _) in suites().iter() {
        suite.check_widened(LoadOptions::default(), "");
    }
}
