//! The executables of NIM containers, which scripts and the NIM operator call by name. They are
//! this program under other names: links to it, told apart by the name that it is called by.

mod cache;
mod list;
pub(crate) mod profiles;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::Result;
use clap::CommandFactory as _;

use crate::args::Cli;
use crate::settings::{EngineArguments, Environment};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `nim-serve` of 2.x, `nim-run` of 1.x.
    Serve,
    ListModelProfiles,
    DownloadToCache,
    CreateModelStore,
    CheckCacheEnv,
}

impl Program {
    /// The one that goes by the name of `path`, if it is one of them.
    pub(crate) fn called(path: &OsStr) -> Option<Self> {
        Some(match Path::new(path).file_name()?.to_str()? {
            "nim-serve" | "nim-run" => Self::Serve,
            "list-model-profiles" => Self::ListModelProfiles,
            "download-to-cache" => Self::DownloadToCache,
            "create-model-store" => Self::CreateModelStore,
            "check-cache-env" => Self::CheckCacheEnv,
            _ => return None,
        })
    }

    /// Runs one that does not serve.
    ///
    /// # Errors
    /// When it cannot do what it was asked for.
    pub(crate) fn run(self, arguments: &[OsString], environment: &Environment) -> Result<()> {
        match self {
            Self::ListModelProfiles => list::run(arguments, environment),
            Self::DownloadToCache => cache::download(arguments, environment),
            Self::CreateModelStore => cache::create_store(arguments, environment),
            Self::CheckCacheEnv | Self::Serve => cache::check(environment),
        }
    }
}

/// The command line of `nim-serve`, which takes arguments of an engine, as one of `vlmd serve`, with
/// the words that mean nothing here. `--help` and what is no Unicode stay as they are.
///
/// # Errors
/// When an argument has no value, or none that it can have.
pub(crate) fn engine_command_line(arguments: &[OsString]) -> Result<(Vec<OsString>, Vec<String>)> {
    let words = arguments.get(1..).unwrap_or_default();
    let mut line: Vec<OsString> = vec!["vlmd".into(), "serve".into()];
    let (texts, others): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.to_str().is_some());
    let texts: Vec<String> = texts
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    line.extend(others.into_iter().cloned());
    if texts.iter().any(|word| word == "--help" || word == "-h") {
        line.push("--help".into());
        return Ok((line, Vec::new()));
    }
    let command = Cli::command();
    let Some(serve) = command.find_subcommand("serve") else {
        return Ok((line, Vec::new()));
    };
    let read = EngineArguments::read(&texts, serve)?;
    line.extend(read.command_line().map(OsString::from));
    Ok((line, read.unknown))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> (Vec<String>, Vec<String>) {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let (line, unknown) = engine_command_line(&words).unwrap();
        let line = line.into_iter().map(|word| word.into_string().unwrap());
        (line.collect(), unknown)
    }

    #[test]
    fn programs_are_told_by_the_name_of_their_file() {
        for (path, program) in [
            ("/opt/nim/bin/nim-serve", Some(Program::Serve)),
            ("nim-run", Some(Program::Serve)),
            ("./list-model-profiles", Some(Program::ListModelProfiles)),
            ("download-to-cache", Some(Program::DownloadToCache)),
            ("create-model-store", Some(Program::CreateModelStore)),
            ("check-cache-env", Some(Program::CheckCacheEnv)),
            ("/usr/bin/vlmd", None),
            ("nim-serve-2", None),
            ("", None),
        ] {
            assert_eq!(Program::called(OsStr::new(path)), program, "{path}");
        }
    }

    #[test]
    fn engine_arguments_that_mean_something_are_ours_and_others_are_let_pass() {
        let (ours, unknown) = line(&[
            "nim-serve",
            "--max-model-len",
            "4096",
            "--max_num_seqs=8",
            "--gpu-memory-utilization",
            "0.8",
            "--trust-remote-code",
            "--limit-mm-per-prompt",
            r#"{"image": 3, "video": 1}"#,
            "--served-model-name",
            "a",
            "b",
            "--seed",
            "-1",
            "--dtype",
            "bfloat16",
            "--no-enable-prefix-caching",
        ]);
        assert_eq!(
            ours,
            [
                "vlmd",
                "serve",
                "--max-model-len=4096",
                "--max-num-seqs=8",
                "--gpu-memory-utilization=0.8",
                "--max-images=3",
                "--served-model-name=a,b",
                "--dtype=bf16",
                "--no-prefix-cache",
            ]
        );
        assert_eq!(unknown, ["--trust-remote-code", "--seed", "-1"]);
    }

    #[test]
    fn engine_arguments_without_a_value_they_need_are_refused() {
        for words in [
            &["nim-serve", "--max-model-len"][..],
            &["nim-serve", "--port", "1", "2"],
            &["nim-serve", "--limit-mm-per-prompt", "three"],
        ] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            let error = engine_command_line(&words).unwrap_err().to_string();
            assert!(error.contains("--"), "{error}");
        }
    }

    #[test]
    fn help_is_ours() {
        assert_eq!(
            line(&["nim-serve", "--help"]).0,
            ["vlmd", "serve", "--help"]
        );
    }
}
