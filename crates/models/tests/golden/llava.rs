//! LLaVA-1.5 and LLaVA-NeXT against the reference implementation.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::support::suite::{Suite, prepare_chat};
use candle_core::Tensor;
use vlmd_models::LoadOptions;

static SUITES: LazyLock<Mutex<Vec<Suite>>> = LazyLock::new(|| {
    let directories = ["llava", "llava_next"]
        .map(crate::support::directories)
        .concat();
    let load = |path: &std::path::PathBuf| Suite::new(path, &LoadOptions::default(), prepare_chat);
    Mutex::new(directories.iter().map(load).collect())
});

fn suites() -> MutexGuard<'static, Vec<Suite>> {
    // A test that failed has changed nothing in here.
    SUITES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// LLaVA-1.5's pictures are single views, `[n, 3, side, side]`; LLaVA-NeXT's have several.
fn views(stored: &Tensor, picture: usize) -> Tensor {
    let of_picture = stored.get(picture).unwrap();
    match of_picture.rank() {
        3 => of_picture.unsqueeze(0).unwrap(),
        _ => of_picture,
    }
}

#[test]
fn prompts_ids_and_pixels_are_the_references() {
    for suite in suites().iter() {
        suite.check_prompts();
        suite.check_ids();
        suite.check_pixels(views);
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
