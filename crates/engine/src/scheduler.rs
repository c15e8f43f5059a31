//! Who enters, who steps back, and what one step computes.
//!
//! Pure functions of the state they are given: no clock, no tensors, no requests. The worker
//! carries out what they decide.
//!
//! Blocks are taken as tokens come, not for the longest answer that a request may have, so more
//! requests run than could all grow to their end. When blocks run out the youngest step back:
//! their blocks are taken, they return to the line, and are computed again later. The oldest
//! never does, and no request is longer than the whole cache: so someone always reaches the end.

use std::num::NonZeroUsize;

/// Milliseconds that one step of priority is worth: who has waited that much longer is as urgent
/// as who is one step more important. So nobody waits for ever.
const PRIORITY_MILLIS: i64 = 10_000;

/// A request's place in the order of service: smaller comes first, and is older.
///
/// Waiting makes all requests more urgent at the same rate, so the order of two never changes and
/// need not know the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    /// When it came, moved by its priority.
    due_millis: i64,
    /// In order of arrival; each once.
    number: u64,
}

impl Rank {
    /// Of the request that came `arrived_millis` after the engine's start as its `number`th. A
    /// smaller `priority` is more urgent, as in vLLM.
    pub(crate) fn new(arrived_millis: u64, priority: i32, number: u64) -> Self {
        let arrived = i64::try_from(arrived_millis).unwrap_or(i64::MAX);
        let shift = i64::from(priority).saturating_mul(PRIORITY_MILLIS);
        Self {
            due_millis: arrived.saturating_add(shift),
            number,
        }
    }
}

/// Bounds of a step. See [`crate::EngineConfig`], whose checks give `max_num_batched_tokens >=
/// max_num_seqs >= 1` and `max_prefill_chunk >= 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) max_prefill_chunk: usize,
}

/// What a request needs to enter, or what is free of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Blocks of the KV cache for all tokens that it has, without those that others own already.
    pub(crate) blocks: usize,
    /// Memory beside it, for what the answer looks at by cross-attention.
    pub(crate) cross_bytes: usize,
}

/// Whether the head of the line enters, beside so many that run.
///
/// If it does not, neither does anyone behind it: overtaking would let small requests starve a
/// large one, which enters at the latest when those that run have ended. Beside others a block is
/// left for each of them: whoever enters only to step back again has been computed for nothing.
pub(crate) fn enters(demand: Demand, running: usize, free: Demand, policy: &Policy) -> bool {
    let left = free.blocks.checked_sub(demand.blocks);
    running < policy.max_num_seqs
        && left.is_some_and(|left| left >= running)
        && demand.cross_bytes <= free.cross_bytes
}

/// What a running sequence needs for its part of the next step, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hold {
    /// Blocks that it must have more.
    pub(crate) needs: usize,
    /// Blocks that come free if it steps back.
    pub(crate) gives: usize,
}

/// How many of the running, oldest first, can stay: the others step back. At least one.
pub(crate) fn staying(holds: &[Hold], free: usize) -> usize {
    let mut needed: usize = holds.iter().map(|hold| hold.needs).sum();
    let mut free = free;
    let mut staying = holds.len();
    while staying > 1 && needed > free {
        staying -= 1;
        needed -= holds[staying].needs;
        free += holds[staying].gives;
    }
    staying
}

/// What a running sequence could compute now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The next token of its answer, and so many guesses at what follows or tokens that must
    /// follow.
    Decode {
        /// Beside the first.
        more: usize,
    },
    /// So many tokens before its next one; 0 while it waits for pictures.
    Prefill {
        /// At most as many tokens in one step, at least 1.
        ready: usize,
    },
}

/// A share of one step: the next `tokens` tokens of one running sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Index among the running.
    pub(crate) sequence: usize,
    /// How many of its tokens that are not cached yet.
    pub(crate) tokens: NonZeroUsize,
}

/// What the next step computes of `works`, oldest first.
///
/// Decodes come first, so that a long prompt never holds up an answer, then what they have beside
/// their one token. Prompts share what is left, but no more than `allowance` tokens, in order of
/// age. Since the budget is no smaller than the seats, every decode moves on in every step; and
/// since guesses leave one token for a prompt, so does the oldest prompt that can, unless decodes
/// fill the step by themselves.
pub(crate) fn plan(works: &[Work], allowance: usize, policy: &Policy) -> Vec<Chunk> {
    let mut budget = policy.max_num_batched_tokens;
    let mut shares = vec![0; works.len()];
    for (share, work) in shares.iter_mut().zip(works) {
        if matches!(work, Work::Decode { .. }) && budget > 0 {
            *share = 1;
            budget -= 1;
        }
    }
    let prompts_wait = works
        .iter()
        .any(|work| matches!(work, Work::Prefill { ready } if *ready > 0));
    let mut spare = budget.saturating_sub(usize::from(prompts_wait));
    for (share, work) in shares.iter_mut().zip(works) {
        if let Work::Decode { more } = work
            && *share > 0
        {
            let more = (*more).min(spare).min(policy.max_prefill_chunk - 1);
            *share += more;
            spare -= more;
            budget -= more;
        }
    }
    let mut budget = budget.min(allowance.max(1));
    for (share, work) in shares.iter_mut().zip(works) {
        if let Work::Prefill { ready } = work {
            *share = (*ready).min(policy.max_prefill_chunk).min(budget);
            budget -= *share;
        }
    }
    let chunk = |(sequence, tokens)| {
        let tokens = NonZeroUsize::new(tokens)?;
        Some(Chunk { sequence, tokens })
    };
    shares.into_iter().enumerate().filter_map(chunk).collect()
}

#[cfg(test)]
mod tests;
