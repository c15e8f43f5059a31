//! What the largest step and the largest pictures take on the device, seen once at the start.
//!
//! Formulas know this program's tensors; they do not know the workspaces of the driver's matrix
//! products, nor what its allocator rounds up. Of both counts the larger one is planned with.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use vlmd_backend::{BLOCK_TOKENS, CrossRows, ImageInput, KvCache, KvDtype, Model, Step};
use vlmd_engine::EngineConfig;
use vlmd_kernels::MemoryWatch;
use vlmd_media::Picture;
use vlmd_models::{Footprint, Processor, StepBound};

/// What a run has shown, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Of the largest step.
    pub(crate) step: u64,
    /// Of encoding as many of the largest pictures as the encoder takes at a time.
    pub(crate) encoder: u64,
}

/// Pictures that are encoded at most. Where a call takes more they are small, and do not add up to
/// what larger ones take.
const MOST_PICTURES: usize = 64;

/// Encodes the largest pictures and runs the largest step on a CUDA device; `None` on a CPU, where
/// nobody could tell what they took.
///
/// # Errors
/// When they fail, most likely because there is no room for them: then no request is safe.
pub(crate) fn profile(
    model: &dyn Model,
    processor: &dyn Processor,
    footprint: &Footprint,
    bound: &StepBound,
    kv_dtype: KvDtype,
) -> Result<Option<Profile>> {
    let Some(watch) = begin(model.device()) else {
        return Ok(None);
    };
    let input = processor
        .image(&blank(footprint.largest_picture())?)
        .context("the largest picture cannot be prepared")?;
    let images = vec![&input; pictures(model, &input)];
    let features = model
        .encode(&images)
        .context("there is no room to encode the largest pictures")?;
    let encoder = seen(watch);
    // The others' features would only take room from the step.
    let shown = features.into_iter().next();

    let blocks = bound.tokens.div_ceil(BLOCK_TOKENS);
    let cache = KvCache::new(model.spec(), blocks, kv_dtype, model.device())
        .context("there is no room for the keys and values of one step")?;
    let step = step(model, bound, blocks, shown, input.features)?;
    let Some(watch) = begin(model.device()) else {
        return Ok(None);
    };
    let logits = model.forward(&step, &cache).context(
        "there is no room for the largest step: lower `--max-num-batched-tokens` or \
         `--max-model-len`",
    )?;
    let step = seen(watch);
    drop(logits);
    model.device().synchronize()?;
    tracing::info!(
        step,
        encoder,
        "bytes that the largest step and the largest pictures took"
    );
    Ok(Some(Profile { step, encoder }))
}

/// How many pictures like `input` the engine has encoded in one call. Those that are looked at by
/// cross-attention are encoded one after the other, into a store that has room of its own.
fn pictures(model: &dyn Model, input: &ImageInput) -> usize {
    if model.spec().cross_feature_bytes > 0 {
        return 1;
    }
    let call = EngineConfig::ENCODER_CALL_PIXELS / input.area().max(1);
    call.clamp(1, MOST_PICTURES)
}

/// Begins to watch a CUDA device. A driver that does not tell of its memory is no reason not to
/// serve: there are the formulas.
fn begin(device: &Device) -> Option<MemoryWatch> {
    MemoryWatch::start(device).unwrap_or_else(|error| {
        tracing::warn!(%error, "the driver does not tell what the largest step takes");
        None
    })
}

/// What was seen; nothing where the driver does not tell.
fn seen(watch: MemoryWatch) -> u64 {
    watch.peak().unwrap_or_else(|error| {
        tracing::warn!(%error, "the driver does not tell what the largest step took");
        0
    })
}

/// A black picture.
fn blank((width, height): (usize, usize)) -> Result<Picture> {
    let bytes = width.checked_mul(height).and_then(|n| n.checked_mul(3));
    let (Some(bytes), Ok(width), Ok(height)) = (bytes, u32::try_from(width), u32::try_from(height))
    else {
        bail!("a picture of {width} x {height} pixels is beyond all measure");
    };
    Picture::from_rgb(width, height, vec![0; bytes])
        .with_context(|| format!("no picture has {width} x {height} pixels"))
}

/// The end of a prompt of the longest sequence, as many tokens as a step has. Its `blocks` blocks
/// stand for all of the sequence's, over and over: what is read and written is of no interest.
fn step(
    model: &dyn Model,
    bound: &StepBound,
    blocks: usize,
    shown: Option<Tensor>,
    visible: usize,
) -> Result<Step> {
    let tokens = u32::try_from(bound.tokens)?;
    let longest = u32::try_from(bound.longest)?.max(tokens);
    // Never more than the model has: rotations are computed for real positions alone.
    let most = u32::try_from(model.spec().max_positions)?;
    let longest = longest.min(most);
    let tokens = tokens.min(longest);
    let columns = longest.div_ceil(BLOCK_TOKENS as u32);
    let blocks = u32::try_from(blocks)?.max(1);
    let cross = if model.spec().cross_feature_bytes == 0 {
        Vec::new()
    } else {
        let image = shown.map(|kept| (kept, visible));
        let images = image.into_iter().cycle().take(bound.pictures).collect();
        vec![CrossRows {
            rows: 0..tokens as usize,
            images,
            unseen: false,
        }]
    };
    let rows = u32::try_from(bound.logit_rows)?.min(tokens);
    Ok(Step {
        tokens: vec![0; tokens as usize],
        positions: (longest - tokens..longest).collect(),
        kv_slots: (0..tokens).collect(),
        cu_q: vec![0, tokens],
        kv_len: vec![longest],
        max_len: vec![longest],
        block_table: (0..columns).map(|column| column % blocks).collect(),
        max_blocks: columns as usize,
        splices: Vec::new(),
        cross,
        logit_rows: (tokens - rows..tokens).collect(),
    })
}
