//! The kernels as plain candle operations, for devices that have none of their own.
//!
//! Everything stays in the dtype of the activations but scores and their softmax, which are f32
//! as in the reference implementations. The CPU could run this too, and does so in the tests:
//! it is what the CPU kernels are held against.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor, bail};
use candle_nn::ops::{rms_norm as fused_rms_norm, sigmoid, softmax_last_dim};
use candle_nn::rotary_emb::rope_thd;

use crate::pages::{CODE_OF_ZERO, LARGEST_CODE, Pages};
use crate::patches::{COLOURS, Cut, LEVELS};
use crate::ragged::{PAGE_TOKENS, Sequence};
use crate::scratch::{MOST_GATHERED, rows_at_a_time};

/// Sequences that are attended to in one go.
#[derive(Debug)]
struct Group {
    /// `[sequences * rows]` rows of the step.
    rows: Tensor,
    /// `[sequences * blocks]` blocks of the cache, short sequences filled up with block 0.
    blocks: Tensor,
    sequences: usize,
    /// Rows of each sequence: 1, or there is one sequence.
    rows_each: usize,
    kv_len: usize,
    /// `[sequences, 1, 1, rows_each, kv_len]` of 0 and -inf, added to the scores.
    mask: Tensor,
    /// `[sequences, kv_len, 1, 1]` of 1 where a sequence has a token and 0 beyond its end; `None`
    /// where all are equally long.
    inside: Option<Tensor>,
}

/// Index tensors and masks of a step, brought to the device once for all layers.
#[derive(Debug)]
pub(crate) struct GatherPlan {
    groups: Vec<Group>,
    /// `[T]` for each row of the step its row among the groups' results.
    order: Tensor,
    /// `[T, 1]` slots of the new tokens, u32.
    pub(crate) slots: Tensor,
}

impl GatherPlan {
    /// Sequences with one new row make groups of up to [`MOST_GATHERED`] tokens, each of the
    /// others its own.
    pub(crate) fn new(sequences: &[Sequence], slots: &[u32], device: &Device) -> Result<Self> {
        let (single, several): (Vec<&Sequence>, Vec<&Sequence>) = sequences
            .iter()
            .filter(|s| !s.rows.is_empty())
            .partition(|s| s.rows.len() == 1);
        let mut members: Vec<Vec<&Sequence>> = several.into_iter().map(|s| vec![s]).collect();
        members.extend(bounded(&single));
        let mut order = vec![0u32; slots.len()];
        let rows = members.iter().flatten().flat_map(|s| s.rows.clone());
        for (at, row) in (0u32..).zip(rows) {
            order[row] = at;
        }
        let groups = members
            .iter()
            .map(|m| Group::new(m, device))
            .collect::<Result<_>>()?;
        Ok(Self {
            groups,
            order: Tensor::new(order, device)?,
            slots: Tensor::new(slots, device)?.unsqueeze(1)?,
        })
    }
}

impl Group {
    fn new(members: &[&Sequence], device: &Device) -> Result<Self> {
        let rows_each = members[0].rows.len();
        let kv_len = members.iter().map(|s| s.kv_len).max().unwrap_or(0);
        let columns = kv_len.div_ceil(PAGE_TOKENS);
        let rows: Vec<u32> = members
            .iter()
            .flat_map(|s| s.rows.clone())
            .map(|row| row as u32)
            .collect();
        let mut blocks = vec![0u32; members.len() * columns];
        let mut mask = vec![0f32; members.len() * rows_each * kv_len];
        for (i, sequence) in members.iter().enumerate() {
            blocks[i * columns..][..sequence.blocks.len()].copy_from_slice(&sequence.blocks);
            for row in 0..rows_each {
                let hidden = &mut mask[(i * rows_each + row) * kv_len..][..kv_len];
                hidden[sequence.visible(row)..].fill(f32::NEG_INFINITY);
            }
        }
        Ok(Self {
            rows: Tensor::new(rows, device)?,
            blocks: Tensor::new(blocks, device)?,
            sequences: members.len(),
            rows_each,
            kv_len,
            mask: Tensor::from_vec(mask, (members.len(), 1, 1, rows_each, kv_len), device)?,
            inside: inside(members, kv_len, device)?,
        })
    }

    /// What lies beyond the end of a sequence is somebody else's, or nobody's any more, and may be
    /// no number: a weight of 0 would not keep it out. `gathered` is `[sequences, kv_len, ..]`.
    fn own(&self, gathered: Tensor) -> Result<Tensor> {
        let Some(inside) = &self.inside else {
            return Ok(gathered);
        };
        let mut shape = inside.dims()[..2].to_vec();
        shape.resize(gathered.rank(), 1);
        let inside = inside.reshape(shape)?.broadcast_as(gathered.shape())?;
        let nothing = gathered.zeros_like()?;
        inside.contiguous()?.where_cond(&gathered, &nothing)
    }

    /// `[sequences, kv_len, kv_heads, head_dim]` of the pages, in the queries' dtype. Codes come
    /// as fractions: `code / 128 - 1`, which f16 and bf16 hold exactly and multiply without
    /// overflow.
    fn gather(&self, pages: Pages<'_>, dtype: DType) -> Result<Tensor> {
        let (_, page, kv_heads, head_dim) = pages.data.dims4()?;
        let data = pages.data.index_select(&self.blocks, 0)?.to_dtype(dtype)?;
        let columns = data.dim(0)? / self.sequences;
        let data = data
            .reshape((self.sequences, columns * page, kv_heads, head_dim))?
            .narrow(1, 0, self.kv_len)?;
        match pages.scales {
            Some(_) => data.affine(f64::from(CODE_OF_ZERO).recip(), -1.),
            None => self.own(data.contiguous()?),
        }
    }

    /// `[sequences, kv_heads, 1, 1, kv_len]`, f32: what the fractions of [`Group::gather`] are
    /// to be multiplied by; `None` for pages of values.
    fn gather_scales(&self, pages: Pages<'_>) -> Result<Option<Tensor>> {
        let Some(scales) = pages.scales else {
            return Ok(None);
        };
        let (_, page, kv_heads) = scales.dims3()?;
        let scales = scales.index_select(&self.blocks, 0)?;
        let columns = scales.dim(0)? / self.sequences;
        let scales = scales
            .reshape((self.sequences, columns * page, kv_heads))?
            .narrow(1, 0, self.kv_len)?
            .contiguous()?;
        let scales = self
            .own(scales)?
            .transpose(1, 2)?
            .affine(f64::from(CODE_OF_ZERO), 0.)?
            .reshape((self.sequences, kv_heads, 1, 1, self.kv_len))?;
        Ok(Some(scales))
    }

    fn attend(&self, q: &Tensor, k: Pages<'_>, v: Pages<'_>, scale: f32) -> Result<Tensor> {
        let (_, heads, head_dim) = q.dims3()?;
        let kv_heads = k.data.dim(2)?;
        let (k_scales, v_scales) = (self.gather_scales(k)?, self.gather_scales(v)?);
        let shared = heads / kv_heads;
        let (n, rows, kv_len) = (self.sequences, self.rows_each, self.kv_len);
        let q = q
            .index_select(&self.rows, 0)?
            .reshape((n, rows, kv_heads, shared, head_dim))?
            .permute((0, 2, 3, 1, 4))?;
        let k = self.gather(k, q.dtype())?.permute((0, 2, 3, 1))?.reshape((
            n * kv_heads,
            head_dim,
            kv_len,
        ))?;
        let v = self.gather(v, q.dtype())?.transpose(1, 2)?.reshape((
            n * kv_heads,
            kv_len,
            head_dim,
        ))?;
        // Some rows at a time, which need nothing of each other: the scores of a long prompt
        // would be gigabytes.
        let some = |first: usize, count: usize| {
            let q = q
                .narrow(3, first, count)?
                .reshape((n * kv_heads, shared * count, head_dim))?;
            let mask = self.mask.narrow(3, first, count)?;
            let scores = scores(&q, &k, scale)?.reshape((n, kv_heads, shared, count, kv_len))?;
            let scores = scaled(scores, k_scales.as_ref())?.broadcast_add(&mask)?;
            scaled(softmax_last_dim(&scores)?, v_scales.as_ref())?
                .reshape((n * kv_heads, shared * count, kv_len))?
                .to_dtype(v.dtype())?
                .matmul(&v)?
                .reshape((n, kv_heads, shared, count, head_dim))
        };
        in_parts(rows, rows_at_a_time(rows, n * heads * kv_len), 3, some)?
            .permute((0, 3, 1, 2, 4))?
            .reshape((n * rows, heads, head_dim))
    }
}

/// Neighbours in groups that have up to [`MOST_GATHERED`] tokens with the filling, or one member.
fn bounded<'a>(single: &[&'a Sequence]) -> Vec<Vec<&'a Sequence>> {
    let mut groups: Vec<Vec<&Sequence>> = Vec::new();
    let mut longest = 0;
    for &sequence in single {
        longest = sequence.kv_len.max(longest);
        match groups.last_mut() {
            Some(group) if (group.len() + 1).saturating_mul(longest) <= MOST_GATHERED => {
                group.push(sequence);
            }
            _ => {
                longest = sequence.kv_len;
                groups.push(vec![sequence]);
            }
        }
    }
    groups
}

/// See [`Group::inside`].
fn inside(members: &[&Sequence], kv_len: usize, device: &Device) -> Result<Option<Tensor>> {
    if members.iter().all(|sequence| sequence.kv_len == kv_len) {
        return Ok(None);
    }
    let mut inside = vec![0u8; members.len() * kv_len];
    for (row, sequence) in inside.chunks_exact_mut(kv_len).zip(members) {
        row[..sequence.kv_len].fill(1);
    }
    let shape = (members.len(), kv_len, 1, 1);
    Tensor::from_vec(inside, shape, device).map(Some)
}

/// What `part(first, count)` gives for up to `most` of `rows` rows at a time, side by side along
/// `dim`.
fn in_parts(
    rows: usize,
    most: usize,
    dim: usize,
    part: impl Fn(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    if rows <= most {
        return part(0, rows);
    }
    let parts = (0..rows)
        .step_by(most)
        .map(|first| part(first, most.min(rows - first)))
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, dim)
}

fn scores(q: &Tensor, k: &Tensor, scale: f32) -> Result<Tensor> {
    q.matmul(k)?
        .to_dtype(DType::F32)?
        .affine(f64::from(scale), 0.)
}

fn scaled(x: Tensor, scales: Option<&Tensor>) -> Result<Tensor> {
    match scales {
        Some(scales) => x.broadcast_mul(scales),
        None => Ok(x),
    }
}

/// See [`crate::write_kv`]; `slots` are `[T, 1]`.
pub(crate) fn write_kv(new: &Tensor, pages: Pages<'_>, slots: &Tensor) -> Result<()> {
    if new.dim(0)? == 0 {
        return Ok(());
    }
    match pages.scales {
        None => scatter(new, pages.data, slots),
        Some(scales) => {
            let (codes, new_scales) = quantised(new)?;
            scatter(&codes, pages.data, slots)?;
            scatter(&new_scales, scales, slots)
        }
    }
}

/// Codes `[T, heads, head_dim]` and scales `[T, heads, 1]` of rows `[T, heads, head_dim]`; see
/// [`crate::pages`].
fn quantised(new: &Tensor) -> Result<(Tensor, Tensor)> {
    let new = new.to_dtype(DType::F32)?;
    let least = f64::from(f32::MIN_POSITIVE);
    let scales = new
        .abs()?
        .max_keepdim(D::Minus1)?
        .affine(f64::from(LARGEST_CODE.recip()), least)?;
    // 0 for finite rows, else NaN, which a maximum passes over.
    let broken = new.affine(0., 0.)?.sum_keepdim(D::Minus1)?;
    let scales = (scales + broken)?;
    // Casts cut fractions off, which above 0 is `floor`.
    let codes = new
        .broadcast_div(&scales)?
        .affine(1., f64::from(CODE_OF_ZERO) + 0.5)?
        .to_dtype(DType::U8)?;
    Ok((codes, scales))
}

/// Scatters rows, one for each new token, into the cache's own storage.
fn scatter(new: &Tensor, cache: &Tensor, slots: &Tensor) -> Result<()> {
    let (blocks, page) = (cache.dim(0)?, cache.dim(1)?);
    let width = cache.dims()[2..].iter().product::<usize>();
    if !cache.is_contiguous() {
        bail!("a cache must be contiguous to be written in place");
    }
    let rows = new.dim(0)?;
    let new = new
        .reshape((rows, width))?
        .to_dtype(cache.dtype())?
        .contiguous()?;
    let slots = slots.broadcast_as((rows, width))?.contiguous()?;
    // Reshaping what is contiguous shares the storage, so this writes to the cache itself.
    cache
        .reshape((blocks * page, width))?
        .scatter_set(&slots, &new, 0)
}

/// See [`crate::paged_attention()`].
pub(crate) fn paged_attention(
    q: &Tensor,
    k: Pages<'_>,
    v: Pages<'_>,
    plan: &GatherPlan,
    scale: f32,
) -> Result<Tensor> {
    if plan.groups.is_empty() {
        return q.zeros_like();
    }
    let q = q.contiguous()?;
    let results = plan
        .groups
        .iter()
        .map(|group| group.attend(&q, k, v, scale))
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&results, 0)?.index_select(&plan.order, 0)
}

/// See [`crate::attention()`].
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f32) -> Result<Tensor> {
    let (n, len, heads, head_dim) = q.dims4()?;
    let kv_heads = k.dim(2)?;
    let shared = heads / kv_heads;
    // The queries of all heads that share a key head are rows of one product.
    let q = q
        .reshape((n, len, kv_heads, shared, head_dim))?
        .permute((0, 2, 3, 1, 4))?
        .reshape((n, kv_heads, shared * len, head_dim))?;
    let k = k.transpose(1, 2)?.transpose(2, 3)?.contiguous()?;
    let v = v.transpose(1, 2)?.contiguous()?;
    // Picture by picture, and some rows at a time: all scores together would be gigabytes.
    let most = rows_at_a_time(shared * len, kv_heads * k.dim(3)?);
    let pictures = (0..n)
        .map(|i| {
            in_parts(shared * len, most, 1, |first, count| {
                let q = q.i(i)?.narrow(1, first, count)?.contiguous()?;
                let scores = scores(&q, &k.i(i)?, scale)?;
                softmax_last_dim(&scores)?
                    .to_dtype(v.dtype())?
                    .matmul(&v.i(i)?)
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::stack(&pictures, 0)?
        .reshape((n, kv_heads, shared, len, head_dim))?
        .permute((0, 3, 1, 2, 4))?
        .reshape((n, len, heads, head_dim))
}

/// See [`crate::Linear::forward`]; `x` is `[rows, in]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.to_dtype(x.dtype())?.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

/// See [`crate::rms_norm`].
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    fused_rms_norm(&x.contiguous()?, &weight.to_dtype(x.dtype())?, eps)
}

/// See [`crate::layer_norm`].
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32) -> Result<Tensor> {
    let weight = weight.to_dtype(x.dtype())?;
    let bias = bias.to_dtype(x.dtype())?;
    candle_nn::ops::layer_norm(&x.contiguous()?, &weight, &bias, eps)
}

/// See [`crate::rope()`].
pub(crate) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let cos = cos.to_dtype(x.dtype())?.contiguous()?;
    let sin = sin.to_dtype(x.dtype())?.contiguous()?;
    let (head_dim, rotated) = (x.dim(2)?, 2 * cos.dim(1)?);
    let turned = x.narrow(2, 0, rotated)?.contiguous()?.unsqueeze(0)?;
    let turned = rope_thd(&turned, &cos, &sin)?.squeeze(0)?;
    if rotated == head_dim {
        return Ok(turned);
    }
    Tensor::cat(&[turned, x.narrow(2, rotated, head_dim - rotated)?], 2)
}

/// See [`crate::squared_relu`].
pub(crate) fn squared_relu(x: &Tensor) -> Result<Tensor> {
    x.relu()?.sqr()
}

/// See [`crate::swiglu`].
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    let parts = gate_up.chunk(2, D::Minus1)?;
    parts[0].silu()? * &parts[1]
}

/// See [`crate::quick_gelu`].
pub(crate) fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * sigmoid(&x.affine(1.702, 0.)?)?
}

/// See [`crate::level_patches`].
pub(crate) fn level_patches(
    levels: &Tensor,
    table: &Tensor,
    cut: Cut,
    dtype: DType,
) -> Result<Tensor> {
    let first: Vec<u32> = (0..COLOURS)
        .map(|colour| (colour * LEVELS) as u32)
        .collect();
    let entries = levels
        .to_dtype(DType::U32)?
        .broadcast_add(&Tensor::new(first, levels.device())?)?
        .permute((0, 3, 1, 2))?
        .contiguous()?;
    let values = table
        .flatten_all()?
        .index_select(&entries.flatten_all()?, 0)?;
    value_patches(&values.reshape(entries.shape())?, cut, dtype)
}

/// See [`crate::value_patches`].
pub(crate) fn value_patches(values: &Tensor, cut: Cut, dtype: DType) -> Result<Tensor> {
    let side = cut.patch;
    let parts = [
        cut.count,
        COLOURS,
        cut.strips(),
        side,
        cut.width / side,
        side,
    ];
    values
        .to_dtype(dtype)?
        .reshape(&parts)?
        .permute([0, 2, 4, 1, 3, 5])?
        .reshape(cut.shape())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_parts_are_the_rows_in_one() {
        let x = Tensor::arange(0f32, 30., &Device::Cpu).unwrap();
        let x = x.reshape((2, 5, 3)).unwrap();
        let doubled = |first, count| x.narrow(1, first, count)?.affine(2., 1.);
        let whole = in_parts(5, 5, 1, doubled).unwrap();
        for most in [1, 2, 4] {
            let parts = in_parts(5, most, 1, doubled).unwrap();
            assert_eq!(
                parts.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                whole.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
    }

    #[test]
    fn decodes_are_gathered_together_up_to_a_bound() {
        let sequence = |kv_len| Sequence {
            rows: 0..1,
            kv_len,
            blocks: Vec::new(),
        };
        let half = MOST_GATHERED / 2;
        let lengths = [10, half, half, 3 * half, 5, 5];
        let sequences: Vec<Sequence> = lengths.into_iter().map(sequence).collect();
        let groups = bounded(&sequences.iter().collect::<Vec<_>>());
        let lengths: Vec<Vec<usize>> = groups
            .iter()
            .map(|group| group.iter().map(|sequence| sequence.kv_len).collect())
            .collect();
        assert_eq!(
            lengths,
            [vec![10, half], vec![half], vec![3 * half], vec![5, 5]]
        );
        assert!(bounded(&[]).is_empty());
    }
}
