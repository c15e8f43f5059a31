//! Fields of configuration files: how they are checked, and what is said of those that are wrong.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::LoadError;

/// A configuration file, by its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigFile(pub(crate) &'static str);

/// Where Hugging Face checkpoints keep their configuration.
pub(crate) const CONFIG: ConfigFile = ConfigFile("config.json");

/// Where Hugging Face checkpoints keep the settings of their pictures.
pub(crate) const PREPROCESSOR: ConfigFile = ConfigFile("preprocessor_config.json");

impl ConfigFile {
    /// "`field` must `bound`, but is `value`".
    pub(crate) fn must(self, field: &str, bound: impl Display, value: impl Display) -> LoadError {
        LoadError::invalid(self.0, format!("`{field}` must {bound}, but is {value}"))
    }

    /// Checks a number.
    pub(crate) fn within(
        self,
        field: &str,
        value: usize,
        bounds: RangeInclusive<usize>,
    ) -> Result<(), LoadError> {
        if bounds.contains(&value) {
            return Ok(());
        }
        let (least, most) = bounds.into_inner();
        Err(self.must(field, format!("be between {least} and {most}"), value))
    }

    /// Checks that `parts`, at least 1, of the field `by` divide `whole`.
    pub(crate) fn multiple(
        self,
        field: &str,
        whole: usize,
        by: &str,
        parts: usize,
    ) -> Result<(), LoadError> {
        if whole.is_multiple_of(parts) {
            return Ok(());
        }
        Err(self.must(field, format!("be a multiple of `{by}` ({parts})"), whole))
    }

    /// Checks a number that others are multiplied with or divided by.
    pub(crate) fn positive(self, field: &str, value: f64) -> Result<(), LoadError> {
        if value.is_finite() && value > 0.0 {
            return Ok(());
        }
        Err(self.must(field, "be above 0 and finite", value))
    }

    /// A norm's epsilon, which is added to a variance or mean square before its root is taken.
    pub(crate) fn eps(self, field: &str, eps: f64) -> Result<f32, LoadError> {
        if (0.0..1.0).contains(&eps) {
            return Ok(eps as f32);
        }
        Err(self.must(field, "be at least 0 and below 1", eps))
    }

    /// What `name`, one of several names, stands for.
    pub(crate) fn choice<T: Copy>(
        self,
        field: &str,
        name: &str,
        known: &[(&str, T)],
    ) -> Result<T, LoadError> {
        let found = known.iter().find(|(known, _)| *known == name);
        found.map(|&(_, value)| value).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.must(field, format!("be {}", names.join(" or ")), name)
        })
    }

    /// Checks that a name is the one that there is.
    pub(crate) fn only(self, field: &str, name: &str, known: &str) -> Result<(), LoadError> {
        self.choice(field, name, &[(known, ())])
    }

    /// Checks flags that must not be false; what is left out is true.
    pub(crate) fn all_true(self, flags: &[(&str, Option<bool>)]) -> Result<(), LoadError> {
        match flags.iter().find(|(_, flag)| *flag == Some(false)) {
            Some((field, _)) => Err(self.must(field, "be true", false)),
            None => Ok(()),
        }
    }
}
