//! Vectors of f32 in three widths, and the choice between them.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for each instruction set. The
//! values that implement [`Simd`] are tokens: one exists only where the CPU has the
//! instructions, so whoever holds one may use them, and arithmetic on vectors is safe. Unsafe
//! remain the loads and stores through pointers, which the innermost loops need.
//!
//! Which token there is, is found out once ([`Level::get`]); [`dispatch`] enters code that is
//! compiled for it. No `target-cpu` flag is needed, and one binary serves old and new machines.

#![expect(
    unsafe_code,
    reason = "vector instructions and loads through pointers have no safe form"
)]

use std::sync::OnceLock;

use half::{bf16, f16};

#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// A vector of f32 and its arithmetic.
///
/// Implementations are `#[inline(always)]`: a vector must never cross a call between functions
/// that are compiled for different instruction sets.
pub(crate) trait Simd: Copy + Send + Sync {
    /// The vector.
    type V: Copy;
    /// Its elements.
    const LANES: usize;
    /// Rows of the left matrix that a register tile of four columns has room for.
    const TILE_ROWS: usize;

    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `LANES` elements are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` elements are readable at `from`.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V;
    /// # Safety
    /// `LANES` elements are readable at `from`.
    unsafe fn load_f16(self, from: *const f16) -> Self::V;
    /// # Safety
    /// `LANES` elements are readable at `from`.
    unsafe fn load_u8(self, from: *const u8) -> Self::V;
    /// # Safety
    /// `LANES` elements are writable at `to`.
    unsafe fn store(self, to: *mut f32, v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, in one rounding where the CPU can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: the second where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: the second where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, v: Self::V) -> Self::V;
    /// Two to the power of integers within -126..=127.
    fn exp2i(self, n: Self::V) -> Self::V;
    /// Lane by lane `if a < b { yes } else { no }`.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The sums over the lanes of four vectors, each added up in the same order.
    fn sum4(self, v: [Self::V; 4]) -> [f32; 4];

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.sum4([v; 4])[0]
    }

    /// The largest lane; NaN lanes may be passed over.
    #[inline(always)]
    fn max_lane(self, v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
        // SAFETY: no vector has more than `MAX_LANES` lanes.
        unsafe { self.store(lanes.as_mut_ptr(), v) };
        // Halves against halves, which is a vector operation at every width.
        let mut half = MAX_LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = if lanes[i] > lanes[i + half] {
                    lanes[i]
                } else {
                    lanes[i + half]
                };
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The first `LANES` elements of a slice.
    #[inline(always)]
    fn read(self, from: &[f32]) -> Self::V {
        assert!(from.len() >= Self::LANES);
        // SAFETY: just checked.
        unsafe { self.load(from.as_ptr()) }
    }

    /// Into the first `LANES` elements of a slice.
    #[inline(always)]
    fn write(self, to: &mut [f32], v: Self::V) {
        assert!(to.len() >= Self::LANES);
        // SAFETY: just checked.
        unsafe { self.store(to.as_mut_ptr(), v) }
    }
}

/// Lanes of the widest vector.
pub(crate) const MAX_LANES: usize = 16;

/// A number that a weight or a cached key may be stored as.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Widens `LANES` elements; exact for every dtype.
    ///
    /// # Safety
    /// They are readable at `from`.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V;

    fn to_f32(self) -> f32;
}

/// A number that an f32 may be rounded to by itself.
pub(crate) trait Rounded: Element {
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the same contract.
        unsafe { simd.load(from) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Rounded for f32 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the same contract.
        unsafe { simd.load_bf16(from) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

impl Rounded for bf16 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the same contract.
        unsafe { simd.load_f16(from) }
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Rounded for f16 {
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
}

/// Code that is compiled for every instruction set.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;
    /// Implementations are `#[inline(always)]`, so that they are compiled inside of
    /// [`dispatch`], with its instructions.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The instruction sets that kernels are compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Level {
    /// AVX-512F: 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2 with FMA and F16C: 8 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// What every CPU has: 8 lanes in an array, which the compiler maps to what there is.
    Portable(Portable),
}

impl Level {
    /// The best of this CPU, looked up once.
    pub(crate) fn get() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            #[cfg(target_arch = "x86_64")]
            if let Some(level) = Avx512::detect().map(Self::Avx512) {
                return level;
            } else if let Some(level) = Avx2::detect().map(Self::Avx2) {
                return level;
            }
            Self::Portable(Portable)
        })
    }

    /// All that this CPU has.
    #[cfg(test)]
    pub(crate) fn all() -> Vec<Self> {
        let mut levels = vec![Self::Portable(Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(Avx2::detect().map(Self::Avx2));
            levels.extend(Avx512::detect().map(Self::Avx512));
        }
        levels
    }
}

/// Runs a kernel in its build for an instruction set.
pub(crate) fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Output {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => token.enter(kernel),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => token.enter(kernel),
        Level::Portable(token) => kernel.run(token),
    }
}

/// Plain arrays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

const PORTABLE_LANES: usize = 8;

#[inline(always)]
fn zip(
    a: [f32; PORTABLE_LANES],
    b: [f32; PORTABLE_LANES],
    f: impl Fn(f32, f32) -> f32,
) -> [f32; PORTABLE_LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; PORTABLE_LANES];
    const LANES: usize = PORTABLE_LANES;
    const TILE_ROWS: usize = 1;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; PORTABLE_LANES]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::V {
        // SAFETY: readable by contract; an array of f32 has the alignment of f32.
        unsafe { from.cast::<Self::V>().read() }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        // SAFETY: as for f32.
        unsafe { from.cast::<[bf16; PORTABLE_LANES]>().read() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_f16(self, from: *const f16) -> Self::V {
        // SAFETY: as for f32.
        unsafe { from.cast::<[f16; PORTABLE_LANES]>().read() }.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_u8(self, from: *const u8) -> Self::V {
        // SAFETY: as for f32.
        unsafe { from.cast::<[u8; PORTABLE_LANES]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: Self::V) {
        // SAFETY: writable by contract; an array of f32 has the alignment of f32.
        unsafe { to.cast::<Self::V>().write(v) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // `f32::mul_add` is a call into the C library where the instruction is missing.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn round(self, v: Self::V) -> Self::V {
        v.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn exp2i(self, n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { yes[i] } else { no[i] })
    }

    #[inline(always)]
    fn sum4(self, v: [Self::V; 4]) -> [f32; 4] {
        v.map(|v| ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])))
    }
}
