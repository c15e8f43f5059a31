//! What was found, for people and for programs.

use serde_json::{Value, json};
use vlmd_kernels::Place;

use super::examine::Finding;
use super::goldens::Answers;
use super::machine::Cuda;
use super::measure::Limits;

/// Raised when a key of the JSON changes its meaning or goes.
pub(super) const VERSION: u32 = 1;

/// All that was found.
#[derive(Debug, Clone)]
pub(super) struct Report {
    /// What was checked, in words.
    pub(super) device: String,
    pub(super) place: Place,
    /// Speeds mean nothing.
    pub(super) quick: bool,
    pub(super) cuda: Cuda,
    /// See [`Cuda::runs_kernels`].
    pub(super) runs_kernels: Option<bool>,
    pub(super) limits: Limits,
    pub(super) kernels: Vec<Finding>,
    pub(super) goldens: Vec<Answers>,
}

impl Report {
    /// The verdict.
    pub(super) fn ok(&self) -> bool {
        self.faults().is_empty()
    }

    /// What is wrong.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.runs_kernels == Some(false) {
            faults.push("the kernels are not for this card".to_owned());
        }
        if self.kernels.is_empty() {
            faults.push("no kernel was checked".to_owned());
        }
        let wrong = self.kernels.iter().filter(|finding| !finding.ok()).count();
        if wrong > 0 {
            faults.push(format!(
                "{wrong} of {} kernels are wrong",
                self.kernels.len()
            ));
        }
        if self.goldens.is_empty() {
            faults.push("the embedded model was not asked".to_owned());
        }
        for answers in self.goldens.iter().filter(|answers| !answers.ok()) {
            faults.push(format!(
                "in {} the embedded model gives {} of {} answers",
                answers.dtype,
                answers.equal(),
                answers.of
            ));
        }
        faults
    }

    /// The verdict in a sentence, which says what was checked and never more.
    fn sentence(&self) -> String {
        let faults = self.faults();
        let verdict = if faults.is_empty() {
            "right: kernels and answers are as they should be".to_owned()
        } else {
            format!("WRONG: {}", faults.join("; "))
        };
        let sentence = format!("checked {}: {verdict}", self.device);
        match self.place {
            Place::Cuda => sentence,
            Place::Cpu => format!("{sentence}. No GPU was checked"),
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = self.cuda.text();
        let rate = |rate: f64| format!("{:.1} G", rate / 1e9);
        if !self.quick {
            text += &format!("limits: copies {}B/s", rate(self.limits.copy));
            for (dtype, flops) in &self.limits.matmul {
                text += &format!(", {} products {}FLOP/s", dtype.as_str(), rate(*flops));
            }
            text.push('\n');
        }
        let names = self.kernels.iter().map(|finding| finding.name.len());
        let width = names.max().unwrap_or_default();
        let shapes = self.kernels.iter().map(|finding| finding.shape.len());
        let shape_width = shapes.max().unwrap_or_default();
        for finding in &self.kernels {
            let speed = if self.quick {
                String::new()
            } else {
                let (micros, share) = (finding.seconds * 1e6, 100.0 * finding.share);
                format!("  {micros:>9.0} us  {share:>3.0}% of the limit")
            };
            text += &format!(
                "{:<5}  {:<width$}  {:<4}  {:<shape_width$}  off by {:.1e} of at most {:.1e}{speed}\n",
                if finding.ok() { "ok" } else { "WRONG" },
                finding.name,
                finding.dtype,
                finding.shape,
                finding.error,
                finding.bound,
            );
        }
        for answers in &self.goldens {
            text += &format!(
                "{:<5}  the embedded model in {}: {} of {} answers are those of its goldens{}\n",
                if answers.ok() { "ok" } else { "WRONG" },
                answers.dtype,
                answers.equal(),
                answers.of,
                if answers.required {
                    ""
                } else {
                    " (counted, not required)"
                },
            );
            for [question, expected, answer] in &answers.differing {
                text += &format!("       `{question}`: `{answer}`, not `{expected}`\n");
            }
        }
        text + &self.sentence() + "\n"
    }

    pub(super) fn json(&self) -> Value {
        let kernel = |finding: &Finding| {
            json!({
                "name": finding.name,
                "dtype": finding.dtype,
                "shape": finding.shape,
                // JSON has no infinity.
                "error": finding.error.is_finite().then_some(finding.error),
                "bound": finding.bound,
                "ok": finding.ok(),
                "seconds": finding.seconds,
                "share_of_limit": finding.share,
            })
        };
        json!({
            "version": VERSION,
            "vlmd": env!("CARGO_PKG_VERSION"),
            "ok": self.ok(),
            "sentence": self.sentence(),
            "faults": self.faults(),
            "device": match self.place {
                Place::Cpu => "cpu",
                Place::Cuda => "cuda",
            },
            "device_name": self.device,
            "quick": self.quick,
            "cuda": self.cuda.json(),
            "limits": self.limits.json(),
            "kernels": self.kernels.iter().map(kernel).collect::<Vec<_>>(),
            "goldens": self.goldens.iter().map(Answers::json).collect::<Vec<_>>(),
        })
    }
}
