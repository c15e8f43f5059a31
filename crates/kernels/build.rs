//! With the feature `cuda`: compiles `cuda/*.cu` to PTX, which the driver translates for its card.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest cards that are served, compute capability 8.0; PTX for them runs on all later ones.
const ARCHITECTURE: &str = "compute_80";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    let compiler = compiler();
    for entry in Path::new("cuda").read_dir()? {
        let source = entry?.path();
        if source
            .extension()
            .is_some_and(|extension| extension == "cu")
        {
            compile(&compiler, &source, &out)?;
        }
    }
    Ok(())
}

/// What `NVCC` names, else the toolkit that `CUDA_HOME` or `CUDA_PATH` names, else the `nvcc` of
/// the path.
fn compiler() -> OsString {
    if let Some(compiler) = env::var_os("NVCC") {
        return compiler;
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os);
    toolkits
        .map(|toolkit| Path::new(&toolkit).join("bin/nvcc"))
        .find(|compiler| compiler.is_file())
        .map_or_else(|| "nvcc".into(), Into::into)
}

fn compile(compiler: &OsString, source: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let stem = source.file_stem().ok_or("a source without a name")?;
    let output = out.join(stem).with_extension("ptx");
    let status = Command::new(compiler)
        .args(["--ptx", "--std=c++17", "-O3", "-arch", ARCHITECTURE, "-o"])
        .arg(&output)
        .arg(source)
        .status()
        .map_err(|error| format!("{} does not start: {error}", compiler.display()))?;
    if status.success() {
        Ok(())
    } else {
        let source = source.display();
        Err(format!("{} {source}: {status}", compiler.display()).into())
    }
}
