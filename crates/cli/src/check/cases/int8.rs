//! A cache of 8 bits: what is written to it, and attention to it.

use candle_core::{DType, Device, Result, Tensor};
use vlmd_kernels::{PAGE_TOKENS, Pages};

use super::attention::{Layout, decodes, described, joined_write, scale};
use super::{Case, Noise, Role, Run, Sizes, Work, of, run};

/// Codes of 8 bits are whole numbers up to 255: where two routes round one otherwise it is off by 1.
const INT8_BOUND: f64 = 1.01 / 255.0;

/// Codes and their scales as pages.
fn coded<'a>(data: &'a Tensor, scales: &'a Tensor) -> Pages<'a> {
    Pages {
        data,
        scales: Some(scales),
    }
}

/// Pages of codes, with scales.
fn codes(noise: &mut Noise, layout: &Layout, sizes: &Sizes) -> Result<[(Role, Tensor); 2]> {
    let rows = [layout.blocks, PAGE_TOKENS, sizes.kv_heads];
    let pages = [layout.blocks, PAGE_TOKENS, sizes.kv_heads, sizes.head_dim];
    // 1 to 255, of which 128 is nothing.
    let codes = noise
        .tensor(&pages)?
        .affine(127.0, 128.5)?
        .to_dtype(DType::U8)?;
    let scales = noise.tensor(&rows)?.affine(0.003, 0.008)?;
    Ok([(Role::Plain, codes), (Role::Plain, scales)])
}

pub(super) fn decode(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = decodes(sizes, noise);
    let (heads, width) = (sizes.heads, sizes.head_dim);
    let rows = layout.rows();
    let mut tensors = vec![(Role::Activation, noise.tensor(&[rows, heads, width])?)];
    tensors.extend(codes(noise, &layout, sizes)?);
    tensors.extend(codes(noise, &layout, sizes)?);
    let queries = 2 * rows * heads * width * dtype.size_in_bytes();
    let work = Work {
        bytes: 2 * layout.tokens() * sizes.kv_heads * (width + size_of::<f32>()) + queries,
        flops: 4 * layout.seen * heads * width,
    };
    let shape = described(sizes, &layout);
    let prepare = move |tensors: &[Tensor], device: &Device, route| -> Result<Run> {
        let [q, k, k_scales, v, v_scales] = of(tensors)?;
        let ragged = layout.on(device, route)?;
        run(move || {
            let (k, v) = (coded(&k, &k_scales), coded(&v, &v_scales));
            vlmd_kernels::paged_attention(&q, k, v, &ragged, scale(width))
        })
    };
    Ok(Case::new(dtype, shape, tensors, work, prepare))
}

pub(super) fn write_kv(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = Layout::new(&[(sizes.rows, sizes.keys)], noise);
    let (rows, kv_heads, width) = (layout.rows(), sizes.kv_heads, sizes.head_dim);
    let new = [rows, kv_heads, width];
    let mut tensors = vec![
        (Role::Activation, noise.tensor(&new)?),
        (Role::Activation, noise.tensor(&new)?),
    ];
    tensors.extend(codes(noise, &layout, sizes)?);
    tensors.extend(codes(noise, &layout, sizes)?);
    let each = width * dtype.size_in_bytes() + width + size_of::<f32>();
    let work = Work {
        bytes: 2 * rows * kv_heads * each,
        flops: 0,
    };
    let shape = format!("{rows} x {kv_heads} x {width}");
    let prepare = move |tensors: &[Tensor], device: &Device, route| -> Result<Run> {
        let [k, v, k_pages, k_scales, v_pages, v_scales] = of(tensors)?;
        let ragged = layout.on(device, route)?;
        Ok(Box::new(move || {
            let (keys, values) = (coded(&k_pages, &k_scales), coded(&v_pages, &v_scales));
            vlmd_kernels::write_kv(&k, &v, keys, values, &ragged)?;
            let written = [&k_pages, &k_scales, &v_pages, &v_scales];
            Ok(written.into_iter().cloned().collect())
        }))
    };
    let case = Case::new(dtype, shape, tensors, work, prepare);
    Ok(Case {
        bound: Some(INT8_BOUND),
        ..case
    })
}

/// What becomes of the joined projection of decoding sequences: turned queries, and keys and values
/// in pages of codes.
pub(super) fn qkv_rope_write(sizes: &Sizes, dtype: DType, noise: &mut Noise) -> Result<Case> {
    let layout = decodes(sizes, noise);
    let (heads, kv_heads, width) = (sizes.heads, sizes.kv_heads, sizes.head_dim);
    let rows = layout.rows();
    let joined = (heads + 2 * kv_heads) * width;
    let angles = noise.tensor(&[rows, width / 2])?.affine(3.0, 0.0)?;
    let mut tensors = vec![
        (Role::Activation, noise.tensor(&[rows, joined])?),
        (Role::Activation, angles.cos()?),
        (Role::Activation, angles.sin()?),
    ];
    tensors.extend(codes(noise, &layout, sizes)?);
    tensors.extend(codes(noise, &layout, sizes)?);
    let work = Work {
        bytes: rows * (joined + heads * width + width) * dtype.size_in_bytes()
            + 2 * rows * kv_heads * (width + size_of::<f32>()),
        flops: 0,
    };
    let shape = format!("{rows} x {heads}/{kv_heads} heads of {width}");
    let prepare = move |tensors: &[Tensor], device: &Device, route| -> Result<Run> {
        let [qkv, cos, sin, k_pages, k_scales, v_pages, v_scales] = of(tensors)?;
        let ragged = layout.on(device, route)?;
        Ok(Box::new(move || {
            let pages = [coded(&k_pages, &k_scales), coded(&v_pages, &v_scales)];
            let query = joined_write(&qkv, (&cos, &sin), heads, pages, &ragged, route)?;
            let results = [&query, &k_pages, &k_scales, &v_pages, &v_scales];
            Ok(results.into_iter().cloned().collect())
        }))
    };
    let case = Case::new(dtype, shape, tensors, work, prepare);
    Ok(Case {
        bound: Some(INT8_BOUND),
        ..case
    })
}
