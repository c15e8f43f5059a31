//! Encoders that can be stopped between two pieces of work.

use candle_core::{Result, Tensor};

/// Pictures on their way through the encoder.
///
/// On a CPU one picture can take as long as many steps. Whoever encodes it in pieces, with steps
/// of running answers in between, holds nobody up. Encodings of one model do not know of each
/// other; they own their state, share the weights, and free it wherever they are dropped.
pub trait Encoding: Send {
    /// Work that is left, in units of about equal cost for one model: one layer of its tower over
    /// one view of a picture, or over some hundred tokens where a view is larger. 0 when done.
    fn remaining(&self) -> usize;

    /// Does the next pieces: at least one, and no more than about `units` of work unless that one
    /// is more. Many units at once make wide passes, for the sake of accelerators; a CPU takes the
    /// same time for either. An accelerator may still be at it when this returns.
    ///
    /// # Errors
    /// When the device fails. The encoding is then to be dropped.
    fn advance(&mut self, units: usize) -> Result<()>;

    /// Features of each picture, as [`Model::encode`](crate::Model::encode) describes them.
    ///
    /// # Errors
    /// When there is work left, or the device fails.
    fn finish(self: Box<Self>) -> Result<Vec<Tensor>>;
}

/// Features that are there already.
impl Encoding for Vec<Tensor> {
    fn remaining(&self) -> usize {
        0
    }

    fn advance(&mut self, _units: usize) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Tensor>> {
        Ok(*self)
    }
}
