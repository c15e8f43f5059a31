//! LLaVA-1.5 and LLaVA-NeXT against the reference implementation.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use futures::StreamExt;
use futures::executor::block_on;
use vlmd_backend::{KvDtype, Prepared};
use vlmd_engine::{BeamSearch, Engine, EngineConfig, Event, GenerateRequest, Limits, Sampling};
use vlmd_models::{LoadOptions, load};

use crate::support::suite::{Suite, prepare_chat};

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

#[derive(serde::Deserialize)]
struct BeamCase {
    input_ids: Vec<u32>,
    num_beams: usize,
    length_penalty: f32,
    early_stopping: bool,
    eos: Vec<u32>,
    max_new_tokens: usize,
    sequences: Vec<Vec<u32>>,
}

#[derive(serde::Deserialize)]
struct BeamGolden {
    cases: Vec<BeamCase>,
}

#[test]
fn beam_search_finds_what_the_reference_finds() {
    let suites = suites();
    let directory = &suites[0].golden.directory;
    let text = std::fs::read(directory.join("beams.json")).unwrap();
    let golden: BeamGolden = serde_json::from_slice(&text).unwrap();
    let model = load(&suites[0].golden.files(), &LoadOptions::default())
        .unwrap()
        .model;
    let engine = Engine::start(model, EngineConfig::new(64, KvDtype::F32, 512)).unwrap();
    for case in golden.cases {
        let limits = Limits {
            max_tokens: case.max_new_tokens,
            stop_ids: case.eos,
            ..Limits::default()
        };
        let prompt = Prepared::text(case.input_ids);
        let mut request = GenerateRequest::new(prompt, Sampling::default(), limits);
        request.choices = case.num_beams;
        let search = BeamSearch {
            width: case.num_beams,
            length_penalty: case.length_penalty,
            early_stopping: case.early_stopping,
        };
        let (streams, searching) = engine.search(request, search).unwrap();
        block_on(searching);
        for (stream, expected) in streams.into_iter().zip(case.sequences) {
            let events: Vec<Event> = block_on(stream.collect());
            let id = |event: &Event| match event {
                Event::Token { id, .. } => Some(*id),
                _ => None,
            };
            let found: Vec<u32> = events.iter().filter_map(id).collect();
            assert_eq!(found, expected, "{search:?}");
            assert!(matches!(events.last(), Some(Event::Finished(_))));
        }
    }
}
