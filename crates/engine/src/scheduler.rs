//! Who enters, and what one step computes.
//!
//! Pure functions of the state they are given: no clock, no tensors, no requests. The worker
//! carries out what they decide.

use std::num::NonZeroUsize;

/// Bounds of a step. See [`crate::EngineConfig`], whose checks give `max_num_batched_tokens >=
/// max_num_seqs >= 1` and `max_prefill_chunk >= 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) max_prefill_chunk: usize,
}

/// A share of one step: the next `tokens` tokens of one running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Index among the running.
    pub(crate) sequence: usize,
    /// How many of its tokens that are not cached yet.
    pub(crate) tokens: NonZeroUsize,
}

/// What a request holds for its whole life, or what is free of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Blocks of the KV cache, for the request's whole maximum length.
    pub(crate) blocks: usize,
    /// Memory beside it, for what the answer looks at by cross-attention.
    pub(crate) cross_bytes: usize,
}

impl Demand {
    /// What remains when `other` is taken, if it is there.
    fn checked_sub(self, other: Self) -> Option<Self> {
        Some(Self {
            blocks: self.blocks.checked_sub(other.blocks)?,
            cross_bytes: self.cross_bytes.checked_sub(other.cross_bytes)?,
        })
    }
}

/// How many from the head of the line enter now.
///
/// `demands` are those of the waiting, head first. The first that does not fit closes the door for those behind it: overtaking would let
/// small requests starve a large one, which enters at the latest when the running ones, bounded
/// in length, have ended.
pub(crate) fn admit(
    demands: impl IntoIterator<Item = Demand>,
    running: usize,
    free: Demand,
    policy: &Policy,
) -> usize {
    let seats = policy.max_num_seqs.saturating_sub(running);
    demands
        .into_iter()
        .take(seats)
        .scan(free, |free, demand| {
            *free = free.checked_sub(demand)?;
            Some(())
        })
        .count()
}

/// What the next step computes, given how many tokens of each running sequence, oldest first,
/// are known and not cached yet: one where it decodes, more while it is prefilled.
///
/// Decodes come first, so that a long prompt never holds up an answer. Prompts share what is
/// left of the budget in order of age. Since the budget is no smaller than the seats, every
/// decode and the oldest prompt move on in every step.
pub(crate) fn plan(pending: &[usize], policy: &Policy) -> Vec<Chunk> {
    let (decodes, prefills): (Vec<_>, Vec<_>) = pending
        .iter()
        .enumerate()
        .filter(|&(_, &tokens)| tokens > 0)
        .partition(|&(_, &tokens)| tokens == 1);
    let mut budget = policy.max_num_batched_tokens;
    decodes
        .into_iter()
        .chain(prefills)
        .map_while(|(sequence, &tokens)| {
            let tokens = tokens.min(policy.max_prefill_chunk).min(budget);
            budget -= tokens;
            let tokens = NonZeroUsize::new(tokens)?;
            Some(Chunk { sequence, tokens })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        max_prefill_chunk: 10,
    };

    fn demand(blocks: usize) -> Demand {
        Demand {
            blocks,
            cross_bytes: 0,
        }
    }

    fn blocks(of: &[usize]) -> impl Iterator<Item = Demand> {
        of.iter().map(|&blocks| demand(blocks))
    }

    #[test]
    fn memory_beside_the_cache_closes_the_door_as_blocks_do() {
        let with = |cross_bytes| Demand {
            blocks: 1,
            cross_bytes,
        };
        let free = Demand {
            blocks: 9,
            cross_bytes: 100,
        };
        let enter = |demands: [usize; 3]| admit(demands.map(with), 0, free, &POLICY);
        assert_eq!(enter([60, 40, 1]), 2);
        assert_eq!(enter([60, 0, 0]), 3);
        assert_eq!(enter([101, 1, 1]), 0);
    }

    fn planned(pending: &[usize], policy: &Policy) -> Vec<(usize, usize)> {
        plan(pending, policy)
            .into_iter()
            .map(|chunk| (chunk.sequence, chunk.tokens.get()))
            .collect()
    }

    #[test]
    fn decodes_come_first_and_prompts_share_the_rest_by_age() {
        assert_eq!(
            planned(&[40, 1, 40, 1], &POLICY),
            [(1, 1), (3, 1), (0, 10), (2, 4)]
        );
        assert_eq!(planned(&[3, 5], &POLICY), [(0, 3), (1, 5)]);
        assert_eq!(planned(&[], &POLICY), []);
    }

    #[test]
    fn the_first_that_does_not_fit_closes_the_door() {
        assert_eq!(admit(blocks(&[2, 9, 1]), 0, demand(10), &POLICY), 1);
        assert_eq!(admit(blocks(&[9, 1, 1]), 0, demand(10), &POLICY), 2);
        assert_eq!(admit(blocks(&[11, 1]), 0, demand(10), &POLICY), 0);
        assert_eq!(admit(blocks(&[1, 1, 1]), 2, demand(10), &POLICY), 2);
        assert_eq!(admit(blocks(&[1]), 4, demand(10), &POLICY), 0);
        assert_eq!(admit(blocks(&[]), 0, demand(10), &POLICY), 0);
    }

    fn policy() -> impl Strategy<Value = Policy> {
        (1_usize..9, 0_usize..40, 1_usize..40).prop_map(|(seats, more, chunk)| Policy {
            max_num_seqs: seats,
            max_num_batched_tokens: seats + more,
            max_prefill_chunk: chunk,
        })
    }

    proptest! {
        #[test]
        fn a_plan_keeps_its_bounds_and_moves_decodes_and_the_oldest_prompt(
            policy in policy(),
            mut pending in vec(0_usize..100, 0..9),
        ) {
            pending.truncate(policy.max_num_seqs);
            let plan = planned(&pending, &policy);
            let total: usize = plan.iter().map(|&(_, tokens)| tokens).sum();
            prop_assert!(total <= policy.max_num_batched_tokens);
            for &(sequence, tokens) in &plan {
                prop_assert!(tokens >= 1 && tokens <= pending[sequence]);
                prop_assert!(tokens <= policy.max_prefill_chunk);
                prop_assert_eq!(plan.iter().filter(|c| c.0 == sequence).count(), 1);
            }
            let moves = |sequence| plan.iter().any(|&(planned, _)| planned == sequence);
            for (sequence, &tokens) in pending.iter().enumerate() {
                prop_assert!(tokens != 1 || moves(sequence), "decode {} stands still", sequence);
            }
            if let Some(oldest) = pending.iter().position(|&tokens| tokens > 1) {
                prop_assert!(moves(oldest), "the oldest prompt stands still");
            }
        }

        /// A whole life of the scheduler over `(arrival step, prompt, answer)`, in blocks of four
        /// tokens.
        #[test]
        fn every_request_ends_in_order_of_admission_and_blocks_balance(
            policy in policy(),
            arrivals in vec((0_usize..50, 1_usize..60, 1_usize..20), 1..40),
        ) {
            struct Request { id: usize, blocks: usize, pending: usize, answer: usize }
            const BLOCKS: usize = 20; // the longest request takes all of them
            let mut arrivals: Vec<_> = arrivals.into_iter().collect();
            arrivals.sort_by_key(|&(step, ..)| step);
            let count = arrivals.len();
            let work: usize = arrivals.iter().map(|&(_, p, a)| p + a).sum();
            let mut arrivals: VecDeque<_> = arrivals.into_iter().enumerate().collect();
            let (mut waiting, mut running) = (VecDeque::new(), Vec::<Request>::new());
            let (mut entered, mut ended) = (Vec::new(), 0);
            // Each step that has something to do computes at least one token.
            for now in 0..50 + work {
                while let Some((id, (_, prompt, answer))) =
                    arrivals.pop_front_if(|(_, (step, ..))| *step <= now)
                {
                    let blocks = (prompt + answer).div_ceil(4);
                    waiting.push_back(Request { id, blocks, pending: prompt, answer });
                }
                let used: usize = running.iter().map(|r| r.blocks).sum();
                let demands = waiting.iter().map(|r| demand(r.blocks));
                for _ in 0..admit(demands, running.len(), demand(BLOCKS - used), &policy) {
                    running.extend(waiting.pop_front());
                    entered.extend(running.last().map(|r| r.id));
                }
                prop_assert!(running.len() <= policy.max_num_seqs);
                prop_assert!(running.iter().map(|r| r.blocks).sum::<usize>() <= BLOCKS);
                prop_assert!(waiting.is_empty() || !running.is_empty(), "the engine stands still");

                let pending: Vec<_> = running.iter().map(|r| r.pending).collect();
                for chunk in plan(&pending, &policy) {
                    let request = &mut running[chunk.sequence];
                    request.pending -= chunk.tokens.get();
                    if request.pending == 0 {
                        request.answer -= 1;
                        request.pending = 1;
                    }
                }
                let before = running.len();
                running.retain(|r| r.answer > 0);
                ended += before - running.len();
            }
            prop_assert_eq!(ended, count);
            prop_assert!(entered.is_sorted(), "someone overtook: {:?}", entered);
        }
    }
}
