//! Norms; see `cuda/norms.cu`.

#![expect(unsafe_code, reason = "kernels are launched")]

use candle_core::{D, Result, Tensor};

use super::launch::{Argument, Grid, Module, launch, module, suffix, unwritten};

const NORMS: Module = module!("norms");

/// Threads that a row is given: enough that each has one wide load of 16-bit numbers to do.
fn threads(width: usize) -> usize {
    width.div_ceil(8).next_multiple_of(32).min(1024)
}

/// What the norms have in common.
struct Norm<'a> {
    kernel: &'a str,
    x: &'a Tensor,
    added: Option<&'a Tensor>,
    weight: &'a Tensor,
    bias: Option<&'a Tensor>,
    eps: f32,
}

impl Norm<'_> {
    /// The sum, or a copy of `x` where nothing is added, and its norm.
    fn run(self) -> Result<(Tensor, Tensor)> {
        let x = self.x.contiguous()?;
        let added = self.added.map(Tensor::contiguous).transpose()?;
        let own = |parameter: &Tensor| parameter.to_dtype(x.dtype())?.contiguous();
        let weight = own(self.weight)?;
        let bias = self.bias.map(own).transpose()?;
        if x.elem_count() == 0 {
            return Ok((x.clone(), x));
        }
        let width = x.dim(D::Minus1)?;
        // SAFETY: the kernel writes all rows of both, of the sum if there is something to add.
        let (sum, out) = unsafe {
            let sum = added.as_ref().map(|_| unwritten(x.dims(), &x));
            (sum.transpose()?, unwritten(x.dims(), &x)?)
        };
        let mut arguments = vec![
            Argument::Tensor(&x),
            Argument::optional(added.as_ref()),
            Argument::optional(sum.as_ref()),
            Argument::Tensor(&weight),
        ];
        arguments.extend(bias.as_ref().map(Argument::Tensor));
        arguments.extend([
            Argument::Tensor(&out),
            Argument::Int(width),
            Argument::Float(self.eps),
        ]);
        let kernel = format!("{}_{}", self.kernel, suffix(x.dtype())?);
        let grid = Grid {
            blocks: (x.elem_count() / width, 1),
            threads: threads(width),
        };
        // SAFETY: the parameters of `norms.cu`; all arrays are dense, of one dtype and, as the
        // public functions check, as wide as `x`, and those added to each other of one shape.
        unsafe { launch(x.device(), NORMS, &kernel, grid, &arguments) }?;
        Ok((sum.unwrap_or(x), out))
    }
}

/// See [`crate::rms_norm`] and [`crate::add_rms_norm`]; gives the sum, too.
pub(crate) fn rms_norm(
    x: &Tensor,
    added: Option<&Tensor>,
    weight: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    Norm {
        kernel: "rms_norm",
        x,
        added,
        weight,
        bias: None,
        eps,
    }
    .run()
}

/// See [`crate::layer_norm`] and [`crate::add_layer_norm`]; gives the sum, too.
pub(crate) fn layer_norm(
    x: &Tensor,
    added: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    Norm {
        kernel: "layer_norm",
        x,
        added,
        weight,
        bias: Some(bias),
        eps,
    }
    .run()
}
