//! Kosmos-2 against the reference implementation.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::support::suite::Suite;
use vlmd_models::kosmos2::Kosmos2Processor;
use vlmd_models::{LoadOptions, ModelFiles};

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
fn pictures_encoded_together_equal_pictures_encoded_alone() {
    for suite in suites().iter() {
        suite.check_encoded_together();
    }
}

#[test]
fn weights_widened_on_loading_change_nothing() {
    for suite in suites().iter() {
        suite.check_widened(LoadOptions::default(), "");
    }
}
