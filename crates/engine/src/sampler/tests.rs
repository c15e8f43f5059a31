use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use vlmd_kernels::Draw;

use super::*;

const GREEDY: f32 = 0.0;

fn greedy() -> Sampling {
    Sampling {
        temperature: GREEDY,
        ..Sampling::default()
    }
}

fn seeded(seed: u64) -> Sampling {
    Sampling {
        seed: Some(seed),
        ..Sampling::default()
    }
}

fn choose(sampler: &mut Sampler, logits: &[f32]) -> Result<Choice, RequestError> {
    sampler.choose(&mut logits.to_vec(), &[], &mut Vec::new())
}

fn first(sampling: Sampling, logits: &[f32]) -> Result<u32, RequestError> {
    choose(&mut Sampler::new(sampling, None, []), logits).map(|choice| choice.id)
}

/// How often each token comes in `n` draws.
fn counts(sampling: &Sampling, logits: &[f32], n: usize) -> BTreeMap<u32, usize> {
    let mut sampler = Sampler::new(sampling.clone(), None, []);
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let id = choose(&mut sampler, logits).unwrap().id;
        *counts.entry(id).or_default() += 1;
    }
    counts
}

/// Which tokens come at all: those kept have a probability that 2000 draws do not miss.
fn support(sampling: &Sampling, logits: &[f32]) -> Vec<u32> {
    counts(sampling, logits, 2000).into_keys().collect()
}

/// Logits of these probabilities.
fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[test]
fn greedy_takes_the_first_of_equal_maxima() {
    assert_eq!(first(greedy(), &[1.0, 3.0, 3.0, 2.0]), Ok(1));
    assert_eq!(first(greedy(), &[-4.0, -3.0, -3.0]), Ok(1));
}

#[test]
fn logits_that_are_no_numbers_fail_the_request() {
    let nan = [0.0, f32::NAN, 1.0];
    let infinite = [0.0, f32::INFINITY, 1.0];
    let impossible = [f32::NEG_INFINITY; 3];
    for sampling in [
        greedy(),
        seeded(1),
        Sampling {
            top_k: Some(2),
            ..seeded(1)
        },
    ] {
        for logits in [nan, infinite, impossible] {
            let outcome = first(sampling.clone(), &logits);
            assert_eq!(outcome, Err(RequestError::InvalidLogits));
        }
        let one = [f32::NEG_INFINITY, -5.0, f32::NEG_INFINITY];
        assert_eq!(first(sampling, &one), Ok(1));
    }
}

#[test]
fn a_bias_forces_and_forbids_and_unknown_ids_do_nothing() {
    let logits = [5.0, 1.0, 4.0];
    let biased = |bias: &[(u32, f32)]| Sampling {
        logit_bias: bias.to_vec(),
        ..greedy()
    };
    assert_eq!(first(biased(&[(1, 100.0)]), &logits), Ok(1));
    assert_eq!(first(biased(&[(0, -100.0)]), &logits), Ok(2));
    assert_eq!(
        first(biased(&[(3, 100.0), (u32::MAX, 9.0)]), &logits),
        Ok(0)
    );
}

#[test]
fn suppressed_tokens_are_never_chosen() {
    let mut sampler = Sampler::new(greedy(), None, []);
    let suppress = |sampler: &mut Sampler, ids: &[u32]| {
        let mut logits = [5.0, 1.0, 4.0];
        sampler
            .choose(&mut logits, ids, &mut Vec::new())
            .map(|c| c.id)
    };
    assert_eq!(suppress(&mut sampler, &[0, 7]), Ok(2));
    assert_eq!(suppress(&mut sampler, &[0, 2]), Ok(1));
    let all = suppress(&mut sampler, &[0, 1, 2]);
    assert_eq!(all, Err(RequestError::NothingAllowed));
}

/// Worked by hand: the logits after each penalty, read off as log probabilities' differences
/// would hide a common shift, so the history is asked directly.
#[test]
fn penalties_match_hand_computed_values() {
    let penalized = |sampling: &Sampling| {
        let mut history = History::new(sampling, [0, 1]);
        for id in [1, 2, 2, 3] {
            history.push(id);
        }
        let mut logits = [4.0, -4.0, 3.0, -1.0, 2.0];
        history.penalize(sampling, &mut logits);
        logits
    };
    let off = Sampling::default();
    assert_eq!(penalized(&off), [4.0, -4.0, 3.0, -1.0, 2.0]);
    // Prompt and answer: positive logits halve, negative ones double, once per token.
    let repetition = Sampling {
        repetition_penalty: 2.0,
        ..off.clone()
    };
    assert_eq!(penalized(&repetition), [2.0, -8.0, 1.5, -2.0, 2.0]);
    // The answer alone: once per occurrence.
    let frequency = Sampling {
        frequency_penalty: 0.5,
        ..off.clone()
    };
    assert_eq!(penalized(&frequency), [4.0, -4.5, 2.0, -1.5, 2.0]);
    // The answer alone: once.
    let presence = Sampling {
        presence_penalty: 0.5,
        ..off.clone()
    };
    assert_eq!(penalized(&presence), [4.0, -4.5, 2.5, -1.5, 2.0]);
    let all = Sampling {
        repetition_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        ..off
    };
    assert_eq!(penalized(&all), [2.0, -8.75, 0.25, -2.75, 2.0]);
}

#[test]
fn the_smallest_penalty_leaves_numbers_to_choose_among() {
    for temperature in [0.0, 1.0, f32::MIN_POSITIVE] {
        let sampling = Sampling {
            repetition_penalty: f32::from_bits(1),
            temperature,
            top_p: 0.9,
            frequency_penalty: 2.0,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, None, [0, 2]);
        for _ in 0..3 {
            let id = choose(&mut sampler, &[3.0, 9.0, -1.0, 2.0]).unwrap().id;
            assert_eq!(id, 0, "seen and positive, at temperature {temperature}");
        }
    }
}

#[test]
fn penalties_reach_the_choice() {
    let sampling = Sampling {
        frequency_penalty: 1.0,
        ..greedy()
    };
    let mut sampler = Sampler::new(sampling, None, [0]);
    let mut next = || choose(&mut sampler, &[3.0, 2.5, 0.0]).unwrap().id;
    // 3 | 2, 2.5 | 2, 1.5 | 1, 1.5 | ...
    assert_eq!([next(), next(), next(), next()], [0, 1, 0, 1]);
    let sampling = Sampling {
        repetition_penalty: 2.0,
        ..greedy()
    };
    let mut sampler = Sampler::new(sampling, None, [0]);
    assert_eq!(choose(&mut sampler, &[3.0, 2.5, 0.0]).unwrap().id, 1);
}

#[test]
fn top_k_keeps_the_k_most_probable() {
    let logits = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    let top = |k| {
        support(
            &Sampling {
                top_k: Some(k),
                ..seeded(7)
            },
            &logits,
        )
    };
    assert_eq!(top(1), [1]);
    assert_eq!(top(2), [1, 3]);
    assert_eq!(top(3), [1, 2, 3]);
    assert_eq!(top(4), [0, 1, 2, 3]);
    assert_eq!(top(1000), [0, 1, 2, 3]);
}

#[test]
fn top_k_of_one_is_greedy_even_where_the_probabilities_round_to_equal() {
    let logits = [1.0, 1.000_000_1];
    let sampling = Sampling {
        top_k: Some(1),
        temperature: 100.0,
        ..seeded(3)
    };
    assert_eq!(support(&sampling, &logits), [1]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_the_sum() {
    let logits = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    let top = |p| {
        support(
            &Sampling {
                top_p: p,
                ..seeded(7)
            },
            &logits,
        )
    };
    assert_eq!(top(0.01), [1]);
    assert_eq!(top(0.39), [1]);
    assert_eq!(top(0.41), [1, 3]);
    assert_eq!(top(0.69), [1, 3]);
    assert_eq!(top(0.71), [1, 2, 3]);
    assert_eq!(top(0.91), [0, 1, 2, 3]);
}

#[test]
fn top_p_counts_what_top_k_left() {
    let logits = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    // Of 0.4 and 0.3 the first has 57 %.
    let both = |p| Sampling {
        top_k: Some(2),
        top_p: p,
        ..seeded(7)
    };
    assert_eq!(support(&both(0.56), &logits), [1]);
    assert_eq!(support(&both(0.58), &logits), [1, 3]);
}

#[test]
fn min_p_drops_what_is_below_a_share_of_the_best() {
    let logits = logits_of(&[0.1, 0.4, 0.2, 0.3]);
    let min = |p| Sampling {
        min_p: p,
        ..seeded(7)
    };
    assert_eq!(support(&min(0.24), &logits), [0, 1, 2, 3]);
    assert_eq!(support(&min(0.26), &logits), [1, 2, 3]);
    assert_eq!(support(&min(0.76), &logits), [1]);
    assert_eq!(support(&min(1.0), &logits), [1]);
    let with_top_p = Sampling {
        top_p: 0.95,
        ..min(0.51)
    };
    assert_eq!(support(&with_top_p, &logits), [1, 3]);
}

#[test]
fn draws_follow_the_distribution() {
    let probabilities = [0.1, 0.4, 0.2, 0.3];
    let logits = logits_of(&probabilities);
    let n = 20_000;
    let plain = seeded(11);
    // The same distribution by the sorted path: nothing is cut at this `top_p`.
    let sorted = Sampling {
        top_p: 0.999_999,
        ..seeded(12)
    };
    for sampling in [plain, sorted] {
        let counts = counts(&sampling, &logits, n);
        for (id, p) in (0..).zip(probabilities) {
            let share = counts[&id] as f32 / n as f32;
            // More than five standard deviations.
            assert!((share - p).abs() < 0.018, "{id}: {share} of {p}");
        }
    }
}

#[test]
fn temperature_sharpens_and_flattens() {
    let logits = logits_of(&[0.2, 0.8]);
    let share = |temperature| {
        let sampling = Sampling {
            temperature,
            ..seeded(5)
        };
        counts(&sampling, &logits, 20_000)[&1] as f32 / 20_000.0
    };
    // 0.8² / (0.8² + 0.2²), and with square roots.
    assert!((share(0.5) - 0.941).abs() < 0.01);
    assert!((share(2.0) - 0.667).abs() < 0.018);
}

#[test]
fn the_smallest_temperature_is_greedy_and_no_failure() {
    let sampling = Sampling {
        temperature: f32::MIN_POSITIVE,
        ..seeded(5)
    };
    assert_eq!(support(&sampling, &[900.0, 1000.0, -1000.0]), [1]);
}

#[test]
fn the_same_seed_gives_the_same_draws_and_another_gives_others() {
    let logits = vec![0.0; 50];
    let draws = |seed: Option<u64>| {
        let mut sampler = Sampler::new(
            Sampling {
                seed,
                ..Sampling::default()
            },
            None,
            [],
        );
        let draw = |_| choose(&mut sampler, &logits).unwrap().id;
        (0..40).map(draw).collect::<Vec<_>>()
    };
    assert_eq!(draws(Some(1)), draws(Some(1)));
    assert_ne!(draws(Some(1)), draws(Some(2)));
    assert_ne!(draws(None), draws(None));
}

#[test]
fn log_probabilities_are_the_models_own_whatever_was_chosen() {
    let logits = logits_of(&[0.125, 0.5, 0.125, 0.25]);
    let sampling = Sampling {
        logprobs: Some(3),
        logit_bias: vec![(0, 50.0)],
        repetition_penalty: 2.0,
        ..greedy()
    };
    let choice = choose(&mut Sampler::new(sampling, None, [1]), &logits).unwrap();
    assert_eq!(choice.id, 0);
    let logprobs = choice.logprobs.unwrap();
    let close = |x: f32, p: f32| (x - p.ln()).abs() < 1e-6;
    assert!(close(logprobs.chosen, 0.125));
    let ids: Vec<_> = logprobs.top.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [1, 3, 0], "best first, equal ones by id");
    assert!(close(logprobs.top[0].1, 0.5) && close(logprobs.top[1].1, 0.25));
}

#[test]
fn log_probabilities_come_only_when_asked_and_never_infinite() {
    let logits = [f32::NEG_INFINITY, 2.0];
    let report = |n| {
        let sampling = Sampling {
            logprobs: n,
            ..greedy()
        };
        choose(&mut Sampler::new(sampling, None, []), &logits)
            .unwrap()
            .logprobs
    };
    assert_eq!(report(None), None);
    assert_eq!(
        report(Some(0)),
        Some(Logprobs {
            chosen: 0.0,
            rank: 1,
            top: vec![]
        })
    );
    let two = Logprobs {
        chosen: 0.0,
        rank: 1,
        top: vec![(1, 0.0)],
    };
    assert_eq!(report(Some(2)), Some(two));
}

/// As `TypicalLogitsWarper` is written, line by line.
fn reference_typical(kept: &[draw::Candidate], mass: f64) -> Vec<u32> {
    let total: f64 = kept.iter().map(|one| one.weight as f64).sum();
    let p = |one: &draw::Candidate| one.weight as f64 / total;
    let entropy: f64 = kept.iter().map(|one| -p(one) * p(one).ln()).sum();
    let shifted = |one: &draw::Candidate| (-p(one).ln() - entropy).abs();
    let mut sorted = kept.to_vec();
    sorted.sort_by(|a, b| shifted(a).total_cmp(&shifted(b)));
    let mut cumulative = 0.0;
    let below = sorted.iter().take_while(|one| {
        cumulative += p(one);
        cumulative < mass
    });
    let last = sorted[below.count().min(sorted.len() - 1)];
    // What is as far as the last one, up to rounding, is as good.
    let near = |one: &&draw::Candidate| shifted(one) <= shifted(&last) + 1e-6;
    kept.iter().filter(near).map(|one| one.id).collect()
}

proptest! {
    #[test]
    fn typical_candidates_are_those_of_a_full_sort(
        seed in any::<u64>(),
        spread in prop_oneof![Just(0.0_f32), 0.1_f32..8.0],
        top_k in proptest::option::of(1_u32..700),
        typical_p in 0.05_f32..0.999,
        temperature in 0.2_f32..2.0,
        number in any::<u64>(),
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let logits: Vec<f32> = (0..600).map(|_| spread * rng.random::<f32>()).collect();
        let sampling = Sampling { temperature, top_k, ..Sampling::default() };
        let sampler = Sampler::new(sampling.clone(), None, []);
        let all = sampler.candidates(&logits).unwrap();
        let sampler = Sampler::new(Sampling { typical_p, ..sampling }, None, []);
        let found = sampler.candidates(&logits).unwrap();
        let expected = reference_typical(&all, f64::from(typical_p));
        let ids: Vec<u32> = found.iter().map(|one| one.id).collect();
        prop_assert!(ids.iter().all(|id| expected.contains(id)), "{:?} {:?}", ids, expected);
        let share: u64 = found.iter().map(|one| one.weight).sum();
        let total: u64 = all.iter().map(|one| one.weight).sum();
        prop_assert!(share as f64 >= f64::from(typical_p) * total as f64 * (1.0 - 1e-12));
        let drawn = draw::pick(&found, number).unwrap();
        prop_assert!(ids.contains(&drawn));
        prop_assert_eq!(draw::pick(&found, 0), ids.first().copied());
        prop_assert_eq!(draw::pick(&found, u64::MAX), ids.last().copied());
    }
}

/// What a sampler says one after another, given the same logits each time.
fn said(size: usize, prompt: &[u32], logits: &[f32], tokens: usize) -> Vec<u32> {
    let sampling = Sampling {
        no_repeat_ngram_size: size,
        ..greedy()
    };
    let mut sampler = Sampler::new(sampling, None, []).after(prompt);
    (0..tokens)
        .map(|_| choose(&mut sampler, logits).unwrap().id)
        .collect()
}

#[test]
fn no_run_of_tokens_comes_twice() {
    let logits = [3.0, 2.0, 1.0];
    assert_eq!(said(0, &[0, 0, 0], &logits, 4), [0, 0, 0, 0]);
    // Three zeros are there once; then `0 0` must not be followed by a zero.
    assert_eq!(said(3, &[], &logits, 6), [0, 0, 0, 1, 0, 0]);
    // The prompt counts: `1 0 0` is in it.
    assert_eq!(said(3, &[1, 0, 0, 2, 1, 0], &logits, 1), [1]);
    // Fewer tokens than a run forbid nothing, even if they all are the same.
    assert_eq!(said(3, &[0], &logits, 2), [0, 0]);
    // A run of one: no token twice.
    assert_eq!(said(1, &[1], &logits, 2), [0, 2]);
}

#[test]
fn runs_are_ruled_out_for_drawn_tokens_too() {
    let sampling = Sampling {
        no_repeat_ngram_size: 1,
        ..seeded(7)
    };
    let mut sampler = Sampler::new(sampling, None, []).after(&[0, 1]);
    assert_eq!(choose(&mut sampler, &[9.0, 9.0, -9.0]).unwrap().id, 2);
    // Nothing is left.
    let error = choose(&mut sampler, &[9.0, 9.0, -9.0]).unwrap_err();
    assert_eq!(error, RequestError::NothingAllowed);
}

#[test]
fn prompts_tokens_beyond_the_vocabulary_are_no_trouble() {
    assert_eq!(said(2, &[70, 0, 70], &[1.0, 0.0], 1), [1]);
    assert_eq!(said(2, &[0, 70, 0], &[1.0, 0.0], 1), [0]);
}

#[test]
fn what_a_device_draws_is_what_is_chosen_here() {
    let mut noise = StdRng::seed_from_u64(7);
    for round in 0..400_u64 {
        let vocab = [3, 80, 1000][round as usize % 3];
        // Coarse, so that many are equal, zeros of both signs among them.
        let mut logits: Vec<f32> = (0..vocab)
            .map(|_| (noise.random::<f32>() * 9.0 - 6.0).round() / 2.0)
            .collect();
        if round % 5 == 0 {
            logits[1] = f32::NEG_INFINITY;
        }
        let sampling = Sampling {
            temperature: [0.0, 0.3, 1.0, 7.0][noise.random_range(0..4)],
            top_k: [None, Some(1), Some(5), Some(64), Some(100)][noise.random_range(0..5)],
            top_p: [1.0, 0.9, 0.3][noise.random_range(0..3)],
            min_p: [0.0, 0.2][noise.random_range(0..2)],
            seed: Some(round),
            ..Sampling::default()
        };
        let mut here = Sampler::new(sampling.clone(), None, []);
        let mut there = Sampler::new(sampling.clone(), None, []);
        let tensor = Tensor::new(&logits[..], &Device::Cpu).unwrap();
        let tensor = tensor.unsqueeze(0).unwrap();
        for turn in 0..6 {
            let expected = choose(&mut here, &logits).unwrap();
            // Numbers for guesses, which may come to nothing, and a turn on the host in between.
            let terms = there.terms_on_device(&[]).unwrap();
            let number = there.numbers(1 + turn % 3)[0];
            let found = if turn == 3 {
                choose(&mut there, &logits)
            } else {
                let draw = Draw {
                    row: 0,
                    terms,
                    number,
                };
                let drawn = vlmd_kernels::draw(&tensor, &[draw]).unwrap();
                there.take(drawn[0])
            };
            assert_eq!(found.unwrap(), expected, "{sampling:?}, turn {turn}");
        }
    }
}

#[test]
fn the_logits_have_to_be_here_where_single_ones_are_changed_or_told() {
    let drawn = |sampling: Sampling, suppressed: &[u32]| {
        let sampler = Sampler::new(sampling, None, []);
        sampler.terms_on_device(suppressed).is_some()
    };
    for plain in [greedy(), seeded(1)] {
        assert!(drawn(plain.clone(), &[]));
        assert!(!drawn(plain.clone(), &[3]));
        for change in [
            |s: &mut Sampling| s.repetition_penalty = 1.1,
            |s: &mut Sampling| s.presence_penalty = 0.5,
            |s: &mut Sampling| s.no_repeat_ngram_size = 3,
            |s: &mut Sampling| s.allowed_tokens = Some(vec![1]),
            |s: &mut Sampling| s.bad_words = vec![vec![1, 2]],
            |s: &mut Sampling| s.logit_bias = vec![(1, 1.0)],
            |s: &mut Sampling| s.logprobs = Some(0),
        ] {
            let mut sampling = plain.clone();
            change(&mut sampling);
            assert!(!drawn(sampling.clone(), &[]), "{sampling:?}");
        }
        let shaped = Sampling {
            top_k: Some(100_000),
            top_p: 0.5,
            min_p: 0.1,
            ..plain.clone()
        };
        assert!(drawn(shaped, &[]));
        // Greedy answers have no distribution.
        let typical = Sampling {
            typical_p: 0.5,
            ..plain.clone()
        };
        assert_eq!(drawn(typical, &[]), plain.temperature == 0.0);
    }
}

#[test]
fn nothing_drawn_are_logits_that_are_no_numbers() {
    let mut sampler = Sampler::new(Sampling::default(), None, []);
    let error = sampler.take(None).unwrap_err();
    assert_eq!(error, RequestError::InvalidLogits);
}
