//! Random crowds: everyone is served rightly, everyone is accounted for, nothing leaks.

use futures::StreamExt;
use proptest::collection::vec;
use proptest::prelude::*;
use vlmd_backend::Prepared;
use vlmd_engine::{Event, EventStream, GenerateRequest, RequestError, SubmitError};

use crate::support::{
    Answer, BAD_PICTURE, CONFUSES, Rig, ask, ask_prepared, collect, expected, picture, span, words,
};

#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Runs to its end.
    Ends,
    /// Is dropped after so many events.
    Dropped(usize),
    /// Its logits are no numbers.
    Confused,
    /// Its picture cannot be encoded.
    Unseen,
}

#[derive(Debug, Clone)]
struct Plan {
    seed: u32,
    prompt: usize,
    answer: usize,
    picture: Option<usize>,
    fate: Fate,
    /// How many of those under way are awaited before it comes.
    pause: usize,
}

fn plan() -> impl Strategy<Value = Plan> {
    let fate = prop_oneof![
        6 => Just(Fate::Ends),
        2 => (0_usize..6).prop_map(Fate::Dropped),
        1 => Just(Fate::Confused),
        1 => Just(Fate::Unseen),
    ];
    let picture = proptest::option::weighted(0.3, 1_usize..40);
    let pause = prop_oneof![9 => Just(0_usize), 1 => 1_usize..8];
    (any::<u32>(), 1_usize..90, 1_usize..30, picture, fate, pause).prop_map(
        |(seed, prompt, answer, picture, fate, pause)| Plan {
            seed,
            prompt,
            answer,
            picture,
            fate,
            pause,
        },
    )
}

impl Plan {
    fn request(&self) -> GenerateRequest {
        let mut tokens = words(self.seed, self.prompt);
        if matches!(self.fate, Fate::Confused) {
            tokens.push(CONFUSES);
            return ask(tokens, self.answer);
        }
        let unseen = matches!(self.fate, Fate::Unseen);
        let features = self.picture.or(unseen.then_some(5));
        let Some(features) = features else {
            return ask(tokens, self.answer);
        };
        let at = tokens.len() / 2;
        tokens.splice(at..at, std::iter::repeat_n(0, features));
        let value = if unseen {
            BAD_PICTURE
        } else {
            (self.seed % 500) as f32
        };
        let prompt = Prepared {
            tokens,
            images: vec![picture(value, features)],
            spans: vec![span(0, at..at + features)],
            cross: Vec::new(),
        };
        ask_prepared(prompt, self.answer)
    }

    async fn check(&self, mut stream: EventStream) {
        let failed = |error| Answer {
            ids: vec![],
            end: Event::Failed(error),
        };
        let answer = match self.fate {
            Fate::Ends => Answer::full(expected(&self.request().prompt, self.answer)),
            Fate::Confused => failed(RequestError::InvalidLogits),
            Fate::Unseen => failed(RequestError::StepFailed),
            Fate::Dropped(events) => {
                for _ in 0..events {
                    stream.next().await;
                }
                return;
            }
        };
        assert_eq!(collect(stream).await, answer);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn two_hundred_random_requests_all_end_and_nothing_leaks(
        plans in vec(plan(), 200),
        seats in 1_usize..12,
        more_tokens in 0_usize..60,
        chunk in 1_usize..60,
        blocks in 6_usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new(|config| {
                config.max_num_seqs = seats;
                config.max_num_batched_tokens = seats + more_tokens;
                config.max_prefill_chunk = chunk;
                config.kv_blocks = blocks;
                config.max_queue = 20;
            });
            let mut under_way: Vec<(&Plan, EventStream)> = Vec::new();
            for plan in &plans {
                let stream = loop {
                    match rig.try_submit(plan.request()) {
                        Ok(stream) => break stream,
                        // Those that were dropped leave the line with the next step.
                        Err(SubmitError::QueueFull { .. }) if under_way.is_empty() => {
                            std::thread::yield_now();
                        }
                        Err(SubmitError::QueueFull { .. }) => {
                            let (plan, stream) = under_way.remove(0);
                            plan.check(stream).await;
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                under_way.push((plan, stream));
                for _ in 0..plan.pause.min(under_way.len()) {
                    let (plan, stream) = under_way.remove(0);
                    plan.check(stream).await;
                }
            }
            for (plan, stream) in under_way {
                plan.check(stream).await;
            }
            rig.engine.shutdown(std::time::Duration::from_secs(3600));
            rig.engine.stopped().await;
            rig.assert_idle();
            let stats = rig.engine.stats();
            let ended = stats.finished_length + stats.finished_stop + stats.cancelled + stats.failed;
            assert_eq!(ended, 200);
            assert_eq!(stats.steps_failed, 0);
        });
    }
}
