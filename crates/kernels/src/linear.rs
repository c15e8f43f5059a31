//! Linear layers.

use candle_core::{D, DType, Result, Tensor, bail};

use crate::{cpu, portable};

/// `y = x W^T + b`, with the weight kept in the dtype that it was given in.
///
/// On the CPU `x` and `y` are f32 and every `y` is the same sum in the same order for any
/// number of rows, so a row alone and a row in a batch are equal to the last bit.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    out_features: usize,
    in_features: usize,
}

impl Linear {
    /// `weight` is `[out, in]`, f32, f16 or bf16; `bias` is `[out]`.
    ///
    /// # Errors
    /// When the shapes do not fit or the weight's dtype is another.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a layer owns its weight; a contiguous one is moved in without a copy"
    )]
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims1()? != out_features
        {
            bail!(
                "a bias of {:?} does not fit a weight of {:?}",
                bias.shape(),
                weight.shape()
            );
        }
        if !matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            bail!(
                "a weight must be f32, f16 or bf16, not {:?}",
                weight.dtype()
            );
        }
        let weight = weight.contiguous()?;
        // The CPU adds biases in f32; elsewhere the layer computes in the weight's dtype.
        let bias = bias
            .map(|bias| {
                if bias.device().is_cpu() {
                    bias.to_dtype(DType::F32)?.contiguous()
                } else {
                    bias.to_dtype(weight.dtype())
                }
            })
            .transpose()?;
        Ok(Self {
            weight,
            bias,
            out_features,
            in_features,
        })
    }

    /// `x` is `[.., in]`, the result `[.., out]`, both f32 on the CPU and of the weight's dtype
    /// elsewhere.
    ///
    /// # Errors
    /// When the last dimension of `x` is not `in`, or the device fails.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.rank() == 0 || x.dim(D::Minus1)? != self.in_features {
            bail!(
                "a linear layer of {} inputs cannot take {:?}",
                self.in_features,
                x.shape()
            );
        }
        let mut shape = x.dims().to_vec();
        shape.pop();
        let rows = shape.iter().product::<usize>();
        shape.push(self.out_features);
        let x = x.reshape((rows, self.in_features))?;
        let y = if x.device().is_cpu() {
            cpu::linear(&x, &self.weight, self.bias.as_ref())?
        } else {
            portable::linear(&x, &self.weight, self.bias.as_ref())?
        };
        y.reshape(shape)
    }

    /// Length of a result's last dimension.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Length of an input's last dimension.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.in_features
    }
}
