//! Attention, and the cache that it reads.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_kernels::{PAGE_TOKENS, Pages, Ragged, RaggedLayout, twin};

use super::{Case, Noise, Role, Route, Run, Sizes, Work, of, run};

/// A step's sequences, in scattered blocks.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    cu_q: Vec<u32>,
    kv_len: Vec<u32>,
    kv_slots: Vec<u32>,
    block_table: Vec<u32>,
    max_blocks: usize,
    pub(super) blocks: usize,
    /// Keys that rows see, all together.
    pub(super) seen: usize,
}

impl Layout {
    /// Sequences of so many new rows and so many tokens each.
    pub(super) fn new(sequences: &[(usize, usize)], noise: &mut Noise) -> Self {
        let pages = |tokens: usize| tokens.div_ceil(PAGE_TOKENS);
        let max_blocks = sequences
            .iter()
            .map(|&(_, kv)| pages(kv))
            .max()
            .unwrap_or(0);
        let blocks = sequences.iter().map(|&(_, kv)| pages(kv)).sum();
        let mut free: Vec<usize> = (0..blocks).collect();
        for at in (1..free.len()).rev() {
            free.swap(at, noise.below(at + 1));
        }
        let mut layout = Self {
            cu_q: vec![0],
            kv_len: Vec::new(),
            kv_slots: Vec::new(),
            block_table: Vec::new(),
            max_blocks,
            blocks,
            seen: 0,
        };
        // Block numbers are far below `u32::MAX`.
        let number = |n: usize| n as u32;
        for &(rows, kv) in sequences {
            let own: Vec<usize> = free.split_off(free.len().saturating_sub(pages(kv)));
            for position in kv - rows..kv {
                let block = own.get(position / PAGE_TOKENS).copied().unwrap_or_default();
                layout
                    .kv_slots
                    .push(number(block * PAGE_TOKENS + position % PAGE_TOKENS));
                layout.seen += position + 1;
            }
            let filling = max_blocks - own.len();
            layout.block_table.extend(own.into_iter().map(number));
            layout.block_table.extend(std::iter::repeat_n(0, filling));
            layout.cu_q.push(number(layout.kv_slots.len()));
            layout.kv_len.push(number(kv));
        }
        layout
    }

    pub(super) fn rows(&self) -> usize {
        self.kv_slots.len()
    }

    pub(super) fn tokens(&self) -> usize {
        self.kv_len.iter().map(|&len| len as usize).sum()
    }

    pub(super) fn on(&self, device: &Device, route: Route) -> Result<Ragged> {
        let layout = RaggedLayout {
            cu_q: &self.cu_q,
            kv_len: &self.kv_len,
            kv_slots: &self.kv_slots,
            block_table: &self.block_table,
            max_blocks: self.max_blocks,
        };
        match route {
            Route::Kernel => Ragged::new(layout, device),
            Route::Twin => Ragged::gathered(layout, device),
        }
    }
}

pub(super) fn scale(head_dim: usize) -> f32 {
    // Scores large enough for the softmax to have something to do.
    3.0 / (head_dim as f32).sqrt()
}

/// Decodes of up to the longest sequence.
pub(super) fn decodes(sizes: &Sizes, noise: &mut Noise) -> Layout {
    let lengths =
        (0..sizes.sequences).map(|at| (1, (sizes.keys * (at + 1)).div_ceil(sizes.sequences)));
    Layout::new(&lengths.collect::<Vec<_>>(), noise)
}

/// Attention of `layout`, with pages of the case's type.
fn paged(sizes: &Sizes, layout: Layout, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (heads, kv_heads, width) = (sizes.heads, sizes.kv_heads, sizes.head_dim);
    let pages = [layout.blocks, PAGE_TOKENS, kv_heads, width];
    let rows = layout.rows();
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, heads, width])?),
        (Role::Stored, noise.tensor(&pages)?),
        (Role::Stored, noise.tensor(&pages)?),
    ];
    let read = 2 * layout.tokens() * kv_heads * width + 2 * rows * heads * width;
    let work = Work {
        bytes: read * dtype.size_in_bytes(),
        flops: 4 * layout.seen * heads * width,
    };
    let shape = described(sizes, &layout);
    let prepare = move |tensors: &[Tensor], device: &Device, route| -> Result<Run> {
        let [q, k, v] = of(tensors)?;
        let ragged = layout.on(device, route)?;
        run(move || {
            let (k, v) = (Pages::from(&k), Pages::from(&v));
            vlmd_kernels::paged_attention(&q, k, v, &ragged, scale(width))
        })
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

pub(super) fn described(sizes: &Sizes, layout: &Layout) -> String {
    format!(
        "{} rows of {} sequences, {} tokens, {}/{} heads of {}",
        layout.rows(),
        layout.kv_len.len(),
        layout.tokens(),
        sizes.heads,
        sizes.kv_heads,
        sizes.head_dim
    )
}

pub(super) fn decode(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = decodes(sizes, noise);
    paged(sizes, layout, dtype, noise)
}

/// The last chunk of a prompt.
pub(super) fn prefill(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = Layout::new(&[(sizes.rows, sizes.keys)], noise);
    paged(sizes, layout, dtype, noise)
}

/// A chunk, a whole prompt and decodes in one step.
pub(super) fn mixed(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (rows, keys) = (sizes.rows, sizes.keys);
    let sequences = [
        (1, keys),
        (rows.div_ceil(2), keys),
        (1, 1),
        (rows.div_ceil(3), rows.div_ceil(3)),
    ];
    let layout = Layout::new(&sequences, noise);
    paged(sizes, layout, dtype, noise)
}

/// New keys and values of a prompt's rows, of which the cache's part is the result.
pub(super) fn write_kv(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = Layout::new(&[(sizes.rows, sizes.keys)], noise);
    let (rows, kv_heads, width) = (layout.rows(), sizes.kv_heads, sizes.head_dim);
    let new = [rows, kv_heads, width];
    let pages = [layout.blocks, PAGE_TOKENS, kv_heads, width];
    let tensors = vec![
        (Role::Activation, noise.tensor(&new)?),
        (Role::Activation, noise.tensor(&new)?),
        (Role::Stored, noise.tensor(&pages)?),
        (Role::Stored, noise.tensor(&pages)?),
    ];
    let work = Work {
        bytes: 4 * rows * kv_heads * width * dtype.size_in_bytes(),
        flops: 0,
    };
    let shape = format!("{rows} x {kv_heads} x {width}");
    let prepare = move |tensors: &[Tensor], device: &Device, route| -> Result<Run> {
        let [k, v, k_pages, v_pages] = of(tensors)?;
        let ragged = layout.on(device, route)?;
        Ok(Box::new(move || {
            let (keys, values) = (Pages::from(&k_pages), Pages::from(&v_pages));
            vlmd_kernels::write_kv(&k, &v, keys, values, &ragged)?;
            Ok(vec![k_pages.clone(), v_pages.clone()])
        }))
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

/// What becomes of the joined projection of decoding sequences: turned queries, and keys and values
/// in their pages.
pub(super) fn qkv_rope_write(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = decodes(sizes, noise);
    let (heads, kv_heads, width) = (sizes.heads, sizes.kv_heads, sizes.head_dim);
    let rows = layout.rows();
    let joined = (heads + 2 * kv_heads) * width;
    let pages = [layout.blocks, PAGE_TOKENS, kv_heads, width];
    let angles = noise.tensor(&[rows, width / 2])?.affine(3.0, 0.0)?;
    let tensors = vec![
        (Role::Activation, noise.tensor(&[rows, joined])?),
        (Role::Activation, angles.cos()?),
        (Role::Activation, angles.sin()?),
        (Role::Stored, noise.tensor(&pages)?),
        (Role::Stored, noise.tensor(&pages)?),
    ];
    let work = Work {
        bytes: rows * (2 * joined + width) * dtype.size_in_bytes(),
        flops: 0,
    };
    let shape = format!("{rows} x {heads}/{kv_heads} heads of {width}");
    let prepare = move |tensors: &[Tensor], device: &Device, route| -> Result<Run> {
        let [qkv, cos, sin, k_pages, v_pages] = of(tensors)?;
        let ragged = layout.on(device, route)?;
        Ok(Box::new(move || {
            let pages = [Pages::from(&k_pages), Pages::from(&v_pages)];
            let query = joined_write(&qkv, (&cos, &sin), heads, pages, &ragged, route)?;
            Ok(vec![query, k_pages.clone(), v_pages.clone()])
        }))
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

/// Gives the turned queries, and writes keys and values to their pages.
pub(super) fn joined_write(
    qkv: &Tensor,
    (cos, sin): (&Tensor, &Tensor),
    heads: usize,
    [keys, values]: [Pages<'_>; 2],
    ragged: &Ragged,
    route: Route,
) -> Result<Tensor> {
    match route {
        Route::Kernel => {
            vlmd_kernels::qkv_rope_write(qkv, Some((cos, sin)), heads, keys, values, ragged)
        }
        Route::Twin => {
            let (rows, _) = qkv.dims2()?;
            let (_, _, kv_heads, width) = keys.data.dims4()?;
            let part = |first: usize, heads: usize| {
                qkv.narrow(1, first * width, heads * width)?
                    .reshape((rows, heads, width))
            };
            let key = twin::rope(&part(heads, kv_heads)?, cos, sin)?;
            let value = part(heads + kv_heads, kv_heads)?;
            vlmd_kernels::write_kv(&key, &value, keys, values, ragged)?;
            twin::rope(&part(0, heads)?, cos, sin)
        }
    }
}

/// Dense attention of `pictures` times `rows` queries over `keys`.
fn dense(
    (pictures, rows, keys): (usize, usize, usize),
    (heads, kv_heads, width): (usize, usize, usize),
    dtype: DType,
    noise: &mut Noise,
) -> Result<Case> {
    let tensors = vec![
        (
            Role::Activation,
            noise.tensor(&[pictures, rows, heads, width])?,
        ),
        (
            Role::Activation,
            noise.tensor(&[pictures, keys, kv_heads, width])?,
        ),
        (
            Role::Activation,
            noise.tensor(&[pictures, keys, kv_heads, width])?,
        ),
    ];
    let numbers = 2 * pictures * (rows * heads + keys * kv_heads) * width;
    let work = Work {
        bytes: numbers * dtype.size_in_bytes(),
        flops: 4 * pictures * rows * keys * heads * width,
    };
    let shape =
        format!("{pictures} x {rows} rows, {keys} keys, {heads}/{kv_heads} heads of {width}");
    let prepare = move |tensors: &[Tensor], _: &Device, route| {
        let [q, k, v] = of(tensors)?;
        match route {
            Route::Kernel => run(move || vlmd_kernels::attention(&q, &k, &v, scale(width))),
            Route::Twin => run(move || twin::attention(&q, &k, &v, scale(width))),
        }
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

/// A tower's, over two views.
pub(super) fn picture(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let (tokens, heads, width) = (sizes.picture, sizes.heads, sizes.head_dim);
    dense((2, tokens, tokens), (heads, heads, width), dtype, noise)
}

/// A prompt's that looks at a picture.
pub(super) fn looking(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let heads = (sizes.heads, sizes.kv_heads, sizes.head_dim);
    dense((1, sizes.rows, sizes.picture), heads, dtype, noise)
}

/// A decoding sequence's that looks at a picture.
pub(super) fn looking_alone(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let heads = (sizes.heads, sizes.kv_heads, sizes.head_dim);
    dense((1, 1, sizes.features), heads, dtype, noise)
}
