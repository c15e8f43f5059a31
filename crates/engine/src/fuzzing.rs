//! Doors for the fuzz targets of `tests/fuzz`; in no other build.

use vlmd_backend::{ModelSpec, Prepared};

/// What [`Engine::submit`](crate::Engine::submit) would say against a prompt for such a model.
///
/// # Errors
/// What is wrong with it.
pub fn check_prompt(prompt: &Prepared, spec: &ModelSpec) -> Result<(), String> {
    crate::prompt::check(prompt, spec)
}
