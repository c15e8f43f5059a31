//! `vlmd check` on this machine.

use serde_json::Value;

use crate::support::vlmd;

#[test]
fn the_cpu_is_checked_and_said_to_be_no_gpu() {
    let mut command = vlmd();
    let out = command
        .args(["check", "--device", "cpu", "--quick", "--json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(out.status.success(), "{report:#}");
    assert_eq!(report["version"], 1);
    assert_eq!(report["ok"], true);
    assert_eq!(report["device"], "cpu");
    assert_eq!(report["quick"], true);
    let sentence = report["sentence"].as_str().unwrap();
    assert!(sentence.ends_with("No GPU was checked"), "{sentence}");

    let kernels = report["kernels"].as_array().unwrap();
    for name in ["linear, decode", "rms_norm", "paged_attention, prefill"] {
        assert!(
            kernels.iter().any(|kernel| kernel["name"] == name),
            "{name}"
        );
    }
    for kernel in kernels {
        assert_eq!(kernel["ok"], true, "{kernel}");
        let (error, bound) = (kernel["error"].as_f64(), kernel["bound"].as_f64());
        assert!(error.unwrap() <= bound.unwrap(), "{kernel}");
        assert!(kernel["seconds"].as_f64().unwrap() > 0.0);
        assert!(kernel["share_of_limit"].as_f64().unwrap() >= 0.0);
    }
    let goldens = report["goldens"].as_array().unwrap();
    assert_eq!(goldens.len(), 1);
    assert_eq!(goldens[0]["equal"], goldens[0]["of"]);
    assert!(goldens[0]["of"].as_u64().unwrap() >= 4);
    let limits = &report["limits"];
    assert!(limits["copy_bytes_per_second"].as_f64().unwrap() > 0.0);
    assert!(limits["matmul_flops_per_second"]["f32"].as_f64().unwrap() > 0.0);
}

#[test]
fn people_read_the_same() {
    let mut command = vlmd();
    let out = command
        .args(["check", "--device", "cpu", "--quick"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}");
    assert!(text.contains("ok     the embedded model in f32"), "{text}");
    assert!(!text.contains("WRONG"), "{text}");
}

#[test]
fn a_card_that_is_not_there_is_not_checked() {
    for arguments in [vec![], vec!["--json"]] {
        let mut command = vlmd();
        let command = command.args(["check", "--device", "cuda:93", "--quick"]);
        let out = command.args(&arguments).output().unwrap();
        assert_eq!(out.status.code(), Some(1));
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(text.contains("nothing was checked"), "{text}");
        if arguments == ["--json"] {
            let report: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                (&report["version"], &report["ok"]),
                (&1.into(), &false.into())
            );
        }
    }
}
