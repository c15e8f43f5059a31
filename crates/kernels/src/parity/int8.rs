//! Pages of 8 bits: both routes, on rows that are hard to quantise.

use super::*;

const HEAD_DIM: usize = 10;

/// Rows of one head, by what is special about them.
fn special_rows(noise: &mut Noise) -> Vec<(&'static str, Vec<f32>)> {
    let mut with = |first: f32, size: f32| {
        let mut row = noise.vec(HEAD_DIM);
        row.iter_mut().for_each(|x| *x *= size);
        row[3] = first;
        row
    };
    vec![
        ("plain", with(0.5, 1.)),
        ("NaN", with(f32::NAN, 1.)),
        ("infinite", with(f32::INFINITY, 1.)),
        ("infinite below", with(f32::NEG_INFINITY, 1.)),
        ("zeros", vec![0.; HEAD_DIM]),
        ("negative zeros", vec![-0.; HEAD_DIM]),
        ("the largest", with(f32::MAX, 3e38)),
        ("the smallest", with(f32::from_bits(1), 1e-44)),
        ("small", with(1e-37, 1e-36)),
        // A scale of 1 (2^-126 more is the same), and ties.
        (
            "ties",
            vec![127., 0.5, -0.5, 1.5, -1.5, 2.5, -126.5, 126.5, -127., 0.],
        ),
        ("one", with(1e6, 1.)),
    ]
}

fn int8(heads: usize, kv_heads: usize, head_dim: usize) -> Case {
    Case {
        heads,
        kv_heads,
        head_dim,
        sequences: Vec::new(),
        dtype: DType::U8,
    }
}

#[test]
fn special_rows_are_written_alike_by_both_routes() {
    let mut noise = Noise::new(31);
    let rows = special_rows(&mut noise);
    let layout = Layout::scattered(&[(rows.len(), 40)], &mut noise);
    let flat = rows.iter().flat_map(|(_, row)| row.clone()).collect();
    let new = Tensor::from_vec(flat, (rows.len(), 1, HEAD_DIM), &Device::Cpu).unwrap();
    let case = int8(1, 1, HEAD_DIM);
    let ours = Cache::new(&layout, &case, &mut noise);
    let theirs = ours.copy();
    let own = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
    let gathered = Ragged::gathered(layout.as_ragged(), &Device::Cpu).unwrap();
    crate::write_kv(&new, &new, ours.pages(), ours.pages(), &own).unwrap();
    crate::write_kv(&new, &new, theirs.pages(), theirs.pages(), &gathered).unwrap();
    assert_eq!(ours.bits(), theirs.bits());

    let read = ours.read();
    for ((name, row), &slot) in rows.iter().zip(&layout.kv_slots) {
        let read = &read[slot as usize * HEAD_DIM..][..HEAD_DIM];
        if row.iter().any(|x| !x.is_finite()) {
            assert!(read.iter().all(|x| x.is_nan()), "{name}: {read:?}");
            continue;
        }
        let largest = row.iter().fold(0f32, |most, x| most.max(x.abs()));
        for (x, read) in row.iter().zip(read) {
            // Half a scale, and the least scale where there is none.
            let bound = largest / 127. * 0.500_1 + f32::MIN_POSITIVE;
            assert!((x - read).abs() <= bound, "{name}: {x} is read as {read}");
        }
    }
}

#[test]
fn attention_to_codes_is_attention_to_the_numbers_they_stand_for() {
    let mut noise = Noise::new(32);
    for (heads, kv_heads, head_dim) in [(1, 1, 8), (4, 2, 12), (6, 1, 9), (8, 8, 96), (4, 2, 128)] {
        let sequences = [(1, 150), (70, 70), (5, 37), (1, 1)];
        let layout = Layout::scattered(&sequences, &mut noise);
        let case = int8(heads, kv_heads, head_dim);
        // Scales that differ from token to token and from head to head.
        let k = Cache::new(&layout, &case, &mut noise);
        let v = Cache::new(&layout, &case, &mut noise);
        let (k_numbers, v_numbers) = (k.as_numbers(), v.as_numbers());
        let q = noise.tensor(&[layout.kv_slots.len(), heads, head_dim]);
        let own = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
        let gathered = Ragged::gathered(layout.as_ragged(), &Device::Cpu).unwrap();
        let scale = 3. / (head_dim as f32).sqrt();
        let (k_plain, v_plain) = (Pages::from(&k_numbers), Pages::from(&v_numbers));
        let exact = crate::paged_attention(&q, k_plain, v_plain, &own, scale).unwrap();
        for ragged in [&own, &gathered] {
            let found = crate::paged_attention(&q, k.pages(), v.pages(), ragged, scale).unwrap();
            let difference = largest_difference(&found, &exact);
            assert!(
                difference < 2e-6,
                "{heads}/{kv_heads} heads of {head_dim}: {difference}"
            );
        }
    }
}

#[test]
fn keys_of_zeros_make_values_count_alike() {
    let mut noise = Noise::new(33);
    let layout = Layout::scattered(&[(1, 50)], &mut noise);
    let case = int8(2, 1, HEAD_DIM);
    let k = Cache {
        data: Tensor::full(
            128u8,
            (layout.blocks, PAGE_TOKENS, 1, HEAD_DIM),
            &Device::Cpu,
        )
        .unwrap(),
        scales: Some(
            Tensor::full(
                f32::MIN_POSITIVE,
                (layout.blocks, PAGE_TOKENS, 1),
                &Device::Cpu,
            )
            .unwrap(),
        ),
    };
    let v = Cache::new(&layout, &case, &mut noise);
    let read = v.read();
    let mut mean = [0f32; HEAD_DIM];
    for position in 0..50 {
        let block = layout.block_table[position / PAGE_TOKENS] as usize;
        let slot = block * PAGE_TOKENS + position % PAGE_TOKENS;
        for (mean, x) in mean.iter_mut().zip(&read[slot * HEAD_DIM..]) {
            *mean += x / 50.;
        }
    }
    let q = noise.tensor(&[1, 2, HEAD_DIM]);
    for ragged in [
        Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap(),
        Ragged::gathered(layout.as_ragged(), &Device::Cpu).unwrap(),
    ] {
        let out = values(&crate::paged_attention(&q, k.pages(), v.pages(), &ragged, 1.).unwrap());
        for (x, mean) in out.iter().zip(mean.iter().cycle()) {
            assert!((x - mean).abs() < 1e-6, "{x} is not {mean}");
        }
    }
}

#[test]
fn a_broken_key_or_value_is_seen_by_its_own_sequence_alone() {
    let mut noise = Noise::new(34);
    for broken in [f32::NAN, f32::INFINITY] {
        for broken_key in [false, true] {
            let layout = Layout::scattered(&[(2, 35), (2, 40)], &mut noise);
            let case = int8(2, 2, HEAD_DIM);
            let k_cache = Cache::new(&layout, &case, &mut noise);
            let v_cache = Cache::new(&layout, &case, &mut noise);
            let plain = noise.tensor(&[4, 2, HEAD_DIM]);
            let mut numbers = values(&plain);
            numbers[HEAD_DIM / 2] = broken;
            let spoilt = Tensor::from_vec(numbers, plain.shape(), &Device::Cpu).unwrap();
            let (k, v) = if broken_key {
                (&spoilt, &plain)
            } else {
                (&plain, &spoilt)
            };
            let ragged = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
            crate::write_kv(k, v, k_cache.pages(), v_cache.pages(), &ragged).unwrap();
            let q = noise.tensor(&[4, 2, HEAD_DIM]);
            let out =
                crate::paged_attention(&q, k_cache.pages(), v_cache.pages(), &ragged, 1.).unwrap();
            let out = values(&out);
            // Head 0 of token 0 was spoilt; the second sequence has the tokens 2 and 3.
            assert!(out[..HEAD_DIM].iter().all(|x| x.is_nan()), "{out:?}");
            assert!(out[4 * HEAD_DIM..].iter().all(|x| x.is_finite()), "{out:?}");
        }
    }
}

#[test]
fn pages_whose_scales_do_not_fit_are_refused() {
    let mut noise = Noise::new(35);
    let layout = Layout::scattered(&[(1, 3)], &mut noise);
    let ragged = Ragged::new(layout.as_ragged(), &Device::Cpu).unwrap();
    let shape = [layout.blocks, PAGE_TOKENS, 2];
    let codes = [layout.blocks, PAGE_TOKENS, 2, 8];
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    let cases = [
        (DType::U8, None, "not U8 without scales"),
        (
            DType::BF16,
            Some(zeros(&shape, DType::F32)),
            "not BF16 with scales",
        ),
        (DType::U32, None, "not U32 without scales"),
        (
            DType::U8,
            Some(zeros(&shape, DType::F16)),
            "scales of F16 [3, 32, 2] do not fit",
        ),
        (
            DType::U8,
            Some(zeros(&[2, PAGE_TOKENS, 2], DType::F32)),
            "scales of F32 [2, 32, 2] do not fit",
        ),
    ];
    let q = noise.tensor(&[1, 2, 8]);
    for (dtype, scales, reason) in cases {
        let data = zeros(&codes, dtype);
        let pages = Pages {
            data: &data,
            scales: scales.as_ref(),
        };
        let read = crate::paged_attention(&q, pages, pages, &ragged, 1.).unwrap_err();
        let written = crate::write_kv(&q, &q, pages, pages, &ragged).unwrap_err();
        for error in [read, written] {
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
