//! Whole requests through the engine: the same text alone and among others, whatever the engine
//! remembers, in chunks of any size, and where blocks are so few that requests step back.

use futures::StreamExt;
use futures::executor::block_on;
use futures::future::join_all;
use vlmd_backend::{BLOCK_TOKENS, KvDtype, Prepared};
use vlmd_engine::{
    Engine, EngineConfig, Event, EventStream, GenerateRequest, Limits, Sampling, Speculation,
};
use vlmd_models::{LoadOptions, load};

use super::suite::{DECISIVE_GAP, NEW_TOKENS, Run, Suite};

/// Random requests that run beside the golden ones.
const OTHERS: usize = 32;

/// How the engine is set up beside the golden requests.
#[derive(Debug, Clone, Copy)]
struct Setting {
    chunk: usize,
    caches: bool,
    /// So few blocks that they do not all fit.
    tight: bool,
    speculation: Option<Speculation>,
}

const fn setting(chunk: usize, caches: bool, tight: bool) -> Setting {
    Setting {
        chunk,
        caches,
        tight,
        speculation: None,
    }
}

const SETTINGS: [Setting; 5] = [
    setting(usize::MAX, true, false),
    setting(32, false, true),
    setting(7, true, true),
    setting(1, false, false),
    Setting {
        speculation: Some(Speculation {
            tokens: 4,
            min_ngram: 1,
            max_ngram: 3,
        }),
        ..setting(32, true, true)
    },
];

fn greedy(prompt: Prepared, max_tokens: usize) -> GenerateRequest {
    let sampling = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let limits = Limits {
        max_tokens,
        ..Limits::default()
    };
    GenerateRequest::new(prompt, sampling, limits)
}

/// The same prompt with tokens that are drawn.
fn seeded(prompt: Prepared, max_tokens: usize, seed: u64) -> GenerateRequest {
    let mut request = greedy(prompt, max_tokens);
    request.sampling.temperature = 0.8;
    request.sampling.top_p = 0.95;
    request.sampling.seed = Some(seed);
    request
}

async fn ids(stream: EventStream) -> Vec<u32> {
    let events: Vec<Event> = stream.collect().await;
    let ended = matches!(events.last(), Some(Event::Finished(_)));
    assert!(ended, "{:?}", events.last());
    let id = |event: &Event| match event {
        Event::Token { id, .. } => Some(*id),
        _ => None,
    };
    events.iter().filter_map(id).collect()
}

impl Suite {
    /// Greedy answers are the reference's, and seeded ones those of a request alone. `quirks` is
    /// how the suite's model was loaded.
    pub(crate) fn check_in_company(&self, runs: &[Run<'_>], quirks: bool) {
        // Token by token a prompt takes as many steps as it is long.
        let usual = |run: &&Run<'_>| run.is_usual() && run.length() <= 400;
        let runs: Vec<_> = runs.iter().filter(usual).take(8).collect();
        let drawn = |run: &Run<'_>, seed| seeded(run.prompt.clone(), NEW_TOKENS, seed);
        let roomy = self.engine(SETTINGS[0], 0, quirks);
        let alone: Vec<Vec<u32>> = (0..)
            .zip(&runs)
            .map(|(seed, run)| {
                let mut streams = roomy.submit(drawn(run, seed)).unwrap();
                block_on(ids(streams.remove(0)))
            })
            .collect();
        let longest = runs.iter().map(|run| run.length()).max().unwrap();
        let others = OTHERS.div_ceil(runs.len()) as u64;
        for setting in SETTINGS {
            let engine = self.engine(setting, longest, quirks);
            let mut streams = Vec::new();
            for (seed, run) in (0..).zip(&runs) {
                let same = greedy(run.prompt.clone(), NEW_TOKENS);
                let more = (0..others).map(|other| self.other(seed * others + other));
                for request in [same, drawn(run, seed)].into_iter().chain(more) {
                    streams.extend(engine.submit(request).unwrap());
                }
            }
            let answers = block_on(join_all(streams.into_iter().map(ids)));
            let answers = answers.chunks(2 + others as usize);
            for ((run, alone), answers) in runs.iter().zip(&alone).zip(answers) {
                let label = format!("{} {setting:?}", run.label);
                // Up to where the reference itself hardly knew what to say.
                let sure = run
                    .gaps
                    .iter()
                    .take_while(|gap| **gap > DECISIVE_GAP)
                    .count();
                assert_eq!(answers[0][..sure], run.generated[..sure], "{label}: greedy");
                assert_eq!(answers[1], *alone, "{label}: seeded");
            }
            let preempted = engine.stats().preemptions;
            assert_eq!(preempted > 0, setting.tight, "{setting:?}: {preempted}");
        }
    }

    fn engine(&self, setting: Setting, longest: usize, transformers_quirks: bool) -> Engine {
        let options = LoadOptions {
            transformers_quirks,
            ..LoadOptions::default()
        };
        let model = load(&self.golden.files(), &options).unwrap().model;
        let spec = model.spec();
        let cross = self
            .prompts
            .iter()
            .map(|(prompt, _)| prompt.cross_features());
        let cross = cross.max().unwrap_or(0) * spec.cross_feature_bytes;
        let blocks = if setting.tight {
            2 * longest.div_ceil(BLOCK_TOKENS) + 2
        } else {
            1024
        };
        let length = spec.max_positions.min(blocks * BLOCK_TOKENS);
        let config = EngineConfig {
            max_num_seqs: 48,
            max_prefill_chunk: setting.chunk,
            prefix_cache: setting.caches,
            encoder_cache_bytes: if setting.caches { 64 << 20 } else { 0 },
            cross_bytes: cross * if setting.tight { 3 } else { 48 },
            speculation: setting.speculation,
            ..EngineConfig::new(blocks, KvDtype::F32, length)
        };
        Engine::start(model, config).unwrap()
    }

    /// A request that comes in between: text of its own, or one of the golden prompts again.
    fn other(&self, number: u64) -> GenerateRequest {
        let random = |at: u64| (number * 7919 + at * 104_729) % 65_537;
        let length = 3 + random(0) as usize % 60;
        let vocab = self.model.spec().vocab_size as u64;
        let tokens = (1..).map(|at| (random(at) % vocab) as u32);
        let (golden, _) = &self.prompts[random(1) as usize % self.prompts.len()];
        let again = random(2) % 4 == 0 && golden.tokens.len() < 400;
        let prompt = if again {
            golden.clone()
        } else {
            Prepared::text(tokens.take(length).collect())
        };
        seeded(prompt, 40 + random(3) as usize % 80, number)
    }
}
