//! The verdict: what is right passes, and what is wrong does not.

use candle_core::{DType, Device, Tensor};
use vlmd_kernels::Place;

use super::cases::{Case, Role, Route, Work, run};
use super::examine::{error, examine};
use super::goldens::Answers;
use super::*;

fn limits() -> Limits {
    Limits {
        copy: 1e9,
        matmul: vec![(DType::F32, 1e9)],
    }
}

/// A case whose kernel gives the twin's result times `factor`.
fn case(factor: f64) -> Case {
    let x = Tensor::arange(0f32, 12., &Device::Cpu).unwrap();
    let work = Work {
        bytes: 96,
        flops: 0,
    };
    let inputs = vec![(Role::Activation, x)];
    Case::new(
        DType::F32,
        "12".to_owned(),
        inputs,
        work,
        move |inputs, _, route| {
            let by = if route == Route::Kernel { factor } else { 1.0 };
            let x = inputs[0].clone();
            run(move || x.affine(by, 0.0))
        },
    )
}

fn report(factor: f64) -> Report {
    let sizes = Sizes::of(Place::Cpu, true);
    let finding = examine("doubtful", &case(factor), &Device::Cpu, &limits(), &sizes);
    Report {
        device: "the CPU".to_owned(),
        place: Place::Cpu,
        quick: true,
        cuda: Cuda::find(),
        runs_kernels: None,
        limits: limits(),
        kernels: vec![finding.unwrap()],
        goldens: vec![Answers {
            dtype: "f32",
            required: true,
            of: 2,
            differing: Vec::new(),
        }],
    }
}

#[test]
fn a_wrong_kernel_fails_the_check() {
    let right = report(1.0);
    assert!(right.ok(), "{}", right.text());
    assert_eq!(right.json()["ok"], true);
    for factor in [1.001, 0.0, -1.0, f64::NAN] {
        let wrong = report(factor);
        assert!(!wrong.ok(), "{factor}");
        let text = wrong.text();
        assert!(text.contains("WRONG  doubtful"), "{text}");
        assert!(text.contains("1 of 1 kernels are wrong"), "{text}");
        assert_eq!(wrong.json()["ok"], false);
        assert_eq!(wrong.json()["kernels"][0]["ok"], false);
    }
}

#[test]
fn a_wrong_answer_fails_the_check_where_it_must_be_right() {
    let mut wrong = report(1.0);
    let differs = ["Which?", "This.", "That."].map(str::to_owned);
    wrong.goldens[0].differing.push(differs);
    assert!(!wrong.ok());
    let text = wrong.text();
    assert!(text.contains("`Which?`: `That.`, not `This.`"), "{text}");
    assert!(text.contains("gives 1 of 2 answers"), "{text}");
    // In 16 bits it is told, and no more.
    wrong.goldens[0].required = false;
    assert!(wrong.ok() && wrong.text().contains("counted, not required"));
}

#[test]
fn what_was_not_looked_at_is_not_right() {
    let mut report = report(1.0);
    report.goldens.clear();
    assert!(!report.ok());
    report.goldens = self::report(1.0).goldens;
    report.kernels.clear();
    assert!(!report.ok());
    report.kernels = self::report(1.0).kernels;
    assert!(report.ok());
    report.runs_kernels = Some(false);
    assert!(!report.ok());
}

#[test]
fn nobody_is_told_of_a_gpu_that_was_not_checked() {
    let text = report(1.0).text();
    assert!(text.ends_with("No GPU was checked\n"), "{text}");
}

#[test]
fn errors_are_relative_to_the_largest_number() {
    let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
    let twin = tensor(&[1.0, -4.0]);
    let of = |values: &[f32]| error(&tensor(values), &twin).unwrap();
    assert_eq!(of(&[1.0, -4.0]), 0.0);
    assert!((of(&[2.0, -4.0]) - 0.25).abs() < 1e-9);
    assert_eq!(of(&[f32::NAN, -4.0]), f64::INFINITY);
    assert_eq!(of(&[1.0]), f64::INFINITY);
    let nothing = tensor(&[0.0]);
    assert_eq!(error(&nothing, &nothing).unwrap(), 0.0);
    assert_eq!(error(&tensor(&[0.1]), &nothing).unwrap(), f64::INFINITY);
}

#[test]
fn every_kernel_of_the_table_is_right_here() {
    let sizes = Sizes::of(Place::Cpu, true);
    let mut noise = Noise::new();
    let mut checked = 0;
    for kernel in cases::TABLE {
        for dtype in cases::dtypes(kernel, Place::Cpu) {
            let case = (kernel.make)(&sizes, dtype, &mut noise).unwrap();
            let found = examine(kernel.name, &case, &Device::Cpu, &limits(), &sizes).unwrap();
            assert!(found.ok(), "{found:?}");
            checked += 1;
        }
    }
    // Ten that have weights or a cache, in three types; the others in one.
    assert_eq!(checked, 10 * 3 + (cases::TABLE.len() - 10));
}
