//! Llama-3.2-Vision against the reference implementation.
//!
//! Everything is run in both variants: Meta's, where tokens before the first picture see nothing,
//! and that of transformers.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use crate::support::suite::{Suite, prepare_chat};
use vlmd_models::mllama::MllamaProcessor;
use vlmd_models::{LoadOptions, ModelFiles};

/// A suite in one variant, and the suffix of what the reference gives in it.
static SUITES: LazyLock<Mutex<Vec<(Suite, &'static str)>>> = LazyLock::new(|| {
    let mut suites = Vec::new();
    for path in crate::support::directories("mllama") {
        for (quirks, suffix) in [(false, "_meta"), (true, "")] {
            let files = ModelFiles::Directory(path.clone());
            let written = MllamaProcessor::load(&files, &options(quirks)).unwrap();
            let suite = Suite::new(&path, &options(quirks), |processor, golden, case| {
                if let Some(prompt) = &case.raw_prompt {
                    return written
                        .prepare_prompt(prompt, &golden.pictures(case))
                        .unwrap();
                }
                prepare_chat(processor, golden, case)
            });
            suites.push((suite, suffix));
        }
    }
    Mutex::new(suites)
});

fn options(transformers_quirks: bool) -> LoadOptions {
    LoadOptions {
        transformers_quirks,
        ..LoadOptions::default()
    }
}

fn suites() -> MutexGuard<'static, Vec<(Suite, &'static str)>> {
    // A test that failed has changed nothing in here.
    SUITES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn prompts_ids_and_pixels_are_the_references() {
    for (suite, _) in suites().iter() {
        suite.check_prompts();
        suite.check_ids();
        suite.check_pixels(|stored, picture| stored.get(0).unwrap().get(picture).unwrap());
    }
}

/// `cross_attention_mask` of the reference, `[1, tokens, pictures, tiles]`.
#[test]
fn tokens_look_at_the_tiles_that_the_references_mask_shows() {
    for (suite, _) in suites().iter() {
        for (case, (prompt, _)) in suite.golden.cases.iter().zip(&suite.prompts) {
            let Some(mask) = suite.golden.tensor(case, "cross_attention_mask") else {
                assert_eq!(prompt.cross.is_empty(), prompt.images.is_empty());
                continue;
            };
            let mask = mask
                .to_dtype(candle_core::DType::F32)
                .unwrap()
                .get(0)
                .unwrap();
            let mask = mask.sum(2).unwrap().to_vec2::<f32>().unwrap();
            let mut seen = vec![vec![0f32; prompt.images.len()]; prompt.tokens.len()];
            for span in prompt.cross.iter().filter(|span| !span.unseen) {
                let tokens = span.tokens.start..span.tokens.end.min(prompt.tokens.len());
                for token in tokens {
                    for look in &span.images {
                        let (rows, columns) = prompt.images[look.image].size;
                        assert!(look.visible.is_multiple_of(rows * columns));
                        seen[token][look.image] = (rows * columns) as f32;
                    }
                }
            }
            assert_eq!(seen, mask, "{}", suite.label(case));
        }
    }
}

/// Tiles that a picture does not have are computed, but their features are kept only where
/// somebody sees them. Those of its own tiles are the same either way.
#[test]
fn features_that_nobody_sees_can_be_left_out() {
    let suites = suites();
    for [(without, _), (all, _)] in suites.as_chunks().0 {
        let prompts = without.prompts.iter().zip(&all.prompts);
        for ((prompt, kept), (_, all)) in prompts {
            for ((image, kept), all) in prompt.images.iter().zip(kept).zip(all) {
                let all = all.narrow(2, 0, image.features).unwrap();
                let difference = (kept - all).unwrap().abs().unwrap();
                let largest: f32 = difference.max_all().unwrap().to_scalar().unwrap();
                assert!(largest <= 1e-5, "features differ by {largest:e}");
            }
        }
    }
}

#[test]
fn logits_and_tokens_are_the_references() {
    for (suite, suffix) in suites().iter() {
        suite.check_runs(&suite.runs(suffix));
    }
}

#[test]
fn answers_are_the_same_alone_and_in_company() {
    for (suite, suffix) in suites().iter() {
        suite.check_in_company(&suite.runs(suffix), suffix.is_empty());
    }
}

#[test]
fn caches_of_fewer_bits_stay_close() {
    for (suite, suffix) in suites().iter() {
        suite.check_kv_dtypes(&suite.runs(suffix));
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
    for (suite, suffix) in suites().iter() {
        suite.check_widened(options(suffix.is_empty()), suffix);
    }
}
