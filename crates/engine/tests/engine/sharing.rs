//! Blocks that several requests use: prefixes found again, answers to one prompt, and what
//! happens when there are too few.

use futures::future::join_all;
use vlmd_backend::Prepared;
use vlmd_engine::{Event, GenerateRequest};

use crate::support::{
    Answer, Rig, ask, ask_prepared, collect, expected, picture, seeded, span, words,
};

/// New tokens of each step that was computed since `from`, all sequences together.
fn computed(rig: &Rig, from: usize) -> u32 {
    let ran = rig.control.ran();
    ran[from..].iter().flat_map(|ran| ran.new.iter()).sum()
}

#[tokio::test]
async fn a_prefix_is_computed_once() {
    let rig = Rig::new(|_| ());
    let prompt = words(1, 100);
    let answer = Answer::full(expected(&Prepared::text(prompt.clone()), 30));
    assert_eq!(rig.run(ask(prompt.clone(), 30)).await, answer);
    let steps = rig.control.ran().len();
    assert_eq!(rig.run(ask(prompt.clone(), 30)).await, answer);
    // Three full blocks are found; four tokens of the prompt and the answer are not.
    assert_eq!(computed(&rig, steps), 4 + 29);
    let stats = rig.engine.stats();
    assert_eq!((stats.prefix_queries, stats.prefix_hits), (200, 96));
    assert_eq!(stats.tokens_prefilled, 104);

    // The answer's blocks are found, too: as in the next turn of a conversation.
    let next = [&prompt[..], &answer.ids, &words(2, 20)].concat();
    let steps = rig.control.ran().len();
    let expected = expected(&Prepared::text(next.clone()), 3);
    assert_eq!(rig.run(ask(next, 3)).await, Answer::full(expected));
    assert_eq!(computed(&rig, steps), 150 - 128 + 2);
    rig.assert_idle();
}

#[tokio::test]
async fn a_prompt_of_full_blocks_still_computes_its_last_token() {
    let rig = Rig::new(|_| ());
    let request = ask(words(1, 64), 5);
    let answer = rig.run(request.clone()).await;
    let steps = rig.control.ran().len();
    assert_eq!(rig.run(request).await, answer);
    assert_eq!(computed(&rig, steps), 32 + 4);
}

#[tokio::test]
async fn salts_and_the_switch_keep_prefixes_apart() {
    let salted = |salt: &str| {
        let mut request = ask(words(1, 100), 2);
        request.service.cache_salt = salt.into();
        request
    };
    let rig = Rig::new(|_| ());
    for (salt, hits) in [("", 0), ("a", 0), ("b", 0), ("a", 96), ("", 192)] {
        rig.run(salted(salt)).await;
        assert_eq!(rig.engine.stats().prefix_hits, hits, "{salt}");
    }
    let off = Rig::new(|config| config.prefix_cache = false);
    for _ in 0..2 {
        off.run(salted("")).await;
    }
    assert_eq!(off.engine.stats().prefix_hits, 0);
}

#[tokio::test]
async fn pictures_tell_prompts_apart_that_are_the_same_in_words() {
    let rig = Rig::new(|_| ());
    let prompt = |value: f32| Prepared {
        tokens: words(5, 120),
        images: vec![picture(value, 40)],
        spans: vec![span(0, 3..43)],
        cross: Vec::new(),
    };
    let mut answers = Vec::new();
    for value in [1.0, 2.0, 1.0, 2.0] {
        let request = ask_prepared(prompt(value), 20);
        let answer = Answer::full(expected(&request.prompt, 20));
        assert_eq!(rig.run(request).await, answer);
        answers.push(answer);
    }
    assert_ne!(answers[0], answers[1]);
    let stats = rig.engine.stats();
    assert_eq!(stats.prefix_hits, 2 * 96);
    // Whose blocks are found need not be seen again.
    assert_eq!(rig.control.encoder_calls(), [1, 1]);
    assert_eq!((stats.encoder_queries, stats.encoder_hits), (2, 0));
}

#[tokio::test]
async fn a_picture_is_encoded_once_for_different_questions() {
    let rig = Rig::new(|_| ());
    let question = |seed| Prepared {
        tokens: words(seed, 60),
        images: vec![picture(7.0, 10)],
        spans: vec![span(0, 30..40)],
        cross: Vec::new(),
    };
    for seed in 0..3 {
        let request = ask_prepared(question(seed), 5);
        let answer = Answer::full(expected(&request.prompt, 5));
        assert_eq!(rig.run(request).await, answer);
    }
    assert_eq!(rig.control.encoder_calls(), [1]);
    let stats = rig.engine.stats();
    assert_eq!((stats.encoder_queries, stats.encoder_hits), (3, 2));
    assert!(stats.encoder_cache_bytes > 0);

    let forgetful = Rig::new(|config| config.encoder_cache_bytes = 0);
    for seed in 0..3 {
        forgetful.run(ask_prepared(question(seed), 5)).await;
    }
    assert_eq!(forgetful.control.encoder_calls(), [1, 1, 1]);
}

#[tokio::test]
async fn answers_to_one_prompt_share_it_and_are_those_of_single_requests() {
    for prompt in [20, 32, 50, 64] {
        let rig = Rig::new(|config| config.prefix_cache = false);
        let many = GenerateRequest {
            choices: 5,
            ..seeded(7, words(3, prompt), 40)
        };
        let answers = rig.run_all(many).await;
        assert_eq!(rig.engine.stats().tokens_prefilled, prompt as u64);
        for (seed, answer) in (7..).zip(&answers) {
            let alone = rig.run(seeded(seed, words(3, prompt), 40)).await;
            assert_eq!(*answer, alone, "seed {seed}, prompt of {prompt}");
        }
        rig.assert_idle();
    }
}

#[tokio::test]
async fn answers_without_a_seat_or_a_block_wait_and_come_all_the_same() {
    for (seats, blocks) in [(2, 64), (16, 4), (1, 4), (16, 3)] {
        let rig = Rig::new(|config| {
            config.max_num_seqs = seats;
            config.kv_blocks = blocks;
        });
        let many = GenerateRequest {
            choices: 6,
            ..seeded(1, words(3, 40), 45)
        };
        let answers = rig.run_all(many).await;
        let free = Rig::new(|_| ());
        for (seed, answer) in (1..).zip(&answers) {
            let alone = free.run(seeded(seed, words(3, 40), 45)).await;
            assert_eq!(*answer, alone, "{seats} seats, {blocks} blocks");
        }
        rig.assert_idle();
    }
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_does_not_end_its_siblings() {
    let rig = Rig::new(|_| ());
    rig.control.hold();
    let many = GenerateRequest {
        choices: 4,
        ..seeded(1, words(3, 40), 12)
    };
    let mut streams = rig.engine.submit(many).unwrap();
    rig.control.wait_entered(1);
    // The one that the prompt is computed for, and another.
    drop(streams.remove(0));
    drop(streams.remove(1));
    rig.control.release();
    let answers = join_all(streams.into_iter().map(collect)).await;
    for (seed, answer) in [2, 4].into_iter().zip(answers) {
        assert_eq!(answer, rig.run(seeded(seed, words(3, 40), 12)).await);
    }
    let stats = rig.engine.stats();
    assert_eq!((stats.cancelled, stats.finished_length), (2, 4));
    rig.assert_idle();
}

#[tokio::test]
async fn who_steps_back_for_lack_of_blocks_gives_the_same_answer() {
    let requests: Vec<_> = (0..6)
        .map(|seed| seeded(u64::from(seed), words(seed, 30), 60))
        .collect();
    let with_picture = |seed| Prepared {
        tokens: words(seed, 40),
        images: vec![picture(seed as f32, 12)],
        spans: vec![span(0, 20..32)],
        cross: Vec::new(),
    };
    let seen = (10..13).map(|seed| ask_prepared(with_picture(seed), 50));
    let requests: Vec<_> = requests.into_iter().chain(seen).collect();
    for cache in [true, false] {
        let change = |blocks| {
            move |config: &mut vlmd_engine::EngineConfig| {
                config.kv_blocks = blocks;
                config.prefix_cache = cache;
            }
        };
        let (roomy, tight) = (Rig::new(change(64)), Rig::new(change(5)));
        tight.control.hold();
        let first = tight.submit(ask(words(99, 3), 1));
        tight.control.wait_entered(1);
        let streams: Vec<_> = requests.iter().map(|r| tight.submit(r.clone())).collect();
        tight.control.release();
        collect(first).await;
        for (request, stream) in requests.iter().zip(streams) {
            let answer = collect(stream).await;
            assert_eq!(answer, roomy.run(request.clone()).await);
        }
        assert!(tight.engine.stats().preemptions > 0);
        assert_eq!(roomy.engine.stats().preemptions, 0);
        tight.assert_idle();
    }
}

#[tokio::test]
async fn the_prompts_own_probabilities_come_before_the_answer() {
    for chunk in [1, 7, 512] {
        let rig = Rig::new(|config| config.max_prefill_chunk = chunk);
        let tokens = words(4, 70);
        // A cached prefix must not leave any out.
        rig.run(ask(tokens.clone(), 2)).await;
        let mut request = ask(tokens.clone(), 2);
        request.prompt_logprobs = Some(3);
        let mut events: Vec<Event> = rig.events(request).await;
        let Event::Prompt(scores) = events.remove(0) else {
            panic!("no probabilities first");
        };
        assert_eq!(scores.len(), 70);
        assert_eq!(scores[0], None);
        for (at, score) in scores.iter().enumerate().skip(1) {
            let score = score.as_ref().unwrap();
            assert_eq!(score.id, tokens[at]);
            // What the model says after so much of the prompt.
            let mut shorter = ask(tokens[..at].to_vec(), 1);
            shorter.sampling.logprobs = Some(3);
            let after = rig.events(shorter).await;
            let Event::Token { logprobs, .. } = &after[0] else {
                panic!("no token");
            };
            let best = logprobs.as_ref().unwrap();
            assert_eq!(
                best.top, score.logprobs.top,
                "chunks of {chunk}, place {at}"
            );
            let place = score
                .logprobs
                .top
                .iter()
                .position(|(id, _)| *id == score.id);
            if let Some(place) = place {
                assert_eq!(score.logprobs.rank, place + 1);
            } else {
                assert!(score.logprobs.rank > 3);
            }
        }
        assert_eq!(events.len(), 4);
    }
}
