//! The rungs that every architecture climbs: prompt, token ids, pixels, logits of the prompt,
//! logits and tokens of greedy decoding; alone, in one ragged batch with scattered pages, with
//! the prompt in chunks, and cached against fresh.
//!
//! `-- --nocapture` prints the largest error of each case.

#![expect(clippy::print_stdout, reason = "`-- --nocapture` shows the errors")]

use std::sync::Arc;

use candle_core::{D, DType, Tensor};
use vlmd_backend::{ImageInput, KvDtype, Model, Prepared};
use vlmd_models::{Chat, LoadOptions, Message, Part, Processor, load};

use super::runner::{MaxLen, Runner, Sequence};
use super::{Case, Content, Golden, GoldenMessage, GoldenPart};

/// Largest difference of a pixel after normalisation. The reference's own rounding is ten times
/// smaller; a resampler that is off by one level out of 255 is a thousand times above.
const PIXEL_TOLERANCE: f32 = 1e-5;

/// Largest difference of a logit, relative where it exceeds 1. The reference computes in f32 and
/// in another order.
const LOGIT_TOLERANCE: f32 = 1e-3;

/// Greedy tokens are compared where the reference's best logit leads by more than this.
pub(crate) const DECISIVE_GAP: f64 = 1e-3;

/// Tokens that the reference decoded for each case.
pub(crate) const NEW_TOKENS: usize = 16;

/// A golden with its model, prompts made and pictures encoded.
pub(crate) struct Suite {
    pub(crate) golden: Golden,
    pub(crate) processor: Arc<dyn Processor>,
    pub(crate) model: Box<dyn Model>,
    pub(crate) prompts: Vec<(Prepared, Vec<Tensor>)>,
}

impl Suite {
    /// Loads a golden and prepares its cases, each by `prepare`.
    pub(crate) fn new(
        directory: &std::path::Path,
        options: &LoadOptions,
        prepare: impl Fn(&dyn Processor, &Golden, &Case) -> Prepared,
    ) -> Self {
        let golden = Golden::read(directory);
        let loaded = load(&golden.files(), options).unwrap();
        let (processor, model) = (loaded.processor, loaded.model);
        let prompts = golden
            .cases
            .iter()
            .map(|case| {
                let prompt = prepare(&*processor, &golden, case);
                let images: Vec<_> = prompt.images.iter().collect();
                let features = model.encode(&images).unwrap();
                (prompt, features)
            })
            .collect();
        Self {
            golden,
            processor,
            model,
            prompts,
        }
    }

    pub(crate) fn label(&self, case: &Case) -> String {
        let directory = self.golden.directory.file_name().unwrap().to_string_lossy();
        format!("{directory}/{}", case.name)
    }

    /// A case in the mode that `suffix` names, if the golden has it.
    pub(crate) fn run<'a>(
        &'a self,
        case: &'a Case,
        (prompt, features): &'a (Prepared, Vec<Tensor>),
        suffix: &str,
        max_len: MaxLen,
    ) -> Option<Run<'a>> {
        let steps = self.golden.tensor(case, &format!("step_logits{suffix}"))?;
        let last = self.golden.tensor(case, &format!("logits_last{suffix}"))?;
        Some(Run {
            label: format!("{}{suffix}", self.label(case)),
            prompt,
            features,
            max_len,
            generated: case.generated("generated_ids", suffix)?,
            gaps: case.generated("top2_gaps", suffix)?,
            steps: self.said(steps).to_vec2().unwrap(),
            prompt_logits: self.said(last).to_vec1().unwrap(),
        })
    }

    /// The reference's logits of tokens that may be sampled. NeMo fills vocabularies up, and masks
    /// what it added.
    fn said(&self, logits: &Tensor) -> Tensor {
        let vocab = self.model.spec().vocab_size;
        if self.golden.is_archive() {
            logits.narrow(D::Minus1, 0, vocab).unwrap()
        } else {
            logits.clone()
        }
    }

    /// Every case in one mode.
    pub(crate) fn runs(&self, suffix: &str) -> Vec<Run<'_>> {
        let cases = self.golden.cases.iter().zip(&self.prompts);
        cases
            .map(|(case, prompt)| {
                let suffixes = [suffix, ""];
                let longest = MaxLen::Fixed(prompt.0.tokens.len() + NEW_TOKENS);
                // What a mode does not change is stored without its suffix.
                let mut runs = suffixes
                    .iter()
                    .filter_map(|s| self.run(case, prompt, s, longest));
                runs.next().unwrap()
            })
            .collect()
    }

    /// Rendered text and stop tokens.
    pub(crate) fn check_prompts(&self) {
        assert_eq!(self.processor.stop_ids(), self.golden.stop_ids);
        for case in &self.golden.cases {
            // Some are given as a prompt.
            let spoken = !case.messages.is_empty() && case.raw_prompt.is_none();
            if let Some(chat) = chat(&case.messages)
                && spoken
            {
                let chat = Chat {
                    template_kwargs: self.golden.template_kwargs(),
                    ..chat
                };
                let prompt = self.processor.render(&chat).unwrap();
                assert_eq!(prompt, case.prompt, "{}", self.label(case));
            }
        }
    }

    /// Token ids outside of pictures, and where the pictures' features stand.
    pub(crate) fn check_ids(&self) {
        for (case, (prompt, _)) in self.golden.cases.iter().zip(&self.prompts) {
            let label = self.label(case);
            assert_eq!(prompt.tokens.len(), case.input_ids.len(), "{label}");
            let mut expected = case.input_ids.clone();
            for span in &prompt.spans {
                let filled = &mut expected[span.tokens.clone()];
                // One id, the same all over, stands for another; other ids for themselves.
                if filled.windows(2).any(|pair| pair[0] != pair[1]) {
                    continue;
                }
                for (place, &filler) in filled.iter_mut().zip(&prompt.tokens[span.tokens.clone()]) {
                    *place = i64::from(filler);
                }
            }
            let found: Vec<i64> = prompt.tokens.iter().map(|&id| i64::from(id)).collect();
            assert_eq!(found, expected, "{label}");
        }
    }

    /// Pixels of every picture; `golden` picks those of the `n`-th of a case's pictures out of
    /// what the reference stored.
    pub(crate) fn check_pixels(&self, golden: impl Fn(&Tensor, usize) -> Tensor) {
        for (case, (prompt, _)) in self.golden.cases.iter().zip(&self.prompts) {
            let label = self.label(case);
            let Some((stored, stride)) = self.golden.pixels(case) else {
                assert!(prompt.images.is_empty(), "{label}");
                continue;
            };
            let mut worst = 0f32;
            for (index, image) in prompt.images.iter().enumerate() {
                worst = worst.max(pixel_error(image, &golden(stored, index), stride));
            }
            assert!(
                worst <= PIXEL_TOLERANCE,
                "{label}: pixels differ by {worst:e}"
            );
            println!("{label}: pixels {worst:.1e}");
        }
    }

    /// All rungs from the logits on, for these runs of this suite.
    pub(crate) fn check_runs(&self, runs: &[Run<'_>]) {
        let model = &*self.model;
        for run in runs {
            let error = check_batch(model, &[run], usize::MAX)[0];
            println!("{}: logits {error:.1e}", run.label);
        }
        let all: Vec<&Run<'_>> = runs.iter().collect();
        // Whole, a page, and a length that has no common border with pages.
        for chunk in [usize::MAX, 32, 7] {
            let errors = check_batch(model, &all, chunk);
            let worst = errors.into_iter().fold(0f32, f32::max);
            println!("{}, batched, chunks of {chunk}: {worst:.1e}", all[0].label);
        }
        // Token by token a prompt takes as many steps as it is long.
        let short: Vec<&Run<'_>> = all.iter().copied().filter(|r| r.length() < 64).collect();
        check_batch(model, &short, 1);
        self.check_fresh(runs);
    }

    /// A prompt that ends with what was generated gives what the cached steps gave.
    fn check_fresh(&self, runs: &[Run<'_>]) {
        // The reference's own mode of phi3_v changes its factors under the cache.
        let fixed = |run: &&Run<'_>| matches!(run.max_len, MaxLen::Fixed(_));
        let runs: Vec<&Run<'_>> = runs.iter().filter(fixed).collect();
        for step in [1, NEW_TOKENS - 1] {
            let mut runner = Runner::new(
                &*self.model,
                KvDtype::F32,
                runs.iter().map(|run| run.length()),
            );
            let fresh = |run: &&Run<'_>| {
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

    /// Pictures of all cases encoded at once.
    pub(crate) fn check_encoded_together(&self) {
        let images: Vec<_> = self.prompts.iter().flat_map(|(p, _)| &p.images).collect();
        let alone: Vec<_> = self.prompts.iter().flat_map(|(_, f)| f).collect();
        let together = self.model.encode(&images).unwrap();
        for (together, alone) in together.iter().zip(alone) {
            let difference = (together - alone).unwrap().abs().unwrap();
            let largest: f32 = difference.max_all().unwrap().to_scalar().unwrap();
            assert!(largest <= 1e-4, "features differ by {largest:e}");
        }
    }

    /// The same weights widened on loading.
    pub(crate) fn check_widened(&self, options: LoadOptions, suffix: &str) {
        let files = self.golden.files();
        let options = LoadOptions {
            dtype: Some(DType::F32),
            ..options
        };
        let model = load(&files, &options).unwrap().model;
        let runs = self.runs(suffix);
        let short: Vec<&Run<'_>> = runs.iter().filter(|r| r.length() < 64).collect();
        check_batch(&*model, &short, usize::MAX);
    }
}

/// A case in one mode.
pub(crate) struct Run<'a> {
    pub(crate) label: String,
    pub(crate) prompt: &'a Prepared,
    features: &'a [Tensor],
    pub(crate) max_len: MaxLen,
    pub(crate) generated: Vec<u32>,
    pub(crate) gaps: Vec<f64>,
    /// Of the first steps, as many as are stored; tokens are compared in all.
    steps: Vec<Vec<f32>>,
    prompt_logits: Vec<f32>,
}

impl Run<'_> {
    pub(crate) fn sequence(&self) -> Sequence {
        Sequence::new(self.prompt, self.features, self.max_len)
    }

    /// As any request for so many tokens is computed.
    pub(crate) fn is_usual(&self) -> bool {
        matches!(self.max_len, MaxLen::Fixed(len) if len == self.length())
    }

    /// Tokens that a cache must hold for it.
    pub(crate) fn length(&self) -> usize {
        self.prompt.tokens.len() + NEW_TOKENS
    }

    /// Compares one step's logits and choice; gives the error.
    fn check(&self, step: usize, logits: &[f32]) -> f32 {
        let error = match self.steps.get(step) {
            Some(expected) => logit_error(logits, expected),
            None => 0.0,
        };
        let label = &self.label;
        assert!(
            error <= LOGIT_TOLERANCE,
            "{label} step {step}: logits differ by {error:e}"
        );
        if self.gaps[step] > DECISIVE_GAP {
            assert_eq!(argmax(logits), self.generated[step], "{label} step {step}");
        }
        error
    }
}

/// Prefills in chunks, then decodes; every step of every run is held against the reference.
/// The reference's tokens are fed, so that a tie which falls the other way spoils nothing.
fn check_batch(model: &dyn Model, runs: &[&Run<'_>], chunk: usize) -> Vec<f32> {
    let mut runner = Runner::new(model, KvDtype::F32, runs.iter().map(|run| run.length()));
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

/// Through the chat interface.
pub(crate) fn prepare_chat(processor: &dyn Processor, golden: &Golden, case: &Case) -> Prepared {
    let chat = Chat {
        template_kwargs: golden.template_kwargs(),
        ..chat(&case.messages).unwrap()
    };
    processor.prepare(&chat, &golden.pictures(case)).unwrap()
}

/// The messages as clients send them. Tags that are written out in a text become parts, where
/// they stand on lines of their own; `None` where they do not.
pub(crate) fn chat(messages: &[GoldenMessage]) -> Option<Chat> {
    let mut shown = 0;
    let message = |message: &GoldenMessage| {
        let parts = match &message.content {
            Content::Text(text) => written_out(text)?,
            Content::Parts(parts) => parts
                .iter()
                .map(|part| match part {
                    GoldenPart::Text { text } => Part::Text(text.clone()),
                    GoldenPart::Image => {
                        shown += 1;
                        Part::Image(shown - 1)
                    }
                })
                .collect(),
        };
        Some(Message {
            role: message.role.clone(),
            parts,
            labels: message.labels(),
            ..Message::default()
        })
    };
    Some(Chat {
        messages: messages.iter().map(message).collect::<Option<_>>()?,
        ..Chat::default()
    })
}

/// Phi-3's tags as parts.
fn written_out(text: &str) -> Option<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for line in text.split('\n') {
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
    let tag = |part: &Part| matches!(part, Part::Text(text) if text.contains("<|image_"));
    (!parts.iter().any(tag)).then_some(parts)
}

/// Largest difference of a picture's parts to the reference's, of which every `stride`-th row and
/// column is stored, and which are filled up with parts of zeros.
fn pixel_error(image: &ImageInput, expected: &Tensor, stride: usize) -> f32 {
    let pixels = image.pixels.iter().map(|parts| parts.values().unwrap());
    let pixels = Tensor::cat(&pixels.collect::<Vec<_>>(), 0).unwrap();
    let (parts, _, side, _) = pixels.dims4().unwrap();
    let positions: Vec<u32> = (0..side as u32).step_by(stride).collect();
    let positions = Tensor::new(positions, pixels.device()).unwrap();
    let rows = pixels.index_select(&positions, 2).unwrap();
    let found = rows.index_select(&positions, 3).unwrap();
    let difference = (found - expected.narrow(0, 0, parts).unwrap()).unwrap();
    let rest = expected.dim(0).unwrap() - parts;
    if rest > 0 {
        let filled = expected.narrow(0, parts, rest).unwrap().abs().unwrap();
        assert_eq!(filled.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }
    let largest = difference.abs().unwrap().max_all().unwrap();
    largest.to_scalar().unwrap()
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

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}
