//! Whether there is memory for a model, how much of it the KV cache gets, and what fits in it.

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use sysinfo::{CGroupLimits, ProcessRefreshKind, ProcessesToUpdate, System};
use vlmd_backend::{BLOCK_TOKENS, KvDtype, ModelSpec};
use vlmd_models::Need;
use vlmd_models::catalog::Card;

use crate::args::ByteSize;

/// Share of the free memory that the KV cache takes unless told otherwise.
const DEFAULT_SHARE: u64 = 4;

/// What the operator asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) memory: Option<ByteSize>,
    pub(crate) max_model_len: Option<usize>,
    pub(crate) max_num_seqs: usize,
    pub(crate) cross_memory: Option<ByteSize>,
    /// Bytes that must stay free beside weights and caches, which get all others then.
    pub(crate) kept_free: Option<u64>,
}

impl Wishes {
    /// The flag that gives the KV cache more.
    fn knob(&self) -> &'static str {
        if self.memory.is_none() && self.kept_free.is_some() {
            "`--gpu-memory-utilization`"
        } else {
            "`--kv-cache-memory`"
        }
    }

    /// Bytes that the caches get by themselves of `free` ones, and of these those for
    /// cross-attention.
    fn shares(&self, spec: &ModelSpec, free: u64) -> (u64, u64) {
        let looking = spec.cross_feature_bytes > 0;
        let quarter = |bytes: u64| bytes / DEFAULT_SHARE;
        let Some(kept) = self.kept_free else {
            let cross = self.cross_memory.map_or(quarter(free), |size| size.0);
            return (quarter(free), if looking { cross } else { 0 });
        };
        let all = free.saturating_sub(kept);
        let cross = self.cross_memory.map_or(quarter(all), |size| size.0);
        let cross = if looking { cross } else { 0 };
        (all.saturating_sub(cross), cross)
    }
}

/// Bytes of `free` ones that stay free where weights and caches may take a `share` of them, from 0
/// to 1.
pub(crate) fn kept_free(share: f64, free: u64) -> u64 {
    // Memory is far from where an f64 counts no bytes.
    free.saturating_sub((free as f64 * share) as u64)
}

/// What they get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Blocks of the KV cache.
    pub(crate) kv_blocks: usize,
    /// Bytes that these take.
    pub(crate) kv_bytes: u64,
    /// Bytes beside the cache for pictures that answers look at by cross-attention; 0 for models
    /// that have none.
    pub(crate) cross_bytes: u64,
    /// Most tokens of one sequence.
    pub(crate) max_model_len: usize,
}

impl MemoryPlan {
    /// Plans the cache for a model of `spec` whose keys and values are kept as `kv_dtype`, with
    /// `free` bytes of memory not yet in use.
    ///
    /// # Errors
    /// When the memory does not hold one block, or not the sequence that was asked for.
    pub(crate) fn new(
        spec: &ModelSpec,
        kv_dtype: KvDtype,
        free: u64,
        wishes: Wishes,
    ) -> Result<Self> {
        let block_bytes = spec.block_bytes(kv_dtype) as u64;
        let wanted_len = match wishes.max_model_len {
            Some(len) if len > spec.max_positions => bail!(
                "`--max-model-len` {len} exceeds the {} positions that the model has",
                spec.max_positions
            ),
            Some(len) => len,
            None => spec.max_positions,
        };
        let useful = blocks_of(wanted_len).saturating_mul(wishes.max_num_seqs as u64);
        let (share, cross_bytes) = wishes.shares(spec, free);
        let bytes = wishes.memory.map_or(share, |size| size.0);
        let kv_blocks = (bytes / block_bytes).min(useful);
        let capacity = usize::try_from(kv_blocks)?.saturating_mul(BLOCK_TOKENS);
        if kv_blocks == 0 {
            bail!(
                "a KV cache of {} cannot hold one block of {}; raise {}",
                readable(bytes),
                readable(block_bytes),
                wishes.knob()
            );
        }
        if let Some(len) = wishes.max_model_len
            && len > capacity
        {
            bail!(
                "`--max-model-len` {len} needs {} of KV cache, there are {}; lower it or raise {}",
                readable(blocks_of(len).saturating_mul(block_bytes)),
                readable(bytes),
                wishes.knob()
            );
        }
        Ok(Self {
            kv_blocks: usize::try_from(kv_blocks)?,
            kv_bytes: kv_blocks * block_bytes,
            cross_bytes,
            max_model_len: wanted_len.min(capacity),
        })
    }
}

/// Blocks that hold a sequence of `len` tokens.
fn blocks_of(len: usize) -> u64 {
    len.div_ceil(BLOCK_TOKENS) as u64
}

/// Plans for a model whose weights have not been read yet, on a device with `free` bytes.
///
/// # Errors
/// When the weights and the least cache that was asked for do not fit; says what would. And as
/// [`MemoryPlan::new`], with what the weights leave.
pub(crate) fn admit(
    need: &Need,
    kv_dtype: KvDtype,
    free: u64,
    wishes: Wishes,
) -> Result<MemoryPlan> {
    let block_bytes = need.spec.block_bytes(kv_dtype) as u64;
    let blocks = |len| blocks_of(len).saturating_mul(block_bytes);
    // A size or a length may be asked for; without either any cache serves.
    let longest = wishes.max_model_len.unwrap_or(need.spec.max_positions);
    let useful = blocks(longest).saturating_mul(wishes.max_num_seqs as u64);
    let asked = match (wishes.memory, wishes.max_model_len) {
        (Some(size), _) => size.0.min(useful),
        (None, Some(len)) => blocks(len),
        (None, None) => 0,
    };
    let cross = match wishes.cross_memory {
        Some(size) if need.spec.cross_feature_bytes > 0 => size.0,
        _ => 0,
    };
    let cache = asked.max(block_bytes).saturating_add(cross);
    let kept = match wishes.memory {
        Some(_) => 0,
        None => wishes.kept_free.unwrap_or(0),
    };
    let fits = |weights: u64| weights.saturating_add(cache).saturating_add(kept) <= free;
    if fits(need.weight_bytes) {
        return MemoryPlan::new(&need.spec, kv_dtype, free - need.weight_bytes, wishes);
    }
    let rest = free.saturating_sub(kept).saturating_sub(need.weight_bytes);
    let advice = if need.half_bytes < need.weight_bytes && fits(need.half_bytes) {
        let half = readable(need.half_bytes);
        format!("with `--dtype bf16` the weights take {half}, which fits")
    } else if rest >= block_bytes {
        let tokens = (rest / block_bytes).saturating_mul(BLOCK_TOKENS as u64);
        let flag = match (wishes.memory, cross) {
            (Some(_), 0) => "`--kv-cache-memory`",
            (None, 0) => "`--max-model-len`",
            (Some(_), _) => "`--kv-cache-memory` or `--cross-attention-memory`",
            (None, _) => "`--max-model-len` or `--cross-attention-memory`",
        };
        let rest = readable(rest);
        format!("caches of {rest} would fit, {tokens} tokens at most: lower {flag}")
    } else {
        let least = need.half_bytes.min(need.weight_bytes);
        let least = readable(least.saturating_add(block_bytes));
        format!("it takes {least} at least, whatever `--dtype` is")
    };
    let kept = if kept > 0 {
        let kept = readable(kept);
        format!(", of which {kept} are to stay so (`--gpu-memory-utilization`)")
    } else {
        String::new()
    };
    bail!(
        "the weights take {} and the least cache {}, but {} of memory are free{kept}; {advice}",
        readable(need.weight_bytes),
        readable(cache),
        readable(free)
    )
}

/// Refuses a model of the catalog that cannot fit into `free` bytes, by what its card says of its
/// weights, before they are fetched. Where no type is asked for they are taken for the smallest.
///
/// # Errors
/// When the weights do not fit; says what would.
pub(crate) fn admit_card(card: &Card, dtype: Option<DType>, free: u64) -> Result<()> {
    let dtype = dtype.unwrap_or(DType::BF16);
    let weights = card.weight_bytes(dtype);
    if weights <= free {
        return Ok(());
    }
    let half = card.weight_bytes(DType::BF16);
    let advice = if half < weights && half <= free {
        format!("with `--dtype bf16` they take {}", readable(half))
    } else {
        format!("it takes {} at least", readable(half))
    };
    bail!(
        "the weights of `{}` take {} as {}, but {} of memory are free; {advice}. Nothing was \
         fetched: `vlmd download` fetches it all the same",
        card.id,
        readable(weights),
        dtype.as_str(),
        readable(free)
    )
}

/// Bytes as a person reads them.
pub(crate) fn readable(bytes: u64) -> String {
    let (unit, size) = match bytes {
        0..0x10_0000 => ("KiB", 1 << 10),
        0x10_0000..0x4000_0000 => ("MiB", 1 << 20),
        _ => ("GiB", 1 << 30),
    };
    format!("{:.1} {unit}", bytes as f64 / f64::from(size))
}

/// Memory that is free on `device`: of the machine or of the container, whichever is less.
pub(crate) fn free_memory(device: &Device) -> Result<u64> {
    if let Some(free) = vlmd_kernels::free_cuda_memory(device)? {
        return Ok(free);
    }
    let mut system = System::new().context("cannot tell how much memory is free")?;
    system.refresh_memory();
    Ok(available(system.available_memory(), limits(&mut system)))
}

/// The limits of this process's own control group, or else of the topmost one that it can see.
fn limits(system: &mut System) -> Option<CGroupLimits> {
    let own = sysinfo::get_current_pid().ok().and_then(|pid| {
        let this = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(this, false, ProcessRefreshKind::nothing());
        system.process(pid)?.cgroup_limits()
    });
    own.or_else(|| system.cgroup_limits())
}

/// Free bytes of a machine that has `machine` of them, within a control group.
fn available(machine: u64, group: Option<CGroupLimits>) -> u64 {
    // Not `free_memory`, which takes pages of files for lost: the checkpoint's own fill a group
    // while it is fetched and read, and are dropped when their place is needed.
    group.map_or(machine, |group| {
        group.total_memory.saturating_sub(group.rss).min(machine)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: ModelSpec = ModelSpec {
        layers: 2,
        kv_heads: 2,
        head_dim: 16,
        hidden_size: 64,
        vocab_size: 100,
        input_vocab_size: 100,
        max_positions: 1000,
        long_beyond: None,
        cross_feature_bytes: 0,
    };
    const WISHES: Wishes = Wishes {
        memory: None,
        max_model_len: None,
        max_num_seqs: 4,
        cross_memory: None,
        kept_free: None,
    };
    /// 2 (k, v) x 2 layers x 32 tokens x 2 heads x 16 x 4 bytes.
    const BLOCK: u64 = 16_384;

    fn plan(free: u64, wishes: Wishes) -> Result<MemoryPlan> {
        MemoryPlan::new(&SPEC, KvDtype::F32, free, wishes)
    }

    #[test]
    fn takes_no_more_than_the_longest_sequences_could_use() {
        let plan = plan(1 << 40, WISHES).unwrap();
        assert_eq!(
            plan,
            MemoryPlan {
                kv_blocks: 128,
                kv_bytes: 128 * BLOCK,
                cross_bytes: 0,
                max_model_len: 1000
            }
        );
    }

    #[test]
    fn a_small_cache_shortens_the_context() {
        let plan = plan(4 * 3 * BLOCK, WISHES).unwrap();
        assert_eq!((plan.kv_blocks, plan.max_model_len), (3, 96));
    }

    #[test]
    fn only_models_with_cross_attention_get_memory_for_it() {
        let spec = ModelSpec {
            cross_feature_bytes: 64,
            ..SPEC
        };
        let bytes = |wishes| {
            let plan = MemoryPlan::new(&spec, KvDtype::F32, 1000 * BLOCK, wishes);
            plan.unwrap().cross_bytes
        };
        assert_eq!(bytes(WISHES), 250 * BLOCK);
        let wishes = Wishes {
            cross_memory: Some(ByteSize(7)),
            ..WISHES
        };
        assert_eq!(bytes(wishes), 7);
        assert_eq!(plan(1000 * BLOCK, wishes).unwrap().cross_bytes, 0);
    }

    #[test]
    fn a_context_that_cannot_fit_is_refused_with_numbers() {
        let wishes = Wishes {
            max_model_len: Some(97),
            memory: Some(ByteSize(3 * BLOCK)),
            ..WISHES
        };
        let message = plan(0, wishes).unwrap_err().to_string();
        assert!(
            message.contains("--max-model-len") && message.contains("97"),
            "{message}"
        );
        let wishes = Wishes {
            max_model_len: Some(1001),
            ..WISHES
        };
        assert!(
            plan(1 << 40, wishes)
                .unwrap_err()
                .to_string()
                .contains("1000 positions")
        );
        assert!(
            plan(BLOCK, WISHES)
                .unwrap_err()
                .to_string()
                .contains("one block")
        );
    }

    /// 100 blocks of weights.
    fn need() -> Need {
        Need {
            spec: SPEC,
            weight_bytes: 100 * BLOCK,
            half_bytes: 50 * BLOCK,
        }
    }

    fn admitted(need: &Need, free: u64, wishes: Wishes) -> Result<MemoryPlan, String> {
        admit(need, KvDtype::F32, free, wishes).map_err(|error| error.to_string())
    }

    #[test]
    fn a_model_that_fits_is_planned_with_what_its_weights_leave() {
        let found = admitted(&need(), 112 * BLOCK, WISHES).unwrap();
        assert_eq!(found, plan(12 * BLOCK, WISHES).unwrap());
        assert_eq!(found.kv_blocks, 3);
        // More than is useful is never taken.
        let wishes = Wishes {
            memory: Some(ByteSize(1 << 40)),
            ..WISHES
        };
        let found = admitted(&need(), 228 * BLOCK, wishes).unwrap();
        assert_eq!(found.kv_blocks, 128);
    }

    #[test]
    fn a_model_that_does_not_fit_is_refused_with_what_would() {
        let len = Wishes {
            max_model_len: Some(1000),
            ..WISHES
        };
        let size = Wishes {
            memory: Some(ByteSize(64 * BLOCK)),
            ..WISHES
        };
        for (free, wishes, needed, advice) in [
            (
                100,
                WISHES,
                "least cache 16.0 KiB, but 1.6 MiB",
                "with `--dtype bf16` the weights take 800.0 KiB, which fits",
            ),
            (
                50,
                WISHES,
                "least cache 16.0 KiB, but 800.0 KiB",
                "it takes 816.0 KiB at least, whatever `--dtype` is",
            ),
            (
                110,
                len,
                "least cache 512.0 KiB, but 1.7 MiB",
                "with `--dtype bf16` the weights take 800.0 KiB, which fits",
            ),
            (
                110,
                size,
                "least cache 1.0 MiB, but 1.7 MiB",
                "caches of 160.0 KiB would fit, 320 tokens at most: lower `--kv-cache-memory`",
            ),
        ] {
            assert_eq!(
                admitted(&need(), free * BLOCK, wishes).unwrap_err(),
                format!("the weights take 1.6 MiB and the {needed} of memory are free; {advice}")
            );
        }
    }

    #[test]
    fn memory_for_pictures_counts_where_it_is_asked_for() {
        let wishes = Wishes {
            cross_memory: Some(ByteSize(64 * BLOCK)),
            max_model_len: Some(32),
            ..WISHES
        };
        assert!(admitted(&need(), 110 * BLOCK, wishes).is_ok());
        let looking = Need {
            spec: ModelSpec {
                cross_feature_bytes: 64,
                ..SPEC
            },
            ..need()
        };
        let message = admitted(&looking, 110 * BLOCK, wishes).unwrap_err();
        let flags = "lower `--max-model-len` or `--cross-attention-memory`";
        assert!(message.ends_with(flags), "{message}");
    }

    #[test]
    fn sizes_beyond_all_measure_are_refused_like_others() {
        let absurd = Need {
            spec: ModelSpec {
                layers: 4096,
                kv_heads: 1 << 24,
                head_dim: 1 << 24,
                ..SPEC
            },
            ..need()
        };
        assert!(admitted(&absurd, 1 << 40, WISHES).is_err());
    }

    #[test]
    fn a_model_that_cannot_fit_is_not_fetched() {
        let card = vlmd_models::catalog::find("meta/llama-3.2-11b-vision-instruct").unwrap();
        let admitted = |dtype, gibibytes: u64| {
            admit_card(card, dtype, gibibytes << 30).map_err(|error| error.to_string())
        };
        assert_eq!(admitted(None, 20), Ok(()));
        let start = "the weights of `meta/llama-3.2-11b-vision-instruct` take";
        let end = "Nothing was fetched: `vlmd download` fetches it all the same";
        for (dtype, free, middle) in [
            (
                None,
                19,
                "19.9 GiB as bf16, but 19.0 GiB of memory are free; it takes 19.9 GiB at least",
            ),
            (
                Some(DType::F32),
                20,
                "39.7 GiB as f32, but 20.0 GiB of memory are free; \
                 with `--dtype bf16` they take 19.9 GiB",
            ),
        ] {
            let message = admitted(dtype, free).unwrap_err();
            assert_eq!(message, format!("{start} {middle}. {end}"));
        }
    }

    #[test]
    fn a_length_that_the_cache_would_be_too_small_for_is_refused_early() {
        let wishes = Wishes {
            max_model_len: Some(1000),
            ..WISHES
        };
        // It fits, but not into the quarter that the cache takes by itself.
        let message = admitted(&need(), 140 * BLOCK, wishes).unwrap_err();
        assert!(message.contains("raise `--kv-cache-memory`"), "{message}");
    }

    #[test]
    fn a_share_of_the_memory_is_for_weights_and_caches_together() {
        let free = 200 * BLOCK;
        let sharing = |share| Wishes {
            kept_free: Some(kept_free(share, free)),
            ..WISHES
        };
        // 160 blocks in all, of which the weights take 100.
        let found = admitted(&need(), free, sharing(0.8)).unwrap();
        assert_eq!((found.kv_blocks, found.cross_bytes), (60, 0));
        let looking = Need {
            spec: ModelSpec {
                cross_feature_bytes: 64,
                ..SPEC
            },
            ..need()
        };
        let found = admitted(&looking, free, sharing(0.8)).unwrap();
        assert_eq!((found.kv_blocks, found.cross_bytes), (45, 15 * BLOCK));
        // A size is a size.
        let sized = Wishes {
            memory: Some(ByteSize(90 * BLOCK)),
            ..sharing(0.6)
        };
        assert_eq!(admitted(&need(), free, sized).unwrap().kv_blocks, 90);
        let message = admitted(&need(), free, sharing(0.5)).unwrap_err();
        assert!(message.contains("--gpu-memory-utilization"), "{message}");
        let long = Wishes {
            max_model_len: Some(1000),
            ..sharing(0.65)
        };
        let message = admitted(&need(), free, long).unwrap_err();
        assert!(
            message.contains("of which 1.1 MiB are to stay so"),
            "{message}"
        );
    }

    #[test]
    fn pages_of_files_do_not_count_as_used() {
        let group = |total_memory, rss| {
            Some(CGroupLimits {
                total_memory,
                free_memory: 0,
                free_swap: 0,
                rss,
            })
        };
        assert_eq!(available(1000, None), 1000);
        assert_eq!(available(1000, group(800, 300)), 500);
        assert_eq!(available(400, group(800, 300)), 400);
        assert_eq!(available(1000, group(800, 900)), 0);
    }

    #[test]
    fn this_machine_has_memory() {
        let free = free_memory(&Device::Cpu).unwrap();
        let mut system = System::new().unwrap();
        system.refresh_memory();
        assert!((1..=system.total_memory()).contains(&free), "{free}");
    }
}
