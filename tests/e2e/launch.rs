//! Handing over to the program that is compiled for the cards, with a driver's library that says
//! there are such cards as a variable names.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Server, clean};

/// The driver's functions that are asked. `CARDS` lists capabilities, such as `86 89`.
const DRIVER: &str = r#"
#include <stdlib.h>
#include <string.h>
static int card(int which, int *count) {
    const char *list = getenv("CARDS");
    int found = 0, here = 0;
    for (char *end; list && *list; list = end) {
        const int next = (int)strtol(list, &end, 10);
        if (end == list) break;
        if (found++ == which) here = next;
    }
    if (count) *count = found;
    return here;
}
int cuInit(unsigned flags) { return flags ? 1 : 0; }
int cuDeviceGetCount(int *count) { return card(-1, count), 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const int capability = card(device, 0);
    if (attribute == 75) *value = capability / 10;
    else if (attribute == 76) *value = capability % 10;
    else return 1;
    return 0;
}
"#;

/// An image's files: `bin/vlmd`, the names of NIM's executables, and programs in `lib/vlmd` that
/// print what they were called with.
struct Image(TempDir);

impl Image {
    fn new() -> Self {
        // Where the binary is, so that it can have a second name there.
        let image = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = image.path();
        for folder in ["bin", "lib/vlmd", "driver"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::hard_link(env!("CARGO_BIN_EXE_vlmd"), root.join("bin/vlmd")).unwrap();
        for name in ["nim-serve", "list-model-profiles"] {
            symlink("vlmd", root.join("bin").join(name)).unwrap();
        }
        for family in ["sm80", "sm86", "sm90"] {
            let path = root.join("lib/vlmd").join(format!("vlmd-{family}"));
            script(&path, &format!("echo {family} \"$@\""));
        }
        let source = root.join("driver/cuda.c");
        std::fs::write(&source, DRIVER).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]);
        compiler.args([&root.join("driver/libcuda.so.1"), &source]);
        assert!(compiler.status().unwrap().success());
        Self(image)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program of the image on a host with `cards`.
    fn command(&self, program: &str, cards: &str) -> Command {
        let mut command = Command::new(self.path("bin").join(program));
        clean(&mut command);
        command.env("LD_LIBRARY_PATH", self.path("driver"));
        command.env("CARDS", cards);
        command
    }

    /// Whether it ended well, what it printed, and what it complained of.
    fn run(&self, program: &str, cards: &str, arguments: &[&str]) -> (bool, String, String) {
        outcome(self.command(program, cards).args(arguments))
    }
}

fn outcome(command: &mut Command) -> (bool, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn script(path: &Path, line: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_program_for_the_card_goes_on_with_the_same_arguments() {
    let image = Image::new();
    for (cards, device, family) in [
        ("80", "auto", "sm80"),
        ("89", "auto", "sm86"),
        ("90", "cuda", "sm90"),
        ("90 80", "cuda:1", "sm80"),
        ("89 80", "auto", "sm80"),
    ] {
        let (_, printed, told) = image.run("vlmd", cards, &["serve", "--device", device]);
        assert_eq!(
            printed,
            format!("{family} serve --device {device}"),
            "{told}"
        );
    }
    // Arguments of another engine are told apart by the program that serves.
    let (_, printed, _) = image.run(
        "nim-serve",
        "80",
        &["--max_num_seqs", "8", "--dtype", "half"],
    );
    assert_eq!(printed, "sm80 --max_num_seqs 8 --dtype half");
    let (_, printed, _) = image.run("list-model-profiles", "86", &[]);
    assert_eq!(printed, "sm86");
}

#[test]
fn who_plans_or_checks_asks_the_program_that_serves() {
    let image = Image::new();
    for arguments in [&["check", "--json"][..], &["serve", "--plan-only"]] {
        let (well, printed, told) = image.run("vlmd", "86", arguments);
        assert!(well, "{told}");
        assert_eq!(printed, format!("sm86 {}", arguments.join(" ")));
    }
    // Any program can plan for a card that is not there.
    let stated = ["serve", "--plan-only=json", "--gpu-memory", "8GB"];
    let (well, printed, told) = image.run("vlmd", "86", &stated);
    assert!(well && printed.starts_with('{'), "{told}");
}

#[test]
fn what_needs_no_card_asks_for_none() {
    let image = Image::new();
    let (well, printed, _) = image.run("vlmd", "80", &["models"]);
    assert!(well && printed.contains("vlmd/tiny"), "{printed}");
    let mut command = image.command("list-model-profiles", "80");
    let (well, printed, _) = outcome(command.env("VLMD_DEVICE", "cpu"));
    assert!(well && printed.contains("Free GPUs: <None>"), "{printed}");
    let (well, printed, _) = image.run("vlmd", "80", &["serve", "--print-config"]);
    assert!(well && printed.contains("max-model-len"), "{printed}");
}

#[test]
fn a_program_that_is_named_goes_before_the_one_that_fits() {
    let image = Image::new();
    let named = image.path("lib/vlmd/vlmd-sm80");
    let named = named.to_str().unwrap();
    let arguments = ["--binary", named, "--port", "9"];
    let (_, printed, _) = image.run("vlmd", "90", &arguments);
    assert_eq!(printed, format!("sm80 {}", arguments.join(" ")));
    let mut command = image.command("vlmd", "75");
    let (_, printed, _) = outcome(command.env("VLMD_BINARY", named));
    assert_eq!(printed, "sm80");

    let (well, _, told) = image.run("vlmd", "90", &["serve", "--binary", "/nowhere/vlmd"]);
    assert!(
        !well && told.starts_with("vlmd: cannot run /nowhere/vlmd: "),
        "{told}"
    );
    // Itself: there is nothing to become.
    let own = image.path("bin/vlmd");
    let mut command = image.command("list-model-profiles", "90");
    let (well, printed, told) = outcome(command.env("VLMD_BINARY", own));
    assert!(well && printed.contains("MODEL PROFILES"), "{told}");
}

#[test]
fn a_card_that_was_asked_for_in_vain_is_one_sentence() {
    let image = Image::new();
    for (cards, device, sentence) in [
        (
            "",
            "cuda",
            "cannot use CUDA device 0: the NVIDIA driver shows no card",
        ),
        (
            "80",
            "cuda:1",
            "cannot use CUDA device 1: the driver shows 1, counted from 0",
        ),
        (
            "75",
            "cuda",
            "compute capability 7.5, only for sm80, sm86, sm90",
        ),
    ] {
        let (well, printed, told) = image.run("vlmd", cards, &["serve", "--device", device]);
        assert!(!well && printed.is_empty(), "{printed}");
        assert!(
            told.contains(sentence) && told.lines().count() == 1,
            "{told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_card_the_cpu_serves_and_says_why_once() {
    let image = Image::new();
    let mut command = image.command("vlmd", "");
    command.stderr(Stdio::piped());
    let mut server = Server::launch(command, &[]);
    server.wait_until_ready().await;
    server.terminate();
    let mut told = String::new();
    let err = server.child.stderr.take().unwrap();
    BufReader::new(err).read_to_string(&mut told).unwrap();
    let lines = told.as_bytes().lines().map(Result::unwrap);
    let why = "serving on the CPU: the NVIDIA driver shows no card";
    assert_eq!(lines.filter(|line| line.contains(why)).count(), 1, "{told}");
}
