//! Pictures of any size, in every architecture: the encoder gives as many features as the prompt
//! has places for, or the prompt is refused with the reason.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vlmd_backend::{ImageInput, Prepared};
use vlmd_media::Picture;
use vlmd_models::mllama::MllamaProcessor;
use vlmd_models::{Chat, LoadOptions, LoadedModel, Message, ModelFiles, Part, PrepareError, load};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

/// Most pictures of a conversation.
const MOST: usize = 3;

fn files(golden: &str) -> ModelFiles {
    ModelFiles::Directory(format!("{GOLDENS}/{golden}").into())
}

/// Widths and heights of pictures.
fn sizes() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((1_u32..=2000, 1_u32..=2000), 0..=MOST)
}

fn picture((width, height): (u32, u32)) -> Picture {
    let bytes = (width * height * 3) as usize;
    Picture::from_rgb(width, height, vec![90; bytes]).unwrap()
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        // Files of this kind lie beside the tests of one crate only.
        failure_persistence: None,
        ..Config::default()
    })
}

/// Shows each picture once, with text around and between them, in two turns.
fn conversation(pictures: usize) -> Chat {
    let said = |text: &str| Part::Text(text.to_owned());
    let mut parts = vec![said("Look:")];
    for index in 0..pictures {
        parts.push(Part::Image(index));
        // The last two stand side by side.
        if index + 2 != pictures {
            parts.push(said("and"));
        }
    }
    let message = |role: &str, parts| Message {
        role: role.to_owned(),
        parts,
        ..Message::default()
    };
    let answer = message("assistant", vec![said("Yes.")]);
    Chat {
        messages: vec![
            message("user", parts),
            answer,
            message("user", vec![said("Why?")]),
        ],
        ..Chat::default()
    }
}

/// Rows that the encoder gives for each picture.
fn encoded(loaded: &LoadedModel, prompt: &Prepared) -> Vec<usize> {
    let images: Vec<&ImageInput> = prompt.images.iter().collect();
    let features = loaded.model.encode(&images).unwrap();
    // Where they are looked at, they are kept by layer, as keys and as values.
    let axis = if prompt.cross.is_empty() { 0 } else { 2 };
    features
        .iter()
        .map(|kept| kept.dim(axis).unwrap())
        .collect()
}

/// Pictures of any size in the prompts of an architecture that shows as many as `most`.
fn check(golden: &str, most: usize, cases: u32) {
    let loaded = load(&files(golden), &LoadOptions::default()).unwrap();
    let property = |sizes: Vec<(u32, u32)>| {
        let pictures: Vec<Picture> = sizes.iter().copied().map(picture).collect();
        let prepared = loaded
            .processor
            .prepare(&conversation(pictures.len()), &pictures);
        if pictures.len() > most {
            let refused = matches!(prepared, Err(PrepareError::Image { .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let prompt = prepared.unwrap();
        prop_assert_eq!(prompt.images.len(), pictures.len());
        let promised: Vec<usize> = prompt.images.iter().map(|image| image.features).collect();
        prop_assert_eq!(encoded(&loaded, &prompt), promised);
        let mut end = 0;
        for span in &prompt.spans {
            prop_assert!(end <= span.tokens.start && span.tokens.end <= prompt.tokens.len());
            prop_assert_eq!(span.tokens.len(), prompt.images[span.image].features);
            end = span.tokens.end;
        }
        let shown = prompt.spans.len().max(prompt.cross.len());
        prop_assert_eq!(shown, pictures.len());
        Ok(())
    };
    runner(cases).run(&sizes(), property).unwrap();
}

#[test]
fn phi3_v() {
    check("phi3_v", MOST, 16);
}

#[test]
fn llava() {
    check("llava", MOST, 64);
}

#[test]
fn llava_next() {
    for golden in ["llava_next", "llava_next_vicuna", "llava_next_yi"] {
        check(golden, MOST, 32);
    }
}

#[test]
fn kosmos2() {
    check("kosmos2", 1, 64);
}

#[test]
fn mllama() {
    check("mllama", MOST, 64);
}

/// What the reference says with `aspect_ratio_ids` and `aspect_ratio_mask`: a picture has the
/// tiles of its canvas, tokens see these and no others, and only the quirk sees those that it does
/// not have.
#[test]
fn tiles_of_mllama_are_those_that_tokens_see() {
    // Tiles, and tokens of one, in the configurations of the goldens.
    for (golden, max_tiles, tile_tokens) in [("mllama", 4, 17), ("mllama_base", 3, 10)] {
        for quirks in [false, true] {
            let options = LoadOptions {
                transformers_quirks: quirks,
                ..LoadOptions::default()
            };
            let processor = MllamaProcessor::load(&files(golden), &options).unwrap();
            let property = |sizes: Vec<(u32, u32)>| {
                let pictures: Vec<Picture> = sizes.iter().copied().map(picture).collect();
                let text = "<|begin_of_text|>".to_owned() + &"a <|image|>".repeat(sizes.len());
                let prompt = processor.prepare_prompt(&text, &pictures).unwrap();
                for image in &prompt.images {
                    let (rows, columns) = image.size;
                    let tiles = rows * columns;
                    prop_assert!((1..=max_tiles).contains(&tiles));
                    prop_assert_eq!(image.parts(), tiles);
                    let kept = if quirks { max_tiles } else { tiles };
                    prop_assert_eq!(image.features, kept * tile_tokens);
                }
                for look in prompt.cross.iter().flat_map(|span| {
                    let unseen = span.unseen;
                    span.images.iter().map(move |image| (image, unseen))
                }) {
                    let (seen, unseen) = look;
                    let (rows, columns) = prompt.images[seen.image].size;
                    let tiles = if unseen { max_tiles } else { rows * columns };
                    prop_assert_eq!(seen.visible, tiles * tile_tokens);
                    prop_assert!(seen.visible <= prompt.images[seen.image].features);
                }
                let seeing = prompt.cross.iter().filter(|span| !span.unseen);
                prop_assert_eq!(seeing.count(), pictures.len());
                Ok(())
            };
            runner(32).run(&sizes(), property).unwrap();
        }
    }
}
