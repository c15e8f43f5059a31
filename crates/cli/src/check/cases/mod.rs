//! The kernels that are checked: one table, a line for each.
//!
//! A case is made on the CPU in f32, rounded to the type that it is about, and brought to
//! wherever it is computed. A new kernel gets a line in [`TABLE`] and a function that makes its
//! tensors and says how to compute with them, by itself and by its twin.

mod attention;
mod choice;
mod int8;
mod linear;
mod pictures;
mod rows;

use candle_core::{DType, Device, Result, Tensor};
use vlmd_kernels::Place;

use super::noise::Noise;
use super::sizes::Sizes;

/// A kernel of the table.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) name: &'static str,
    /// Which types it is checked in.
    kinds: Kinds,
    pub(super) make: fn(&Sizes, DType, &mut Noise) -> Result<Case>,
}

/// What a kernel's types are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    /// Of weights or of a cache, which have any on any device.
    Stored,
    /// Of activations, which are f32 on a CPU.
    Computed,
    /// Always f32.
    Wide,
}

/// Every kernel, in the order of a layer.
pub(super) const TABLE: &[Kernel] = &[
    Kernel {
        name: "linear, decode",
        kinds: Kinds::Stored,
        make: linear::decode,
    },
    Kernel {
        name: "linear, prefill",
        kinds: Kinds::Stored,
        make: linear::prefill,
    },
    Kernel {
        name: "rms_norm",
        kinds: Kinds::Stored,
        make: rows::rms_norm,
    },
    Kernel {
        name: "add, rms_norm",
        kinds: Kinds::Stored,
        make: rows::add_rms_norm,
    },
    Kernel {
        name: "layer_norm",
        kinds: Kinds::Stored,
        make: rows::layer_norm,
    },
    Kernel {
        name: "swiglu",
        kinds: Kinds::Computed,
        make: rows::swiglu,
    },
    Kernel {
        name: "gelu",
        kinds: Kinds::Computed,
        make: rows::gelu,
    },
    Kernel {
        name: "quick_gelu",
        kinds: Kinds::Computed,
        make: rows::quick_gelu,
    },
    Kernel {
        name: "squared_relu",
        kinds: Kinds::Computed,
        make: rows::squared_relu,
    },
    Kernel {
        name: "softmax",
        kinds: Kinds::Computed,
        make: rows::softmax,
    },
    Kernel {
        name: "rope",
        kinds: Kinds::Computed,
        make: rows::rope,
    },
    Kernel {
        name: "write_kv",
        kinds: Kinds::Stored,
        make: attention::write_kv,
    },
    Kernel {
        name: "write_kv, int8",
        kinds: Kinds::Computed,
        make: int8::write_kv,
    },
    Kernel {
        name: "qkv, rope, write_kv",
        kinds: Kinds::Stored,
        make: attention::qkv_rope_write,
    },
    Kernel {
        name: "qkv, rope, write_kv, int8",
        kinds: Kinds::Computed,
        make: int8::qkv_rope_write,
    },
    Kernel {
        name: "paged_attention, decode",
        kinds: Kinds::Stored,
        make: attention::decode,
    },
    Kernel {
        name: "paged_attention, decode, int8",
        kinds: Kinds::Computed,
        make: int8::decode,
    },
    Kernel {
        name: "paged_attention, prefill",
        kinds: Kinds::Stored,
        make: attention::prefill,
    },
    Kernel {
        name: "paged_attention, mixed",
        kinds: Kinds::Stored,
        make: attention::mixed,
    },
    Kernel {
        name: "patches, 8 bits a colour",
        kinds: Kinds::Computed,
        make: pictures::level_patches,
    },
    Kernel {
        name: "patches, normalised",
        kinds: Kinds::Computed,
        make: pictures::value_patches,
    },
    Kernel {
        name: "attention, a picture's",
        kinds: Kinds::Computed,
        make: attention::picture,
    },
    Kernel {
        name: "attention, to pictures",
        kinds: Kinds::Computed,
        make: attention::looking,
    },
    Kernel {
        name: "attention, a row's to a picture",
        kinds: Kinds::Computed,
        make: attention::looking_alone,
    },
    Kernel {
        name: "draw",
        kinds: Kinds::Wide,
        make: choice::draw,
    },
];

/// The types that a kernel is checked in on `place`.
pub(super) fn dtypes(kernel: &Kernel, place: Place) -> impl Iterator<Item = DType> + use<> {
    let all = [DType::F32, DType::F16, DType::BF16];
    let wide_alone = match kernel.kinds {
        Kinds::Stored => false,
        Kinds::Computed => place == Place::Cpu,
        Kinds::Wide => true,
    };
    all.into_iter()
        .filter(move |dtype| !wide_alone || *dtype == DType::F32)
}

/// The type of activations where weights have `dtype`.
pub(super) fn activations(place: Place, dtype: DType) -> DType {
    match place {
        Place::Cpu => DType::F32,
        Place::Cuda => dtype,
    }
}

/// Whose result is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// That of the function which serves.
    Kernel,
    /// That of its twin.
    Twin,
}

/// What a tensor is in a layer, which decides about its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// f32 on a CPU.
    Activation,
    /// The case's type wherever it is.
    Stored,
    /// As it was made.
    Plain,
}

/// What a kernel must do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Bytes that it must read and write at the least.
    pub(super) bytes: usize,
    /// Multiplications and additions.
    pub(super) flops: usize,
}

/// A computation that is ready to run, again and again. Each of its results is looked at.
pub(super) type Run = Box<dyn Fn() -> Result<Vec<Tensor>>>;

/// Makes one of a case's tensors, which are on the device: what a server does once for all layers,
/// or for all steps, is done here and not timed.
type Prepare = Box<dyn Fn(&[Tensor], &Device, Route) -> Result<Run>>;

/// Tensors for a kernel, and how to compute with them.
pub(super) struct Case {
    pub(super) dtype: DType,
    /// In words.
    pub(super) shape: String,
    inputs: Vec<(Role, Tensor)>,
    pub(super) work: Work,
    /// What it may be off, where that is not a matter of its type.
    pub(super) bound: Option<f64>,
    pub(super) prepare: Prepare,
}

impl Case {
    /// A case in `dtype`; inputs are f32 on the CPU, where they are not plain.
    pub(super) fn new(
        dtype: DType,
        shape: String,
        inputs: Vec<(Role, Tensor)>,
        work: Work,
        prepare: impl Fn(&[Tensor], &Device, Route) -> Result<Run> + 'static,
    ) -> Self {
        Self {
            dtype,
            shape,
            inputs,
            work,
            bound: None,
            prepare: Box::new(prepare),
        }
    }

    /// The inputs where they are computed with. All are rounded to the case's type first, so that
    /// every device begins with the same numbers.
    pub(super) fn inputs_on(&self, device: &Device) -> Result<Vec<Tensor>> {
        let place = Place::of(device);
        let input = |(role, tensor): &(Role, Tensor)| {
            let tensor = match role {
                Role::Plain => tensor.clone(),
                Role::Stored => tensor.to_dtype(self.dtype)?,
                Role::Activation => tensor
                    .to_dtype(self.dtype)?
                    .to_dtype(activations(place, self.dtype))?,
            };
            // A copy: caches are written to, and every route begins with the same.
            tensor.copy()?.to_device(device)
        };
        self.inputs.iter().map(input).collect()
    }

    pub(super) fn dtype_name(&self) -> &'static str {
        self.dtype.as_str()
    }
}

/// The inputs as an array, which a case has as many of as it was made with.
fn of<const N: usize>(inputs: &[Tensor]) -> Result<[Tensor; N]> {
    match <&[Tensor; N]>::try_from(inputs) {
        Ok(inputs) => Ok(inputs.clone()),
        Err(_) => candle_core::bail!("a case of {N} tensors has {}", inputs.len()),
    }
}

/// A computation with one result.
pub(super) fn run(compute: impl Fn() -> Result<Tensor> + 'static) -> Result<Run> {
    Ok(Box::new(move || Ok(vec![compute()?])))
}
