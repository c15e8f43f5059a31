//! On which canvas, and how large, a picture of any size is laid for Llama-3.2-Vision.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

#[path = "common/checkpoint.rs"]
#[expect(dead_code, reason = "other tests need more of it")]
mod checkpoint;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use vlmd_media::Picture;
use vlmd_models::mllama::MllamaProcessor;
use vlmd_models::{LoadOptions, ModelFiles};

use checkpoint::Checkpoint;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

/// What a picture becomes.
#[derive(Debug, PartialEq, Eq)]
struct Laid {
    /// Rows and columns of tiles.
    canvas: (usize, usize),
    /// Height and width to which it is scaled.
    scaled: (usize, usize),
}

/// A processor for tiles of `tile` pixels, at most `max_tiles` of them.
fn processor(tile: usize, max_tiles: usize) -> Arc<MllamaProcessor> {
    type Known = HashMap<(usize, usize), Arc<MllamaProcessor>>;
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    let load = || {
        let checkpoint = Checkpoint::copy(&Path::new(GOLDENS).join("mllama"));
        let edit = |file: &str, edit: &dyn Fn(&mut Value)| {
            let path = checkpoint.path(file);
            let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            edit(&mut config);
            std::fs::write(path, serde_json::to_vec(&config).unwrap()).unwrap();
        };
        edit("config.json", &|config| {
            config["vision_config"]["image_size"] = json!(tile);
            config["vision_config"]["max_num_tiles"] = json!(max_tiles);
        });
        edit("preprocessor_config.json", &|config| {
            config["size"] = json!({"height": tile, "width": tile});
            config["max_image_tiles"] = json!(max_tiles);
        });
        let files = ModelFiles::Directory(checkpoint.directory().to_owned());
        Arc::new(MllamaProcessor::load(&files, &LoadOptions::default()).unwrap())
    };
    let processor = known.entry((tile, max_tiles)).or_insert_with(load);
    Arc::clone(processor)
}

/// Lays a white picture on its canvas, which is black, and looks how far it reaches.
fn laid(processor: &MllamaProcessor, width: usize, height: usize) -> Laid {
    let white = vec![255; width * height * 3];
    let picture = Picture::from_rgb(width as u32, height as u32, white).unwrap();
    let prepared = processor.prepare_prompt("<|image|>", &[picture]).unwrap();
    let image = &prepared.images[0];
    let (rows, columns) = image.size;
    let values = image.pixels[0].values().unwrap();
    let (count, _, tile, _) = values.dims4().unwrap();
    assert_eq!(count, rows * columns, "{width} x {height}");
    let pixels: Vec<f32> = values.flatten_all().unwrap().to_vec1().unwrap();
    let white = pixels[0];
    // The first colour at a place of the canvas.
    let at = |y: usize, x: usize| {
        let part = y / tile * columns + x / tile;
        pixels[(part * 3 * tile + y % tile) * tile + x % tile]
    };
    let wide = (0..columns * tile)
        .take_while(|&x| at(0, x) == white)
        .count();
    let high = (0..rows * tile).take_while(|&y| at(y, 0) == white).count();
    assert_eq!(at(high - 1, wide - 1), white, "{width} x {height}");
    Laid {
        canvas: (rows, columns),
        scaled: (high, wide),
    }
}

/// `canvases.json`, made by `tests/reference/mllama.py`: what `get_optimal_tiled_canvas` and
/// `get_image_size_fit_to_canvas` give for some 600 sizes.
#[test]
fn canvas_and_size_are_the_references() {
    #[derive(Deserialize)]
    struct File {
        tables: Vec<Table>,
    }
    #[derive(Deserialize)]
    struct Table {
        tile_size: usize,
        max_image_tiles: usize,
        /// Width and height, rows and columns of tiles, height and width once scaled.
        rows: Vec<[usize; 6]>,
    }
    for golden in ["mllama", "mllama_base"] {
        let bytes = std::fs::read(format!("{GOLDENS}/{golden}/canvases.json")).unwrap();
        for table in serde_json::from_slice::<File>(&bytes).unwrap().tables {
            assert!(table.rows.len() > 500);
            let processor = processor(table.tile_size, table.max_image_tiles);
            for [width, height, rows, columns, high, wide] in table.rows {
                let expected = Laid {
                    canvas: (rows, columns),
                    scaled: (high, wide),
                };
                let found = laid(&processor, width, height);
                assert_eq!(found, expected, "{width} x {height}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// No canvas does better: none enlarges the picture less, or, where it fits on none, shrinks
    /// it less, and none of those that do as well has fewer tiles. The picture fits it, and one
    /// side is as near to what it was as tile and canvas allow.
    #[test]
    fn the_canvas_is_the_best_there_is(
        (width, height) in (1_usize..=2000, 1_usize..=2000),
        tile in prop_oneof![Just(56_usize), Just(448), Just(560)],
        max_tiles in 1_usize..=8,
    ) {
        let Laid { canvas, scaled } = laid(&processor(tile, max_tiles), width, height);
        // Those that shrink come after those that enlarge, those that change it most come last.
        let rank = |(rows, columns): (usize, usize)| {
            let down = (rows * tile) as f64 / height as f64;
            let across = (columns * tile) as f64 / width as f64;
            let scale = down.min(across);
            let cost = if scale >= 1.0 { scale } else { -scale };
            (scale < 1.0, cost, rows * columns)
        };
        let all = (1..=max_tiles).flat_map(|rows| (1..=max_tiles).map(move |columns| (rows, columns)));
        for other in all.filter(|(rows, columns)| rows * columns <= max_tiles) {
            prop_assert!(rank(canvas) <= rank(other), "{other:?} is better than {canvas:?}");
        }
        let most = (canvas.0 * tile, canvas.1 * tile);
        prop_assert!((1..=most.0).contains(&scaled.0) && (1..=most.1).contains(&scaled.1));
        let near = (height.clamp(tile, most.0), width.clamp(tile, most.1));
        prop_assert!(scaled.0 == near.0 || scaled.1 == near.1);
    }
}
