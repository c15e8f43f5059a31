//! Handing over to the program that is compiled for this host's cards.
//!
//! An image for GPUs holds a CPU build of vlmd, which is what is called, and in `../lib/vlmd` beside
//! it a CUDA build per family of cards: `vlmd-sm80`, `vlmd-sm86`, ... A command that needs the device
//! asks the driver what cards there are, and becomes the program that fits: same process, same
//! arguments, same name. `--binary` names one in its stead. Without a card the CPU build serves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow};
use vlmd_kernels::{Capability, Family};

use crate::args::{DeviceChoice, ServeArgs};
use crate::device::{not_among, unusable};

/// What a command line says of the program and its device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) device: DeviceChoice,
    pub(crate) binary: Option<&'a Path>,
}

impl<'a> From<&'a ServeArgs> for Wanted<'a> {
    fn from(args: &'a ServeArgs) -> Self {
        Self {
            device: args.device,
            binary: args.deployment.binary.as_deref(),
        }
    }
}

/// Becomes the program that is `wanted` or that is compiled for the cards. Comes back where this
/// one is to go on, with what there is to say about that.
///
/// # Errors
/// When the program cannot be run, or a card was asked for and there is none, or none for it.
pub(crate) fn hand_over(wanted: Wanted<'_>, arguments: &[OsString]) -> Result<Option<String>> {
    let Wanted { device, binary } = wanted;
    let own = std::env::current_exe().context("cannot tell which file is running")?;
    if let Some(binary) = binary {
        return match same_file(&own, binary) {
            true => Ok(None),
            false => Err(become_it(binary, arguments)),
        };
    }
    // One that is compiled for cards is what was handed over to, or was called on purpose.
    if cfg!(feature = "cuda") || device == DeviceChoice::Cpu {
        return Ok(None);
    }
    let folder = folder_of(&own);
    let families = families_in(&folder);
    if families.is_empty() {
        return Ok(None);
    }
    match (family(device, &families, &folder), device) {
        (Ok(family), _) => Err(become_it(&program(&folder, family), arguments)),
        (Err(error), DeviceChoice::Cuda(ordinal)) => Err(error.context(unusable(ordinal))),
        (Err(error), _) => Ok(Some(format!("serving on the CPU: {error:#}"))),
    }
}

/// The family for the card that was asked for, or for all of them.
fn family(choice: DeviceChoice, families: &[Family], folder: &Path) -> Result<Family> {
    let cards = vlmd_kernels::cards()?;
    let used = match choice {
        DeviceChoice::Cuda(ordinal) => {
            let card = cards.get(ordinal).with_context(|| not_among(cards.len()))?;
            vec![*card]
        }
        DeviceChoice::Auto | DeviceChoice::Cpu => cards,
    };
    vlmd_kernels::family_for(families, &used).with_context(|| none_fits(&used, families, folder))
}

fn none_fits(cards: &[Capability], families: &[Family], folder: &Path) -> String {
    let list = |items: Vec<String>| items.join(", ");
    format!(
        "no program in {} is compiled for a card of compute capability {}, only for {}; \
         `--binary` or VLMD_BINARY names one that is to be used all the same",
        folder.display(),
        list(cards.iter().map(ToString::to_string).collect()),
        list(families.iter().map(ToString::to_string).collect()),
    )
}

/// Where the programs for cards are: beside the folder of this one.
fn folder_of(own: &Path) -> PathBuf {
    let prefix = own.parent().and_then(Path::parent);
    prefix.unwrap_or(Path::new("/")).join("lib/vlmd")
}

const PREFIX: &str = "vlmd-";

fn program(folder: &Path, family: Family) -> PathBuf {
    folder.join(format!("{PREFIX}{family}"))
}

/// The families that a folder has programs for. None where there is no such folder.
fn families_in(folder: &Path) -> Vec<Family> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut families: Vec<Family> = names
        .filter_map(|name| Family::named(name.strip_prefix(PREFIX)?))
        .collect();
    families.sort_unstable();
    families
}

fn same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// Replaces this process. Comes back only if that fails.
fn become_it(program: &Path, arguments: &[OsString]) -> anyhow::Error {
    let mut command = Command::new(program);
    command.args(arguments.iter().skip(1));
    let error = replace(&mut command, arguments.first());
    anyhow!(error).context(format!("cannot run {}", program.display()))
}

#[cfg(unix)]
fn replace(command: &mut Command, name: Option<&OsString>) -> std::io::Error {
    use std::os::unix::process::CommandExt as _;

    // NIM's executables are told apart by the name that they are called by.
    if let Some(name) = name {
        command.arg0(name);
    }
    command.exec()
}

#[cfg(not(unix))]
fn replace(_: &mut Command, _: Option<&OsString>) -> std::io::Error {
    std::io::Error::from(std::io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "vlmd-sm90",
            "vlmd-sm80",
            "vlmd",
            "vlmd-sm",
            "sm86",
            "vlmd-sm80.old",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let families = families_in(folder.path());
        let names: Vec<_> = families.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["sm80", "sm90"]);
        let path = program(folder.path(), families[0]);
        assert_eq!(path, folder.path().join("vlmd-sm80"));
        assert!(families_in(&folder.path().join("none")).is_empty());
    }

    #[test]
    fn they_are_beside_the_folder_of_the_one_that_was_called() {
        let folder = folder_of(Path::new("/usr/local/bin/vlmd"));
        assert_eq!(folder, Path::new("/usr/local/lib/vlmd"));
        assert_eq!(folder_of(Path::new("/vlmd")), Path::new("/lib/vlmd"));
    }

    #[test]
    fn a_card_that_nothing_is_compiled_for_is_told_with_what_there_is() {
        let families = ["sm80", "sm90"].map(|name| Family::named(name).unwrap());
        let card = Capability { major: 7, minor: 5 };
        let message = none_fits(&[card], &families, Path::new("/lib/vlmd"));
        for part in ["/lib/vlmd", "7.5", "sm80, sm90", "VLMD_BINARY"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
