//! AVX2 and AVX-512 behind the [`Simd`] trait.

#![expect(
    unsafe_code,
    reason = "vector instructions and loads through pointers have no safe form"
)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::simd::{Kernel, Simd};

/// Proof that the CPU has AVX-512F.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f") && Avx2::detect().is_some();
        found.then_some(Self(()))
    }

    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
        fn compiled<K: Kernel>(kernel: K, token: Avx512) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: the token is made by `detect` alone, which found these features.
        unsafe { compiled(kernel, self) }
    }
}

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    pub(crate) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel>(kernel: K, token: Avx2) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: the token is made by `detect` alone, which found these features.
        unsafe { compiled(kernel, self) }
    }
}

/// Methods that are one expression over intrinsics.
macro_rules! arithmetic {
    ($($name:ident($($arg:ident),+) = $value:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Self::V),+) -> Self::V {
            // SAFETY: `self` proves that the CPU has the instructions.
            unsafe { $value }
        }
    )+};
}

/// Loads that are one expression over intrinsics.
macro_rules! loads {
    ($($name:ident($from:ident: $element:ty) = $value:expr;)+) => {$(
        #[inline(always)]
        unsafe fn $name(self, $from: *const $element) -> Self::V {
            // SAFETY: `self` proves that the CPU has the instructions, the caller that `LANES`
            // elements are readable; the loads ask for no alignment.
            unsafe { $value }
        }
    )+};
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    // 6 x 4 sums, 6 left vectors and 1 right one: 31 of 32 registers.
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm512_set1_ps(x) }
    }

    loads! {
        load(from: f32) = _mm512_loadu_ps(from);
        load_bf16(from: bf16) = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))
        ));
        load_f16(from: f16) = _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
        load_u8(from: u8) = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())));
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: `self` proves the instruction, the caller the place; no alignment is asked.
        unsafe { _mm512_storeu_ps(to, v) }
    }

    arithmetic! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        mul_add(a, b, c) = _mm512_fmadd_ps(a, b, c);
        min(a, b) = _mm512_min_ps(a, b);
        max(a, b) = _mm512_max_ps(a, b);
        round(v) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(v);
        exp2i(n) = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(n),
            _mm512_set1_epi32(127),
        )));
        if_less(a, b, yes, no) =
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes);
    }

    #[inline(always)]
    fn sum4(self, v: [Self::V; 4]) -> [f32; 4] {
        let [a, b, c, d] = v;
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            // Four quarters, each [a, b, c, d].
            let quarters = _mm512_add_ps(low, high);
            let upper = _mm512_shuffle_f32x4::<0b11_10_11_10>(quarters, quarters);
            let halves = _mm512_castps512_ps256(_mm512_add_ps(quarters, upper));
            let sums = _mm_add_ps(
                _mm256_castps256_ps128(halves),
                _mm256_extractf128_ps::<1>(halves),
            );
            let mut out = [0.; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        }
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    // 3 x 4 sums, 3 left vectors and 1 right one: all 16 registers.
    const TILE_ROWS: usize = 3;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_set1_ps(x) }
    }

    loads! {
        load(from: f32) = _mm256_loadu_ps(from);
        load_bf16(from: bf16) = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(
            _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))
        ));
        load_f16(from: f16) = _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
        load_u8(from: u8) = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())));
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: `self` proves the instruction, the caller the place; no alignment is asked.
        unsafe { _mm256_storeu_ps(to, v) }
    }

    arithmetic! {
        add(a, b) = _mm256_add_ps(a, b);
        sub(a, b) = _mm256_sub_ps(a, b);
        mul(a, b) = _mm256_mul_ps(a, b);
        div(a, b) = _mm256_div_ps(a, b);
        mul_add(a, b, c) = _mm256_fmadd_ps(a, b, c);
        min(a, b) = _mm256_min_ps(a, b);
        max(a, b) = _mm256_max_ps(a, b);
        round(v) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v);
        exp2i(n) = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(
            _mm256_cvtps_epi32(n),
            _mm256_set1_epi32(127),
        )));
        if_less(a, b, yes, no) = _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
    }

    #[inline(always)]
    fn sum4(self, v: [Self::V; 4]) -> [f32; 4] {
        let [a, b, c, d] = v;
        // SAFETY: `self` proves that the CPU has the instructions.
        unsafe {
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let low = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let high = _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd);
            // Two halves, each [a, b, c, d].
            let halves = _mm256_add_ps(low, high);
            let sums = _mm_add_ps(
                _mm256_castps256_ps128(halves),
                _mm256_extractf128_ps::<1>(halves),
            );
            let mut out = [0.; 4];
            _mm_storeu_ps(out.as_mut_ptr(), sums);
            out
        }
    }
}
