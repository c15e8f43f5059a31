//! phi3_v against the reference implementation, rung by rung: prompt, token ids, pixels, logits
//! of the prompt, logits and tokens of greedy decoding; alone, in one ragged batch with scattered
//! pages, with the prompt in chunks, and cached against fresh.
//!
//! `cargo test -p vlmd-models --test golden_phi3_v -- --nocapture` prints the largest error of
//! each case.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod support;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Tensor};
use serde::Deserialize;
use support::runner::{MaxLen, Runner, Sequence};
use support::{Case, Golden, GoldenMessage};
use vlmd_backend::{Model, Prepared};
use vlmd_media::Picture;
use vlmd_models::phi3_v::Phi3VProcessor;
use vlmd_models::{Chat, LoadOptions, Message, ModelFiles, Part, Processor, load};

/// Largest difference of a pixel after normalisation. The reference's own rounding is ten times
/// smaller; a resampler that is off by one level out of 255 is a thousand times above.
const PIXEL_TOLERANCE: f32 = 1e-5;

/// Largest difference of a logit, relative where it exceeds 1. The reference computes in f32 and
/// in another order.
const LOGIT_TOLERANCE: f32 = 1e-3;

/// Greedy tokens are compared where the reference's best logit leads by more than this.
const DECISIVE_GAP: f64 = 1e-3;

/// Tokens that the reference decoded for each case.
const NEW_TOKENS: usize = 16;

/// A golden with its model, prompts made and pictures encoded.
struct Suite {
    golden: Golden,
    processor: Phi3VProcessor,
    model: Box<dyn Model>,
    /// Longest sequence that takes the short rope factors.
    original_context: usize,
    prompts: Vec<(Prepared, Vec<Tensor>)>,
}

static SUITES: LazyLock<Mutex<Vec<Suite>>> = LazyLock::new(|| {
    let directories = support::directories("phi3_v");
    Mutex::new(directories.iter().map(|path| Suite::new(path)).collect())
});

fn suites() -> MutexGuard<'static, Vec<Suite>> {
    // A test that failed has changed nothing in here.
    SUITES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Suite {
    fn new(directory: &std::path::Path) -> Self {
        #[derive(Deserialize)]
        struct Config {
            original_max_position_embeddings: usize,
        }
        let golden = Golden::read(directory);
        let files = ModelFiles::Directory(directory.to_owned());
        let config: Config = files.json("config.json").unwrap();
        let processor = Phi3VProcessor::load(&files).unwrap();
        let model = load(&files, &LoadOptions::default()).unwrap().model;
        let prompts = golden
            .cases
            .iter()
            .map(|case| {
                let prompt = prepare(&processor, case, &golden.pictures(case));
                let features = encode(&*model, &prompt);
                (prompt, features)
            })
            .collect();
        Self {
            golden,
            processor,
            model,
            original_context: config.original_max_position_embeddings,
            prompts,
        }
    }

    fn label(&self, case: &Case) -> String {
        let directory = self.golden.directory.file_name().unwrap().to_string_lossy();
        format!("{directory}/{}", case.name)
    }

    /// Every way in which each case is to be run.
    fn runs(&self) -> Vec<Run<'_>> {
        let cases = self.golden.cases.iter().zip(&self.prompts);
        cases
            .flat_map(|(case, (prompt, features))| {
                let longest = case.input_ids.len() + NEW_TOKENS;
                let expect = |suffix: &str, max_len| {
                    let steps = self.golden.tensor(case, &format!("step_logits{suffix}"));
                    let generated = match suffix {
                        "_long" => case.generated_ids_long.as_ref(),
                        "_short" => case.generated_ids_short.as_ref(),
                        _ => Some(&case.generated_ids),
                    };
                    let gaps = match suffix {
                        "_long" => case.top2_gaps_long.as_ref(),
                        "_short" => case.top2_gaps_short.as_ref(),
                        _ => Some(&case.top2_gaps),
                    };
                    Some(Run {
                        label: format!("{}{suffix}", self.label(case)),
                        prompt,
                        features,
                        max_len,
                        generated: generated?,
                        gaps: gaps?,
                        steps: steps?.to_vec2().unwrap(),
                        prompt_logits: self
                            .golden
                            .tensor(case, &format!("logits_last{suffix}"))?
                            .to_vec1()
                            .unwrap(),
                    })
                };
                // The reference feeds all but the last token, and goes by what it has fed.
                let rule_is_long = longest > self.original_context;
                let reference_is_long = case.input_ids.len() > self.original_context;
                if rule_is_long == reference_is_long {
                    return vec![expect("", MaxLen::Fixed(longest)).unwrap()];
                }
                let modes = [
                    expect("", MaxLen::Present),
                    expect("_long", MaxLen::Fixed(longest)),
                    expect("_short", MaxLen::Fixed(self.original_context)),
                ];
                assert!(modes[0].is_some());
                modes.into_iter().flatten().collect()
            })
            .collect()
    }
}

/// A case in one mode of rope factors.
struct Run<'a> {
    label: String,
    prompt: &'a Prepared,
    features: &'a [Tensor],
    max_len: MaxLen,
    generated: &'a [u32],
    gaps: &'a [f64],
    steps: Vec<Vec<f32>>,
    prompt_logits: Vec<f32>,
}

impl Run<'_> {
    fn sequence(&self) -> Sequence {
        Sequence::new(self.prompt, self.features, self.max_len)
    }

    /// Tokens that a cache must hold for it.
    fn length(&self) -> usize {
        self.prompt.tokens.len() + NEW_TOKENS
    }

    /// Compares one step's logits and choice; gives the error.
    fn check(&self, step: usize, logits: &[f32]) -> f32 {
        let error = logit_error(logits, &self.steps[step]);
        assert!(
            error <= LOGIT_TOLERANCE,
            "{} step {step}: logits differ by {error:e}",
            self.label
        );
        if self.gaps[step] > DECISIVE_GAP {
            assert_eq!(
                argmax(logits),
                self.generated[step],
                "{} step {step}",
                self.label
            );
        }
        error
    }
}

/// Prefills in chunks, then decodes; every step of every run is held against the reference.
/// The reference's tokens are fed, so that a tie which falls the other way spoils nothing.
fn check_batch(model: &dyn Model, runs: &[&Run<'_>], chunk: usize) -> Vec<f32> {
    let mut runner = Runner::new(model, runs.iter().map(|run| run.length()));
    let mut sequences: Vec<Sequence> = runs.iter().map(|run| run.sequence()).collect();
    let mut worst = vec![0f32; runs.len()];
    for step in 0..NEW_TOKENS {
        let logits = runner.finish(&mut sequences, chunk);
        for (index, run) in runs.iter().enumerate() {
            if step == 0 {
                let error = logit_error(&logits[index], &run.prompt_logits);
                assert!(error <= LOGIT_TOLERANCE, "{}: {error:e}", run.label);
            }
            worst[index] = worst[index].max(run.check(step, &logits[index]));
            sequences[index].push(&[run.generated[step]]);
        }
    }
    worst
}

#[test]
fn prompts_ids_and_pixels_are_the_references() {
    for suite in suites().iter() {
        let golden = &suite.golden;
        assert_eq!(suite.processor.stop_ids(), golden.stop_ids);
        for (case, (prompt, _)) in golden.cases.iter().zip(&suite.prompts) {
            let label = suite.label(case);
            if let Some(chat) = chat(&case.messages) {
                assert_eq!(
                    suite.processor.render(&chat).unwrap(),
                    case.prompt,
                    "{label}"
                );
            }
            assert_eq!(marked_ids(prompt), case.input_ids, "{label}");
            let error = pixel_error(golden, case, prompt);
            assert!(
                error <= PIXEL_TOLERANCE,
                "{label}: pixels differ by {error:e}"
            );
            println!("{label}: pixels {error:.1e}");
        }
    }
}

#[test]
fn each_case_alone_gives_the_references_logits_and_tokens() {
    for suite in suites().iter() {
        for run in &suite.runs() {
            let error = check_batch(&*suite.model, &[run], usize::MAX)[0];
            println!("{}: logits {error:.1e}", run.label);
        }
    }
}

#[test]
fn all_cases_in_one_ragged_batch_give_the_same() {
    for suite in suites().iter() {
        let runs = suite.runs();
        let runs: Vec<&Run<'_>> = runs.iter().collect();
        let errors = check_batch(&*suite.model, &runs, usize::MAX);
        let worst = errors.into_iter().fold(0f32, f32::max);
        println!("{}: batched {worst:.1e}", suite.golden.directory.display());
    }
}

#[test]
fn prompts_in_chunks_give_the_same() {
    for suite in suites().iter() {
        let runs = suite.runs();
        let all: Vec<&Run<'_>> = runs.iter().collect();
        // A page, and a length that has no common border with pages.
        for chunk in [32, 7] {
            let errors = check_batch(&*suite.model, &all, chunk);
            let worst = errors.into_iter().fold(0f32, f32::max);
            println!("chunks of {chunk}: {worst:.1e}");
        }
        // Token by token a prompt takes as many steps as it is long.
        let short: Vec<&Run<'_>> = all.into_iter().filter(|r| r.length() < 64).collect();
        check_batch(&*suite.model, &short, 1);
    }
}

#[test]
fn a_cached_step_equals_a_fresh_prompt() {
    for suite in suites().iter() {
        let mut runs = suite.runs();
        // The reference's own mode changes its factors under the cache; see the rope cases.
        runs.retain(|run| matches!(run.max_len, MaxLen::Fixed(_)));
        for step in [1, NEW_TOKENS - 1] {
            let mut runner = Runner::new(&*suite.model, runs.iter().map(Run::length));
            let fresh = |run: &Run<'_>| {
                let mut sequence = run.sequence();
                sequence.push(&run.generated[..step]);
                sequence
            };
            let mut sequences: Vec<Sequence> = runs.iter().map(fresh).collect();
            let logits = runner.finish(&mut sequences, usize::MAX);
            for (run, logits) in runs.iter().zip(&logits) {
                run.check(step, logits);
            }
        }
    }
}

#[test]
fn pictures_encoded_together_equal_pictures_encoded_alone() {
    for suite in suites().iter() {
        let images: Vec<_> = suite.prompts.iter().flat_map(|(p, _)| &p.images).collect();
        let alone: Vec<_> = suite.prompts.iter().flat_map(|(_, f)| f).collect();
        let together = suite.model.encode(&images).unwrap();
        for (together, alone) in together.iter().zip(alone) {
            let difference = (together - alone).unwrap().abs().unwrap();
            let largest: f32 = difference.max_all().unwrap().to_scalar().unwrap();
            assert!(largest <= 1e-4, "features differ by {largest:e}");
        }
    }
}

#[test]
fn weights_widened_on_loading_change_nothing() {
    for suite in suites().iter() {
        let files = ModelFiles::Directory(suite.golden.directory.clone());
        let options = LoadOptions {
            dtype: Some(DType::F32),
            ..LoadOptions::default()
        };
        let model = load(&files, &options).unwrap().model;
        let runs = suite.runs();
        let short: Vec<&Run<'_>> = runs.iter().filter(|r| r.length() < 64).collect();
        check_batch(&*model, &short, usize::MAX);
    }
}

/// Through the chat interface where it can say what the case says, else from the prompt's text.
fn prepare(processor: &Phi3VProcessor, case: &Case, pictures: &[Picture]) -> Prepared {
    match chat(&case.messages) {
        Some(chat) => processor.prepare(&chat, pictures).unwrap(),
        None => {
            let pictures: Vec<&Picture> = pictures.iter().collect();
            processor.prepare_prompt(&case.prompt, &pictures).unwrap()
        }
    }
}

fn encode(model: &dyn Model, prompt: &Prepared) -> Vec<Tensor> {
    let images: Vec<_> = prompt.images.iter().collect();
    let features = model.encode(&images).unwrap();
    for (features, image) in features.iter().zip(&images) {
        assert_eq!(
            features.dims(),
            [image.features, model.spec().hidden_size],
            "features of a picture"
        );
    }
    features
}

/// Messages with written-out tags as parts; `None` where parts on lines of their own cannot say
/// the same.
fn chat(messages: &[GoldenMessage]) -> Option<Chat> {
    let message = |message: &GoldenMessage| {
        let lines = message.content.split('\n');
        let mut parts: Vec<Part> = Vec::new();
        for line in lines {
            let number = line
                .strip_prefix("<|image_")
                .and_then(|l| l.strip_suffix("|>"));
            match (
                number.and_then(|n| n.parse::<usize>().ok()),
                parts.last_mut(),
            ) {
                (Some(number), _) => parts.push(Part::Image(number - 1)),
                (None, Some(Part::Text(text))) => {
                    text.push('\n');
                    text.push_str(line);
                }
                (None, _) => parts.push(Part::Text(line.to_owned())),
            }
        }
        let tags_in_text = parts
            .iter()
            .any(|part| matches!(part, Part::Text(text) if text.contains("<|image_")));
        (!tags_in_text).then(|| Message {
            role: message.role.clone(),
            parts,
        })
    };
    Some(Chat {
        messages: messages.iter().map(message).collect::<Option<_>>()?,
        ..Chat::default()
    })
}

/// Token ids with `-k` in the places of the k-th picture, as the reference writes them.
fn marked_ids(prompt: &Prepared) -> Vec<i64> {
    let mut ids: Vec<i64> = prompt.tokens.iter().map(|&id| i64::from(id)).collect();
    for span in &prompt.spans {
        ids[span.tokens.clone()].fill(-(span.image as i64 + 1));
    }
    ids
}

/// Largest difference to the reference's pixels, which are filled up with crops of zeros.
fn pixel_error(golden: &Golden, case: &Case, prompt: &Prepared) -> f32 {
    let Some((expected, stride)) = golden.pixels(case) else {
        assert!(prompt.images.is_empty());
        return 0.0;
    };
    let mut worst = 0f32;
    for (index, image) in prompt.images.iter().enumerate() {
        let expected = expected.get(index).unwrap();
        let (crops, _, side, _) = image.pixels.dims4().unwrap();
        let positions: Vec<u32> = (0..side as u32).step_by(stride).collect();
        let positions = Tensor::new(positions, image.pixels.device()).unwrap();
        let rows = image.pixels.index_select(&positions, 2).unwrap();
        let found = rows.index_select(&positions, 3).unwrap();
        let difference = (found - expected.narrow(0, 0, crops).unwrap()).unwrap();
        let largest = difference.abs().unwrap().max_all().unwrap();
        worst = worst.max(largest.to_scalar().unwrap());
        let rest = expected.dim(0).unwrap() - crops;
        if rest > 0 {
            let filled = expected.narrow(0, crops, rest).unwrap().abs().unwrap();
            assert_eq!(filled.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
        }
    }
    worst
}

fn logit_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let pairs = found.iter().zip(expected);
    pairs
        .map(|(found, expected)| (found - expected).abs() / expected.abs().max(1.0))
        // `max` would pass over a NaN.
        .map(|error| if error.is_nan() { f32::INFINITY } else { error })
        .fold(0.0, f32::max)
}

fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}
