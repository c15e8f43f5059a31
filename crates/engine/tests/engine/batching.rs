//! Answers do not depend on company, chunks or the state of the pool.

use futures::future::join_all;

use crate::support::{Answer, Rig, ask, collect, expected, words};

/// A dozen requests of all lengths, some of a block and a bit.
fn mixed() -> Vec<(usize, usize)> {
    let prompts = [1, 2, 7, 31, 32, 33, 64, 65, 100, 150, 5, 40];
    let answers = [40, 1, 33, 2, 1, 32, 20, 3, 50, 10, 64, 25];
    prompts.into_iter().zip(answers).collect()
}

#[tokio::test]
async fn an_answer_is_the_same_alone_and_among_many_in_chunks_of_any_size() {
    for (chunk, budget) in [(1, 16), (7, 16), (7, 512), (32, 64), (512, 512)] {
        let rig = Rig::new(|config| {
            config.max_prefill_chunk = chunk;
            config.max_num_batched_tokens = budget;
        });
        let requests: Vec<_> = (0..)
            .zip(mixed())
            .map(|(seed, (prompt, answer))| ask(words(seed, prompt), answer))
            .collect();
        let streams: Vec<_> = requests.iter().map(|r| rig.submit(r.clone())).collect();
        let together = join_all(streams.into_iter().map(collect)).await;
        for (request, among) in requests.into_iter().zip(together) {
            let answer = expected(&request.prompt, request.limits.max_tokens);
            assert_eq!(among, Answer::full(answer), "chunks of {chunk}");
            assert_eq!(rig.run(request).await, among, "chunks of {chunk}");
        }
        for ran in rig.control.ran() {
            assert!(ran.new.iter().sum::<u32>() <= budget as u32);
            assert!(ran.new.iter().all(|&new| new <= chunk as u32));
        }
        rig.assert_idle();
    }
}

#[tokio::test]
async fn a_long_prompt_holds_up_no_answer() {
    let rig = Rig::new(|config| {
        config.max_num_seqs = 4;
        config.max_num_batched_tokens = 10;
    });
    rig.control.hold();
    let answering = rig.submit(ask(words(1, 3), 20));
    rig.control.wait_entered(1);
    let long = rig.submit(ask(words(2, 90), 2));
    rig.control.release();
    let (answering, long) = (collect(answering).await, collect(long).await);
    assert_eq!((answering.ids.len(), long.ids.len()), (20, 2));
    let ran = rig.control.ran();
    // The prompt goes on beside the answer: nine tokens and one in each step.
    assert_eq!(ran[0].new, [3]);
    for step in &ran[1..=10] {
        assert_eq!(step.new, [1, 9]);
    }
    assert_eq!(ran[11].new, [1, 1]);
}

#[tokio::test]
async fn requests_wait_for_blocks_and_then_go_on() {
    let rig = Rig::new(|config| config.kv_blocks = 4);
    rig.control.hold();
    // Two blocks each at first, three in the end, and one is left for who runs: one at a time.
    let requests: Vec<_> = (0..4).map(|seed| ask(words(seed, 60), 20)).collect();
    let streams: Vec<_> = requests.iter().map(|r| rig.submit(r.clone())).collect();
    rig.control.wait_entered(1);
    let stats = rig.engine.stats();
    assert_eq!((stats.running, stats.waiting), (1, 3));
    assert_eq!((stats.blocks_used, stats.blocks_total), (2, 4));
    rig.control.release();
    for (request, stream) in requests.iter().zip(streams) {
        let answer = Answer::full(expected(&request.prompt, 20));
        assert_eq!(collect(stream).await, answer);
    }
    assert!(rig.control.ran().iter().all(|ran| ran.new.len() == 1));
    rig.assert_idle();
}

#[tokio::test]
async fn a_large_request_is_not_overtaken_by_small_ones() {
    let rig = Rig::new(|config| config.kv_blocks = 4);
    rig.control.hold();
    let first = rig.submit(ask(words(1, 60), 3));
    rig.control.wait_entered(1);
    // The large one takes all four blocks; the small one would fit beside the first.
    let large = rig.submit(ask(words(2, 100), 3));
    let small = rig.submit(ask(words(3, 5), 3));
    rig.control.release();
    for stream in [first, large, small] {
        assert_eq!(collect(stream).await.ids.len(), 3);
    }
    let order: Vec<_> = rig.control.ran().iter().map(|ran| ran.new[0]).collect();
    assert_eq!(order, [60, 1, 1, 100, 1, 1, 5, 1, 1]);
}

#[tokio::test]
async fn counters_tell_what_was_done() {
    let rig = Rig::new(|_| ());
    rig.run(ask(words(1, 40), 5)).await;
    let mut stopped = ask(words(2, 10), 5);
    stopped.limits.stop_ids = expected(&stopped.prompt, 1);
    rig.run(stopped).await;
    let stats = rig.engine.stats();
    assert_eq!((stats.tokens_prefilled, stats.tokens_generated), (50, 6));
    assert_eq!((stats.finished_length, stats.finished_stop), (1, 1));
    assert_eq!((stats.steps, stats.steps_failed, stats.failed), (6, 0, 0));
    assert!(!stats.last_step.is_zero());
    rig.assert_idle();
}
