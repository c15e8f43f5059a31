//! The CPU kernels against candle's own operations, on the same tensors in the same run.
//!
//! `cargo bench -p vlmd-kernels` runs all, `cargo bench -p vlmd-kernels -- linear/bf16` some.
//! Sizes are those of Phi-3.5-vision: a decoder of width 3072 with 32 heads of 96, a vision
//! tower of 577 patches with 16 heads of 64.

use candle_core::{D, DType, Device, Result, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput};
use vlmd_kernels::{
    Linear, PAGE_TOKENS, Pages, Ragged, RaggedLayout, attention, gelu, layer_norm, paged_attention,
    quick_gelu, rms_norm, softmax, swiglu, write_kv,
};

const WIDTH: usize = 3072;
const HEADS: usize = 32;
const HEAD_DIM: usize = 96;
const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn random(shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::randn(0f32, 1., shape, &Device::Cpu)?.to_dtype(dtype)
}

/// Layers one after the other, as a decoder runs them: so large together that weights come from
/// memory and not from a cache.
fn linear(criterion: &mut Criterion) -> Result<()> {
    const OUT: usize = 8192;
    const MEMORY: usize = 512 << 20;
    for dtype in DTYPES {
        let bytes = OUT * WIDTH * dtype.size_in_bytes();
        let weights = (0..MEMORY.div_ceil(bytes))
            .map(|_| random(&[OUT, WIDTH], dtype))
            .collect::<Result<Vec<_>>>()?;
        let layers = weights
            .iter()
            .map(|weight| Linear::new(weight.clone(), None))
            .collect::<Result<Vec<_>>>()?;
        let mut group = criterion.benchmark_group(format!("linear/{}", dtype.as_str()));
        group.sample_size(10);
        for rows in [1, 8, 256, 1024] {
            // Few rows are a matter of bytes read, many of multiplications.
            group.throughput(if rows <= 8 {
                Throughput::Bytes(bytes as u64)
            } else {
                Throughput::Elements((2 * rows * OUT * WIDTH) as u64)
            });
            let x = random(&[rows, WIDTH], DType::F32)?;
            let mut turn = 0;
            group.bench_function(BenchmarkId::new("vlmd", rows), |bench| {
                bench.iter(|| {
                    turn += 1;
                    layers[turn % layers.len()].forward(&x)
                });
            });
            // bf16 has no matrix product in candle: it is widened first, as a caller would have to.
            let computed = if dtype == DType::BF16 {
                DType::F32
            } else {
                dtype
            };
            let x = x.to_dtype(computed)?;
            group.bench_function(BenchmarkId::new("candle", rows), |bench| {
                bench.iter(|| {
                    turn += 1;
                    x.matmul(&weights[turn % weights.len()].to_dtype(computed)?.t()?)
                });
            });
        }
    }
    Ok(())
}

/// The same attention by gathering pages into one tensor: one sequence, all rows new or one.
fn gathered(q: &Tensor, k: &Tensor, v: &Tensor, blocks: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let gather = |cache: &Tensor| {
        cache
            .index_select(blocks, 0)?
            .flatten(0, 1)?
            .to_dtype(DType::F32)?
            .transpose(0, 1)?
            .contiguous()
    };
    let q = q.transpose(0, 1)?.contiguous()?;
    let scores = q.matmul(&gather(k)?.t()?)?.broadcast_add(mask)?;
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    weights.matmul(&gather(v)?)?.transpose(0, 1)?.contiguous()
}

fn paged(criterion: &mut Criterion) -> Result<()> {
    const TOKENS: usize = 2048;
    const BLOCKS: usize = TOKENS / PAGE_TOKENS;
    let device = &Device::Cpu;
    let table: Vec<u32> = (0..BLOCKS as u32).rev().collect();
    let blocks = Tensor::new(table.as_slice(), device)?;
    let ragged = |rows: usize| {
        let slots: Vec<u32> = (0..rows as u32).collect();
        let layout = RaggedLayout {
            cu_q: &[0, rows as u32],
            kv_len: &[TOKENS as u32],
            kv_slots: &slots,
            block_table: &table,
            max_blocks: BLOCKS,
        };
        Ragged::new(layout, device)
    };
    let new = random(&[TOKENS, HEADS, HEAD_DIM], DType::F32)?;
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::U8] {
        let zeros = || Tensor::zeros((BLOCKS, PAGE_TOKENS, HEADS, HEAD_DIM), dtype, device);
        let (k, v) = (zeros()?, zeros()?);
        let coded = dtype == DType::U8;
        let name = if coded { "int8" } else { dtype.as_str() };
        let scales = Tensor::zeros((BLOCKS, PAGE_TOKENS, HEADS), DType::F32, device)?;
        // Keys and values may share scales: they are the same numbers here.
        let scales = coded.then_some(&scales);
        let (k_pages, v_pages) = (Pages { data: &k, scales }, Pages { data: &v, scales });
        let whole = ragged(TOKENS)?;
        write_kv(&new, &new, k_pages, v_pages, &whole)?;
        let mut group = criterion.benchmark_group(format!("write_kv/{name}"));
        group.bench_function("prefill", |bench| {
            bench.iter(|| write_kv(&new, &new, k_pages, v_pages, &whole));
        });
        group.finish();
        let mut group = criterion.benchmark_group(format!("paged_attention/{name}"));
        group.sample_size(10);
        for (name, rows) in [("decode", 1), ("prefill", TOKENS)] {
            let ragged = ragged(rows)?;
            let q = random(&[rows, HEADS, HEAD_DIM], DType::F32)?;
            let hidden = (0..rows * TOKENS).map(|at| {
                let seen = at % TOKENS <= TOKENS - rows + at / TOKENS;
                if seen { 0. } else { f32::NEG_INFINITY }
            });
            let mask = Tensor::from_iter(hidden, device)?.reshape((1, rows, TOKENS))?;
            group.bench_function(BenchmarkId::new("vlmd", name), |bench| {
                bench.iter(|| paged_attention(&q, k_pages, v_pages, &ragged, 0.1));
            });
            if coded {
                continue;
            }
            group.bench_function(BenchmarkId::new("candle", name), |bench| {
                bench.iter(|| gathered(&q, &k, &v, &blocks, &mask));
            });
        }
    }
    Ok(())
}

fn vision(criterion: &mut Criterion) -> Result<()> {
    let shape = [5, 577, 16, 64];
    let (q, k, v) = (
        random(&shape, DType::F32)?,
        random(&shape, DType::F32)?,
        random(&shape, DType::F32)?,
    );
    let mut group = criterion.benchmark_group("attention/clip");
    group.sample_size(10);
    group.bench_function("vlmd", |bench| {
        bench.iter(|| attention(&q, &k, &v, 0.125));
    });
    let candle = || -> Result<Tensor> {
        let heads = |x: &Tensor| x.transpose(1, 2)?.contiguous();
        let scores = heads(&q)?.matmul(&heads(&k)?.t()?)?.affine(0.125, 0.)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        weights.matmul(&heads(&v)?)?.transpose(1, 2)?.contiguous()
    };
    group.bench_function("candle", |bench| bench.iter(candle));
    Ok(())
}

fn rowwise(criterion: &mut Criterion) -> Result<()> {
    let x = random(&[1024, 2 * WIDTH], DType::F32)?;
    let weight = random(&[2 * WIDTH], DType::F32)?;
    let mut group = criterion.benchmark_group("rowwise");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(4 * x.elem_count() as u64));
    let mut pair =
        |name: &str, ours: &dyn Fn() -> Result<Tensor>, candle: &dyn Fn() -> Result<Tensor>| {
            group.bench_function(BenchmarkId::new("vlmd", name), |bench| bench.iter(ours));
            group.bench_function(BenchmarkId::new("candle", name), |bench| bench.iter(candle));
        };
    pair("gelu", &|| gelu(&x), &|| x.gelu_erf());
    pair("quick_gelu", &|| quick_gelu(&x), &|| {
        &x * candle_nn::ops::sigmoid(&x.affine(1.702, 0.)?)?
    });
    pair("swiglu", &|| swiglu(&x), &|| {
        let parts = x.chunk(2, D::Minus1)?;
        parts[0].silu()? * &parts[1]
    });
    pair("rms_norm", &|| rms_norm(&x, &weight, 1e-5), &|| {
        candle_nn::ops::rms_norm(&x, &weight, 1e-5)
    });
    pair(
        "layer_norm",
        &|| layer_norm(&x, &weight, &weight, 1e-5),
        &|| candle_nn::ops::layer_norm(&x, &weight, &weight, 1e-5),
    );
    pair("softmax", &|| softmax(&x), &|| {
        candle_nn::ops::softmax_last_dim(&x)
    });
    Ok(())
}

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    linear(&mut criterion)?;
    paged(&mut criterion)?;
    vision(&mut criterion)?;
    rowwise(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}
