//! One output that several threads write to.

#![expect(
    unsafe_code,
    reason = "threads write to interleaved parts of one slice, which borrows cannot express"
)]

use std::marker::PhantomData;

/// A slice whose elements threads write to without ever meeting: columns of a matrix, heads of
/// a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a `&mut [f32]`, which may be sent; that two threads do not write to the same
// element is a duty of those who call its unsafe methods.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above; nothing can be written through a `&Shared` but by unsafe methods.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(crate) fn new(slice: &'a mut [f32]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// As long as the part is used, no one else reads or writes its elements.
    ///
    /// # Panics
    /// When it is not within the slice.
    #[expect(
        clippy::mut_from_ref,
        reason = "the caller promises that parts are disjoint"
    )]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [f32] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within the slice, as just checked, and not aliased, by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
