//! Draws against their definition: a full sort, and sums of whole numbers.

use candle_core::{Device, Tensor};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::key::Key;
use super::weight::{ONE, Scale};
use super::*;

#[path = "../../tests/cuda_parity/draw_cases.rs"]
mod cases;

const PLAIN: Terms = Terms {
    temperature: 1.0,
    top_k: None,
    top_p: 1.0,
    min_p: 0.0,
};

/// The ids that may be drawn and what they weigh, by id, without any shortcut.
fn defined(logits: &[f32], terms: &Terms) -> Vec<(u32, u64)> {
    let mut ids: Vec<u32> = (0..).take(logits.len()).collect();
    ids.sort_by(|a, b| {
        let (x, y) = (logits[*a as usize], logits[*b as usize]);
        y.partial_cmp(&x).unwrap().then(a.cmp(b))
    });
    let highest = logits[ids[0] as usize];
    if terms.temperature == 0.0 {
        return vec![(ids[0], ONE)];
    }
    let scale = Scale {
        highest,
        temperature: terms.temperature,
    };
    let weight = |id: &u32| scale.weight(logits[*id as usize]);
    ids.truncate(terms.top_k.map_or(usize::MAX, |k| k as usize).max(1));
    let total: u128 = ids.iter().map(|id| u128::from(weight(id))).sum();
    // A fraction in 2^149ths, of which f32 has no smaller ones, would not fit; f64 is exact here
    // but for shares that are reached by one token in any case.
    let share = (f64::from(terms.top_p) * 2f64.powi(64)) as u128;
    let mut before = 0;
    let mut kept = Vec::new();
    for id in ids {
        // Enough is there already: before / total >= share.
        if terms.top_p < 1.0 && !kept.is_empty() && before << 64 >= share * total {
            break;
        }
        before += u128::from(weight(&id));
        kept.push((id, weight(&id)));
    }
    kept.retain(|(_, weight)| *weight > 0 && *weight as f64 >= f64::from(terms.min_p) * ONE as f64);
    kept.sort_unstable();
    kept
}

fn defined_choice(logits: &[f32], terms: &Terms, number: u64) -> Option<u32> {
    let kept = defined(logits, terms);
    let total: u128 = kept.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let place = (u128::from(number) * total) >> 64;
    let mut sum = 0;
    kept.into_iter()
        .find(|(_, weight)| {
            sum += u128::from(*weight);
            sum > place
        })
        .map(|(id, _)| id)
}

#[test]
fn draws_are_those_of_the_definition() {
    let cases = cases::cases();
    let count = |test: fn(&Terms) -> bool| cases.iter().filter(|case| test(&case.terms)).count();
    assert!(count(|terms| terms.top_k.is_some() && terms.top_p < 1.0 && terms.min_p > 0.0) > 50);
    for case in &cases {
        let found = choose(&case.logits, &case.terms, case.number);
        let expected = defined_choice(&case.logits, &case.terms, case.number);
        let width = case.logits.len();
        assert_eq!(
            found, expected,
            "{:?}, {} of {width}",
            case.terms, case.number
        );
    }
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    let coarse = (-8i8..8).prop_map(|x| f32::from(x) / 2.0);
    let fine = -30.0f32..30.0;
    let logit = prop_oneof![
        fine,
        coarse,
        prop_oneof![
            Just(0.0),
            Just(-0.0),
            Just(f32::NEG_INFINITY),
            Just(1e-45),
            Just(f32::MIN)
        ],
    ];
    let some_possible = |row: &Vec<f32>| row.iter().any(|l| l.is_finite());
    proptest::collection::vec(logit, 1..700).prop_filter("none is possible", some_possible)
}

fn terms() -> impl Strategy<Value = Terms> {
    let temperature = prop_oneof![
        0.05f32..3.0,
        Just(0.0),
        Just(f32::from_bits(1)),
        Just(f32::MAX)
    ];
    let top_k = proptest::option::of(prop_oneof![1u32..800, Just(u32::MAX)]);
    let top_p = prop_oneof![0.001f32..1.0, Just(1.0), Just(1e-40), Just(0.999_999_94)];
    let min_p = prop_oneof![Just(0.0), 0.0f32..1.0, Just(1.0)];
    (temperature, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| Terms {
        temperature,
        top_k,
        top_p,
        min_p,
    })
}

proptest! {
    #[test]
    fn draws_are_those_of_the_definition_on_any_row(
        logits in logits(),
        terms in terms(),
        number in any::<u64>(),
    ) {
        for number in [number, 0, u64::MAX] {
            let found = choose(&logits, &terms, number);
            prop_assert!(found.is_some());
            prop_assert_eq!(found, defined_choice(&logits, &terms, number));
        }
        if terms.temperature > 0.0 {
            let kept = keep(&logits, &terms).unwrap();
            let pairs: Vec<_> = kept.iter().map(|one| (one.id, one.weight)).collect();
            prop_assert_eq!(pairs, defined(&logits, &terms));
            prop_assert!(kept.iter().all(|one| logits[one.id as usize] == one.logit));
        }
    }

    #[test]
    fn the_fewest_that_reach_a_sum_are_the_first_of_a_sort(
        mut weights in proptest::collection::vec(1u64..50, 1..200),
        share in 0.0f64..1.0,
    ) {
        let total: u64 = weights.iter().sum();
        let target = (share * total as f64) as u64;
        let mut sorted = weights.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let mut sum = 0;
        let before = sorted.iter().take_while(|weight| {
            sum += **weight;
            sum < target
        });
        let expected = before.count() + 1;
        let count = fewest(&mut weights, |a, b| b.cmp(a), |weight| *weight, target);
        prop_assert_eq!(count, expected);
        weights.truncate(count);
        weights.sort_unstable_by(|a, b| b.cmp(a));
        prop_assert_eq!(&weights[..], &sorted[..count]);
    }
}

#[test]
fn draws_follow_the_distribution() {
    let probabilities = [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005];
    let logits = probabilities.map(|p: f64| p.ln() as f32);
    let draws = 200_000;
    let mut counts = [0f64; 8];
    for at in 0..draws {
        // SplitMix64 (Steele, Lea, Flood 2014).
        let mut number = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at + 1);
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let id = choose(&logits, &PLAIN, number ^ number >> 31).unwrap();
        counts[id as usize] += 1.0;
    }
    let expected = probabilities.map(|p| p * draws as f64);
    let pairs = counts.iter().zip(expected);
    let chi_square: f64 = pairs.map(|(n, e)| (n - e).powi(2) / e).sum();
    // One of a thousand is larger, with seven degrees of freedom; one of forty is below 1.69.
    assert!((1.0..24.3).contains(&chi_square), "{chi_square}");
}

#[test]
fn equal_logits_divide_the_numbers_evenly_among_the_largest_vocabulary() {
    let logits = vec![1.5; MOST_TOKENS];
    for (number, id) in [
        (0, 0),
        ((1 << 44) - 1, 0),
        (1 << 44, 1),
        (u64::MAX, MOST_TOKENS - 1),
    ] {
        assert_eq!(choose(&logits, &PLAIN, number), Some(id as u32), "{number}");
    }
    let half = Terms {
        top_p: 0.5,
        ..PLAIN
    };
    let last = choose(&logits, &half, u64::MAX).unwrap() as usize;
    assert_eq!(last, MOST_TOKENS / 2 - 1);
}

#[test]
fn every_place_of_a_long_row_counts() {
    for place in 0..600 {
        let mut logits = [-1.0; 600];
        logits[place] = 2.0;
        let greedy = Terms {
            temperature: 0.0,
            ..PLAIN
        };
        assert_eq!(choose(&logits, &greedy, 0), Some(place as u32));
        for wrong in [f32::NAN, f32::INFINITY] {
            logits[place] = wrong;
            for terms in [greedy, PLAIN] {
                assert_eq!(choose(&logits, &terms, 0), None, "{place}");
            }
            assert_eq!(keep(&logits, &PLAIN), None);
        }
    }
    assert_eq!(choose(&[f32::NEG_INFINITY; 3], &PLAIN, 0), None);
    assert_eq!(choose(&[], &PLAIN, 0), None);
}

#[test]
fn a_share_is_reached_by_what_is_equal_to_it() {
    // 1 and three quarters in powers of two: shares are exact.
    let logits = [0.0, 0.0, 0.0, 0.0];
    let last = |top_p| choose(&logits, &Terms { top_p, ..PLAIN }, u64::MAX);
    assert_eq!(last(0.25), Some(0));
    assert_eq!(last(0.250_000_03), Some(1));
    assert_eq!(last(0.5), Some(1));
    assert_eq!(last(0.75), Some(2));
    assert_eq!(last(0.999_999_94), Some(3));
    assert_eq!(last(f32::from_bits(1)), Some(0));
}

#[test]
fn rows_are_drawn_from_in_any_order_and_more_than_once() {
    let logits = Tensor::new(&[[0f32, 9.0], [9.0, 0.0], [f32::NAN, 0.0]], &Device::Cpu).unwrap();
    let greedy = Terms {
        temperature: 0.0,
        ..PLAIN
    };
    let from = |row, terms| Draw {
        row,
        terms,
        number: u64::MAX,
    };
    let draws = [
        from(1, greedy),
        from(0, greedy),
        from(2, greedy),
        from(1, PLAIN),
    ];
    assert_eq!(
        draw(&logits, &draws).unwrap(),
        [Some(0), Some(1), None, Some(1)]
    );
    assert_eq!(draw(&logits, &[]).unwrap(), []);
}

#[test]
fn what_cannot_be_drawn_by_is_refused() {
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let refused = |logits: &Tensor, row, temperature, why: &str| {
        let terms = Terms {
            temperature,
            ..PLAIN
        };
        let number = 0;
        let error = draw(logits, &[Draw { row, terms, number }]).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(&logits, 2, 1.0, "row 2 of 2");
    refused(&logits, 0, -1.0, "at least 0, not -1");
    refused(&logits, 0, f32::NAN, "at least 0, not NaN");
    refused(
        &logits.to_dtype(DType::F16).unwrap(),
        0,
        1.0,
        "are f32, not F16",
    );
    refused(&logits.narrow(1, 0, 0).unwrap(), 0, 1.0, "not from 0");
    let wide = Tensor::zeros((1, MOST_TOKENS + 1), DType::F32, &Device::Cpu).unwrap();
    refused(&wide, 0, 1.0, "1048576 logits, not from 1048577");
}

#[test]
fn keys_of_a_row_are_its_order() {
    let row = [0.0, -0.0, 3.0, 3.0, f32::NEG_INFINITY, -1.0];
    let mut keys: Vec<Key> = row.iter().zip(0..).map(|(l, id)| Key::of(*l, id)).collect();
    keys.sort_unstable_by(|a, b| b.cmp(a));
    let ids: Vec<u32> = keys.iter().map(|key| key.id()).collect();
    assert_eq!(ids, [2, 3, 0, 1, 5, 4]);
}
