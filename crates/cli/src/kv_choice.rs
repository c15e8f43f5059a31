//! What the command line says of the type of cached keys and values.

use std::str::FromStr;

use vlmd_backend::KvDtype;
use vlmd_kernels::Place;

use crate::args::Precision;

/// `auto`, or a type by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KvChoice {
    Auto,
    Of(KvDtype),
}

impl FromStr for KvChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().map(Self::Of).map_err(|_| {
            // vLLM's names, which people bring along.
            let hint = if text.starts_with("fp8") {
                "; there are no floats of 8 bits, int8 takes as little"
            } else {
                ""
            };
            format!("expected auto, f32, f16, bf16 or int8{hint}")
        })
    }
}

impl KvChoice {
    /// The type for a model on `place` whose weights were asked for as `weights`.
    pub(crate) fn resolve(self, place: Place, weights: Precision) -> KvDtype {
        match (self, weights) {
            (Self::Of(dtype), _) => dtype,
            (Self::Auto, _) if place == Place::Cpu => KvDtype::F32,
            (Self::Auto, Precision::F32) => KvDtype::F32,
            (Self::Auto, Precision::F16) => KvDtype::F16,
            (Self::Auto, Precision::Bf16 | Precision::Auto) => KvDtype::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn every_type_can_be_named() {
        for dtype in KvDtype::ALL {
            assert_eq!(dtype.as_str().parse(), Ok(KvChoice::Of(dtype)));
            let resolved = KvChoice::Of(dtype).resolve(Place::Cpu, Precision::F16);
            assert_eq!(resolved, dtype);
        }
        assert_eq!("auto".parse(), Ok(KvChoice::Auto));
        assert_eq!(
            KvChoice::Auto.resolve(Place::Cpu, Precision::Bf16),
            KvDtype::F32
        );
    }

    #[test]
    fn other_names_are_refused_with_those_that_there_are() {
        let all = "expected auto, f32, f16, bf16 or int8";
        for (name, hint) in [
            (
                "fp8",
                "; there are no floats of 8 bits, int8 takes as little",
            ),
            (
                "fp8_e4m3",
                "; there are no floats of 8 bits, int8 takes as little",
            ),
            ("int4", "\n"),
            ("INT8", "\n"),
            ("", "\n"),
        ] {
            let flag = format!("--kv-cache-dtype={name}");
            let error = Cli::try_parse_from(["vlmd", &flag]).unwrap_err();
            let text = error.to_string();
            assert!(text.contains(&format!("{all}{hint}")), "{text}");
            assert!(text.contains("--kv-cache-dtype"), "{text}");
        }
    }
}
