//! Room is asked for before a weight is read, with what the model is going to need.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::DType;
use vlmd_models::{LoadError, LoadOptions, LoadedModel, ModelFiles, Need, NemoFiles, load};

const GOLDENS: [&str; 10] = [
    "kosmos2",
    "llava",
    "llava_next",
    "llava_next_yi",
    "mllama",
    "mllama_base",
    "neva",
    "neva_pp2",
    "phi3_v",
    "phi3_v_crops16",
];

/// Loads a golden, answering what it asks for with `answer`; gives that, and how often progress
/// was told.
fn loaded(
    golden: &str,
    dtype: Option<DType>,
    answer: Result<(), String>,
) -> (Result<LoadedModel, LoadError>, Need, usize) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let reports = Arc::new(Mutex::new(0));
    let (hear, count) = (Arc::clone(&asked), Arc::clone(&reports));
    let options = LoadOptions {
        dtype,
        admit: Some(Box::new(move |need| {
            hear.lock().unwrap().push(need.clone());
            answer.clone()
        })),
        on_progress: Some(Box::new(move |_, _| *count.lock().unwrap() += 1)),
        ..LoadOptions::default()
    };
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");
    let directory = Path::new(goldens).join(golden);
    let archive = directory.join("neva.nemo");
    let files = if archive.exists() {
        let tower = ModelFiles::Directory(directory.join("clip"));
        ModelFiles::Nemo(NemoFiles::open(&archive).unwrap().with_tower(tower))
    } else {
        ModelFiles::Directory(directory)
    };
    let loaded = load(&files, &options);
    let need = asked.lock().unwrap().pop().unwrap();
    assert!(asked.lock().unwrap().is_empty(), "asked more than once");
    let reports = *reports.lock().unwrap();
    (loaded, need, reports)
}

#[test]
fn a_model_that_is_not_admitted_reads_nothing() {
    for golden in GOLDENS {
        let refused = Err("there are 7 bytes".to_owned());
        let (loaded, _, reports) = loaded(golden, None, refused);
        assert_eq!(loaded.unwrap_err().to_string(), "there are 7 bytes");
        assert_eq!(reports, 0, "{golden}");
    }
}

#[test]
fn what_is_asked_for_is_what_is_loaded() {
    for golden in GOLDENS {
        let (loaded, need, _) = loaded(golden, None, Ok(()));
        let loaded = loaded.unwrap();
        assert_eq!(&need.spec, loaded.model.spec(), "{golden}");
        // Stored in 16 bits; biases and the weights of norms are widened on a CPU.
        let stored = loaded.weight_bytes;
        assert!(
            (stored..stored * 5 / 4).contains(&need.weight_bytes),
            "{golden}"
        );
        assert_eq!(need.half_bytes, need.weight_bytes);
        let (wide, need, _) = self::loaded(golden, Some(DType::F32), Ok(()));
        assert_eq!(need.weight_bytes, 2 * wide.unwrap().weight_bytes);
        assert!(need.half_bytes < need.weight_bytes);
    }
}
