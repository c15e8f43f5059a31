//! `NIM_MODEL_PROFILE`.

use super::super::{Environment, Notes, Wish};
use super::value;
use crate::nim::profiles::Chosen;

const PROFILE: &str = "NIM_MODEL_PROFILE";

/// The type of the weights, and the model, that a profile stands for. Profiles of NIM's own images
/// are not known and not followed: their names say a type, but their ids nothing. `models` are those that are named otherwise.
pub(super) fn wishes(environment: &Environment, models: &[&str], notes: &mut Notes) -> Vec<Wish> {
    let Some(said) = value(environment, PROFILE) else {
        return Vec::new();
    };
    let Some(Chosen { model, dtype }) = Chosen::by_name(said, models) else {
        notes.warnings.push(format!(
            "{PROFILE}=`{said}` is not followed: it is none of those that `list-model-profiles` \
             names"
        ));
        return Vec::new();
    };
    let wish = |argument: &str, value: &str| Wish {
        variable: PROFILE,
        argument: argument.to_owned(),
        said: said.to_owned(),
        values: vec![value.to_owned()],
    };
    let model = model.map(|model| wish("model", &model));
    model.into_iter().chain([wish("dtype", dtype)]).collect()
}
