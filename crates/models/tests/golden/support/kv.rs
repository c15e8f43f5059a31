//! What a cache of fewer bits costs: logits and greedy tokens against those with a cache of f32,
//! over prompts with pictures and the answers to them.
//!
//! `-- --nocapture caches` prints the table that README.md and `KvDtype` state.

#![expect(clippy::print_stdout, reason = "`-- --nocapture` shows the table")]

use vlmd_backend::KvDtype;

use super::runner::{Runner, Sequence};
use super::suite::{NEW_TOKENS, Run, Suite, argmax};

/// Largest difference of a logit that each type may make, over the largest size among the row's
/// logits: three times the worst that was measured. Weights are random, so best logits lead by
/// little; answers may differ where they do.
const BOUNDS: [(KvDtype, f32); 4] = [
    (KvDtype::F32, 0.0),
    (KvDtype::F16, 3e-3),
    (KvDtype::Bf16, 3e-2),
    (KvDtype::Int8, 7.5e-2),
];

/// What an answer was made with.
struct Answer {
    /// `[NEW_TOKENS, vocab]`.
    logits: Vec<Vec<f32>>,
}

impl Answer {
    fn tokens(&self) -> Vec<u32> {
        self.logits.iter().map(|logits| argmax(logits)).collect()
    }
}

/// Answers every run, all in one batch; each with the tokens given for it, or else with its own.
fn answers(suite: &Suite, runs: &[Run<'_>], dtype: KvDtype, given: &[Answer]) -> Vec<Answer> {
    let lengths = runs.iter().map(Run::length);
    let mut runner = Runner::new(&*suite.model, dtype, lengths);
    let mut sequences: Vec<Sequence> = runs.iter().map(Run::sequence).collect();
    let mut answers: Vec<Answer> = runs.iter().map(|_| Answer { logits: Vec::new() }).collect();
    for step in 0..NEW_TOKENS {
        let logits = runner.finish(&mut sequences, usize::MAX);
        for (index, logits) in logits.into_iter().enumerate() {
            let said = given
                .get(index)
                .map_or(&logits, |given| &given.logits[step]);
            sequences[index].push(&[argmax(said)]);
            answers[index].logits.push(logits);
        }
    }
    answers
}

/// Largest difference of a logit, over the largest size in its row.
fn error(found: &Answer, exact: &Answer) -> f32 {
    let rows = found.logits.iter().zip(&exact.logits);
    let of_row = |(found, exact): (&Vec<f32>, &Vec<f32>)| {
        let size = exact.iter().fold(0f32, |most, x| most.max(x.abs()));
        let differences = found.iter().zip(exact).map(|(a, b)| (a - b).abs());
        // `max` would pass over a NaN.
        let differences = differences.map(|x| if x.is_nan() { f32::INFINITY } else { x });
        differences.fold(0f32, f32::max) / size
    };
    rows.map(of_row).fold(0f32, f32::max)
}

impl Suite {
    /// Every type of cache within its bound.
    pub(crate) fn check_kv_dtypes(&self, runs: &[Run<'_>]) {
        let exact = answers(self, runs, KvDtype::F32, &[]);
        for (dtype, bound) in BOUNDS {
            let found = answers(self, runs, dtype, &exact);
            let pairs = || found.iter().zip(&exact);
            let worst = pairs().map(|(a, b)| error(a, b)).fold(0f32, f32::max);
            let same = pairs().filter(|(a, b)| a.tokens() == b.tokens()).count();
            let name = self.golden.directory.file_name().unwrap().to_string_lossy();
            let head_dim = self.model.spec().head_dim;
            println!(
                "{name}, heads of {head_dim}, {dtype}: {worst:.1e}, {same} of {} answers",
                runs.len()
            );
            assert!(worst <= bound, "{name}, {dtype}: {worst:e}");
        }
    }
}
