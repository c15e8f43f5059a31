//! Sampling parameters and limits, through the whole engine.

use futures::StreamExt;
use futures::future::join_all;
use vlmd_engine::{Event, FinishReason, GenerateRequest, RequestError, Sampling};

use crate::support::{Answer, Rig, WORDS, ask, collect, expected, words};

fn sampled(seed: u64, prompt: u32, max_tokens: usize) -> GenerateRequest {
    let mut request = ask(words(prompt, 20), max_tokens);
    request.sampling = Sampling {
        seed: Some(seed),
        top_p: 0.95,
        ..Sampling::default()
    };
    request
}

#[tokio::test]
async fn an_answer_ends_at_its_stop_token_which_is_reported() {
    let rig = Rig::new(|_| ());
    let mut request = ask(words(1, 10), 20);
    let free = expected(&request.prompt, 20);
    let stop = free[6];
    let at = free.iter().position(|id| *id == stop).unwrap();
    request.limits.stop_ids = vec![9999, stop];
    let answer = rig.run(request.clone()).await;
    assert_eq!(answer.ids, free[..=at]);
    assert_eq!(answer.end, Event::Finished(FinishReason::Stop(stop)));
    // As with `ignore_eos`: nothing stops it.
    request.limits.stop_ids.clear();
    assert_eq!(rig.run(request).await, Answer::full(free));
}

#[tokio::test]
async fn stop_tokens_are_impossible_until_the_answer_has_its_least_length() {
    let rig = Rig::new(|_| ());
    for least in [0, 1, 5, 20, 100] {
        let mut request = ask(words(1, 10), 20);
        // All but three words would end it.
        request.limits.stop_ids = (3..WORDS).collect();
        request.limits.min_tokens = least;
        let answer = rig.run(request).await;
        let words = answer.ids.iter().filter(|id| **id < 3).count();
        if least < 20 {
            assert!(words >= least, "{answer:?}");
            assert!(answer.ids[..least].iter().all(|id| *id < 3));
        } else {
            assert_eq!(answer.end, Event::Finished(FinishReason::Length));
            assert_eq!(words, 20);
        }
    }
}

#[tokio::test]
async fn max_tokens_counts_every_token_of_the_answer() {
    let rig = Rig::new(|_| ());
    for count in [1, 2, 31, 32, 33] {
        let request = ask(words(4, 32), count);
        let answer = Answer::full(expected(&request.prompt, count));
        assert_eq!(rig.run(request).await, answer);
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_alone_and_among_others() {
    let rig = Rig::new(|config| config.max_num_batched_tokens = 24);
    let request = sampled(7, 1, 40);
    let alone = rig.run(request.clone()).await;
    assert_eq!(alone.ids.len(), 40);
    let streams: Vec<_> = (0..12)
        .map(|n| match n {
            5 | 9 => rig.submit(request.clone()),
            _ => rig.submit(sampled(n, n as u32, 10 + n as usize)),
        })
        .collect();
    let answers = join_all(streams.into_iter().map(collect)).await;
    assert_eq!(answers[5], alone);
    assert_eq!(answers[9], alone);
    assert_ne!(rig.run(sampled(8, 1, 40)).await, alone);
}

/// Those whose logits someone has to see are chosen for on the host, the others by draws where the
/// logits are. Nobody can tell which it was.
#[tokio::test]
async fn an_answer_is_the_same_wherever_it_is_drawn_and_whoever_is_beside_it() {
    let rig = Rig::new(|config| config.max_num_batched_tokens = 24);
    let shapes: [fn(&mut Sampling); 6] = [
        |_| (),
        |s| s.temperature = 0.0,
        |s| (s.temperature, s.top_p) = (0.7, 1.0),
        |s| s.top_k = Some(7),
        |s| (s.top_p, s.min_p) = (1.0, 0.05),
        |s| (s.temperature, s.top_k, s.min_p) = (1.9, Some(40), 0.01),
    ];
    let requests: Vec<_> = (0..)
        .zip(shapes)
        .map(|(n, shape)| {
            let mut request = sampled(u64::from(n), n, 30);
            shape(&mut request.sampling);
            request
        })
        .collect();
    let mut alone = Vec::new();
    for request in &requests {
        let mut seen = request.clone();
        // There is no such token: only the way changes.
        seen.sampling.logit_bias = vec![(9999, 1.0)];
        let there = rig.run(request.clone()).await;
        assert_eq!(rig.run(seen).await, there, "{:?}", request.sampling);
        alone.push(there);
    }
    let mut beside = requests.clone();
    for request in beside.iter_mut().step_by(2) {
        request.sampling.logprobs = Some(2);
    }
    let both = requests.iter().chain(&beside);
    let streams: Vec<_> = both.map(|request| rig.submit(request.clone())).collect();
    let answers = join_all(streams.into_iter().map(collect)).await;
    for (answer, expected) in answers.iter().zip(alone.iter().chain(&alone)) {
        assert_eq!(answer, expected);
    }
}

#[tokio::test]
async fn what_a_request_rules_out_changes_nothing_for_others() {
    let rig = Rig::new(|config| config.max_num_batched_tokens = 24);
    let mut bounded = sampled(7, 1, 30);
    bounded.sampling.typical_p = 0.7;
    let free = rig.run(bounded.clone()).await;
    // Any pair of neighbours is a run that the answer must then not have; and whatever it says
    // instead is among these.
    bounded.sampling.bad_words = vec![free.ids[3..5].to_vec(), vec![free.ids[9]]];
    bounded.sampling.allowed_tokens = Some((0..WORDS).rev().step_by(2).chain([9999]).collect());
    let alone = rig.run(bounded.clone()).await;
    let words = &bounded.sampling.bad_words;
    assert_eq!(alone.ids.len(), 30);
    assert!(alone.ids.iter().all(|id| id % 2 == (WORDS - 1) % 2));
    assert!(
        alone
            .ids
            .windows(2)
            .all(|pair| pair != words[0] && pair[1] != words[1][0])
    );
    let plain = sampled(3, 1, 30);
    let plain_alone = rig.run(plain.clone()).await;
    let streams: Vec<_> = (0..10)
        .map(|n| rig.submit(if n % 2 == 0 { &bounded } else { &plain }.clone()))
        .collect();
    for (n, answer) in join_all(streams.into_iter().map(collect))
        .await
        .iter()
        .enumerate()
    {
        assert_eq!(answer, if n % 2 == 0 { &alone } else { &plain_alone });
    }
}

#[tokio::test]
async fn a_request_that_rules_everything_out_fails_by_itself() {
    let rig = Rig::new(|_| ());
    let mut request = ask(words(1, 10), 6);
    request.sampling.allowed_tokens = Some(vec![17]);
    request.sampling.bad_words = vec![vec![17, 17, 17]];
    let answer = rig.run(request).await;
    assert_eq!(answer.ids, [17, 17]);
    assert_eq!(answer.end, Event::Failed(RequestError::NothingAllowed));
    let request = ask(words(1, 10), 6);
    let expected = Answer::full(expected(&request.prompt, 6));
    assert_eq!(rig.run(request).await, expected);
}

#[tokio::test]
async fn without_a_seed_answers_differ() {
    let rig = Rig::new(|_| ());
    let mut request = sampled(0, 1, 40);
    request.sampling.seed = None;
    assert_ne!(rig.run(request.clone()).await, rig.run(request).await);
}

#[tokio::test]
async fn a_bias_forces_a_token_and_unknown_ids_are_ignored() {
    let rig = Rig::new(|_| ());
    let mut request = ask(words(1, 10), 6);
    request.sampling.logit_bias = vec![(17, 100.0), (64, 100.0), (u32::MAX, 100.0)];
    assert_eq!(rig.run(request).await.ids, [17; 6]);
}

#[tokio::test]
async fn a_penalty_on_repetition_sees_prompt_and_answer() {
    let rig = Rig::new(|_| ());
    let mut request = ask((0..50).collect(), 6);
    // Large enough to put every seen word behind every unseen one.
    request.sampling.logit_bias = (0..WORDS).map(|id| (id, 10.0)).collect();
    request.sampling.repetition_penalty = 1e6;
    let mut answer = rig.run(request).await.ids;
    answer.sort_unstable();
    assert_eq!(answer, [50, 51, 52, 53, 54, 55]);
}

#[tokio::test]
async fn log_probabilities_come_with_each_token() {
    let rig = Rig::new(|_| ());
    let mut request = ask(words(1, 10), 5);
    request.sampling.logprobs = Some(3);
    let mut stream = rig.submit(request);
    let mut tokens = 0;
    while let Some(event) = stream.next().await {
        let Event::Token { id, logprobs } = event else {
            continue;
        };
        let logprobs = logprobs.unwrap();
        // Greedy: the chosen one is the best.
        assert_eq!(logprobs.top[0], (id, logprobs.chosen));
        assert_eq!(logprobs.top.len(), 3);
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(logprobs.chosen < 0.0);
        tokens += 1;
    }
    assert_eq!(tokens, 5);
}
