use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    max_num_seqs: 4,
    max_num_batched_tokens: 16,
    max_prefill_chunk: 10,
};

const DECODE: Work = Work::Decode { more: 0 };

fn prefill(ready: usize) -> Work {
    Work::Prefill { ready }
}

fn planned(works: &[Work], allowance: usize, policy: &Policy) -> Vec<(usize, usize)> {
    plan(works, allowance, policy)
        .into_iter()
        .map(|chunk| (chunk.sequence, chunk.tokens.get()))
        .collect()
}

#[test]
fn the_urgent_and_the_patient_come_first() {
    let rank = |seconds: u64, priority, number| Rank::new(seconds * 1000, priority, number);
    assert!(rank(1, 0, 1) < rank(2, 0, 2));
    assert!(rank(5, 0, 1) < rank(5, 0, 2));
    assert!(rank(5, -1, 2) < rank(1, 0, 1), "more urgent");
    assert!(
        rank(1, 1, 1) < rank(12, 0, 2),
        "has waited for ten seconds more"
    );
    assert!(rank(3, 1, 1) > rank(12, 0, 2));
    // Extremes do not wrap around.
    assert!(rank(u64::MAX / 1000, i32::MAX, 1) > rank(0, i32::MIN, 2));
}

#[test]
fn a_seat_blocks_and_memory_beside_them_are_needed_to_enter() {
    let demand = |blocks, cross_bytes| Demand {
        blocks,
        cross_bytes,
    };
    let free = demand(10, 100);
    assert!(enters(demand(10, 100), 0, free, &POLICY));
    assert!(!enters(demand(11, 0), 0, free, &POLICY));
    assert!(!enters(demand(1, 101), 0, free, &POLICY));
    assert!(!enters(demand(0, 0), 4, free, &POLICY));
    // A block is left for each that runs.
    assert!(enters(demand(8, 0), 2, free, &POLICY));
    assert!(!enters(demand(9, 0), 2, free, &POLICY));
}

#[test]
fn the_youngest_step_back_until_the_others_have_what_they_need() {
    let hold = |needs, gives| Hold { needs, gives };
    let holds = [hold(1, 5), hold(1, 4), hold(0, 3), hold(1, 0)];
    assert_eq!(staying(&holds, 3), 4);
    assert_eq!(staying(&holds, 2), 3);
    assert_eq!(
        staying(&holds, 1),
        2,
        "the third holds what the first two need"
    );
    assert_eq!(staying(&holds[..2], 0), 1);
    assert_eq!(staying(&holds[..1], 0), 1, "the oldest stays");
    assert_eq!(staying(&[], 0), 0);
}

#[test]
fn decodes_come_first_and_prompts_share_the_rest_by_age() {
    let works = [prefill(40), DECODE, prefill(40), DECODE];
    let all = usize::MAX;
    assert_eq!(
        planned(&works, all, &POLICY),
        [(0, 10), (1, 1), (2, 4), (3, 1)]
    );
    assert_eq!(planned(&works, 3, &POLICY), [(0, 3), (1, 1), (3, 1)]);
    assert_eq!(planned(&works, 0, &POLICY), [(0, 1), (1, 1), (3, 1)]);
    assert_eq!(
        planned(&[prefill(3), prefill(5)], all, &POLICY),
        [(0, 3), (1, 5)]
    );
    assert_eq!(planned(&[prefill(0), prefill(5)], all, &POLICY), [(1, 5)]);
    assert_eq!(planned(&[], all, &POLICY), []);
}

#[test]
fn guesses_take_what_decodes_leave_but_for_one_token_of_a_prompt() {
    let guess = |more| Work::Decode { more };
    let all = usize::MAX;
    assert_eq!(planned(&[guess(5), DECODE], all, &POLICY), [(0, 6), (1, 1)]);
    assert_eq!(
        planned(&[guess(9), guess(9)], all, &POLICY),
        [(0, 10), (1, 6)]
    );
    assert_eq!(
        planned(&[guess(9), guess(9), prefill(7)], all, &POLICY),
        [(0, 10), (1, 5), (2, 1)]
    );
}

fn policy() -> impl Strategy<Value = Policy> {
    (1_usize..9, 0_usize..40, 1_usize..40).prop_map(|(seats, more, chunk)| Policy {
        max_num_seqs: seats,
        max_num_batched_tokens: seats + more,
        max_prefill_chunk: chunk,
    })
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        (0_usize..6).prop_map(|more| Work::Decode { more }),
        (0_usize..100).prop_map(prefill),
    ]
}

proptest! {
    #[test]
    fn a_plan_keeps_its_bounds_and_moves_decodes_and_the_oldest_prompt(
        policy in policy(),
        mut works in vec(work(), 0..9),
        allowance in 0_usize..50,
    ) {
        works.truncate(policy.max_num_seqs);
        let plan = planned(&works, allowance, &policy);
        let total: usize = plan.iter().map(|&(_, tokens)| tokens).sum();
        prop_assert!(total <= policy.max_num_batched_tokens);
        prop_assert!(plan.is_sorted_by(|a, b| a.0 < b.0));
        let mut prefilled = 0;
        for &(sequence, tokens) in &plan {
            prop_assert!(tokens >= 1 && tokens <= policy.max_prefill_chunk);
            match works[sequence] {
                Work::Decode { more } => prop_assert!(tokens <= 1 + more),
                Work::Prefill { ready } => {
                    prop_assert!(tokens <= ready);
                    prefilled += tokens;
                }
            }
        }
        prop_assert!(prefilled <= allowance.max(1));
        let moves = |sequence| plan.iter().any(|&(planned, _)| planned == sequence);
        let is_decode = |work: &Work| matches!(work, Work::Decode { .. });
        for (sequence, work) in works.iter().enumerate() {
            prop_assert!(!is_decode(work) || moves(sequence), "decode {} stands still", sequence);
        }
        let decodes = works.iter().filter(|work| is_decode(work)).count();
        let oldest = works.iter().position(|work| matches!(work, Work::Prefill { ready: 1.. }));
        if let Some(oldest) = oldest && decodes < policy.max_num_batched_tokens {
            prop_assert!(moves(oldest), "the oldest prompt stands still");
        }
    }
}

/// A request of the simulation.
#[derive(Debug, Clone)]
struct Request {
    id: usize,
    rank: Rank,
    tokens: usize,
    cached: usize,
    /// Tokens of the answer that are still to come.
    answer: usize,
    blocks: usize,
    /// Steps until its pictures are encoded, counted from its entry.
    unseen: usize,
    pictures: usize,
}

/// Tokens in a block of the simulation.
const BLOCK: usize = 4;
/// As many as the longest request takes.
const BLOCKS: usize = 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A whole life of the scheduler over `(arrival, prompt, answer, pictures, priority)`.
    #[test]
    fn every_request_ends_budgets_hold_and_blocks_balance(
        policy in policy(),
        allowance in 1_usize..30,
        mut arrivals in vec((0_u64..50, 1_usize..60, 1_usize..20, 0_usize..5, -2_i32..3), 1..40),
    ) {
        arrivals.sort_by_key(|&(step, ..)| step);
        let count = arrivals.len();
        let mut arrivals: VecDeque<_> = arrivals.into_iter().enumerate().collect();
        let mut waiting: BTreeMap<Rank, Request> = BTreeMap::new();
        let mut running: Vec<Request> = Vec::new();
        let (mut ended, mut stepped_back) = (0, 0);
        // A generous bound: each step moves the oldest, which then never steps back.
        for now in 0..20_000_u64 {
            while let Some((id, (_, prompt, answer, pictures, priority))) =
                arrivals.pop_front_if(|(_, (step, ..))| *step <= now)
            {
                let rank = Rank::new(now * 1000, priority, id as u64);
                let unseen = pictures;
                let request = Request {
                    id, rank, tokens: prompt, cached: 0, answer, blocks: 0, unseen, pictures,
                };
                waiting.insert(rank, request);
            }
            let used = |running: &[Request]| running.iter().map(|r| r.blocks).sum::<usize>();
            while let Some(head) = waiting.first_entry() {
                let blocks = head.get().tokens.div_ceil(BLOCK);
                let demand = Demand { blocks, cross_bytes: 0 };
                let free = Demand { blocks: BLOCKS - used(&running), cross_bytes: 0 };
                if !enters(demand, running.len(), free, &policy) {
                    break;
                }
                let mut request = head.remove();
                request.blocks = blocks;
                let at = running.partition_point(|r| r.rank < request.rank);
                running.insert(at, request);
            }
            prop_assert!(waiting.is_empty() || !running.is_empty(), "the engine stands still");

            let works: Vec<Work> = running.iter().map(|r| {
                if r.unseen > 0 { prefill(0) }
                else if r.tokens - r.cached == 1 { DECODE }
                else { prefill(r.tokens - r.cached) }
            }).collect();
            let holds: Vec<Hold> = running.iter().map(|r| Hold {
                needs: r.tokens.div_ceil(BLOCK).saturating_sub(r.blocks),
                gives: r.blocks,
            }).collect();
            let oldest = running.first().map(|r| r.id);
            let stay = staying(&holds, BLOCKS - used(&running));
            for mut request in running.drain(stay..) {
                (request.blocks, request.cached) = (0, 0);
                request.unseen = request.pictures;
                stepped_back += 1;
                waiting.insert(request.rank, request);
            }
            prop_assert_eq!(running.first().map(|r| r.id), oldest, "the oldest stays");
            for request in &mut running {
                request.blocks = request.blocks.max(request.tokens.div_ceil(BLOCK));
            }
            prop_assert!(used(&running) <= BLOCKS);
            prop_assert!(running.len() <= policy.max_num_seqs);

            for chunk in plan(&works[..stay], allowance, &policy) {
                let request = &mut running[chunk.sequence];
                request.cached += chunk.tokens.get();
                if request.cached == request.tokens {
                    request.tokens += 1;
                    request.answer -= 1;
                }
            }
            for request in &mut running {
                request.unseen = request.unseen.saturating_sub(1);
            }
            let before = running.len();
            running.retain(|r| r.answer > 0);
            ended += before - running.len();
            if ended == count {
                break;
            }
        }
        prop_assert_eq!(ended, count, "{} stepped back", stepped_back);
    }
}
