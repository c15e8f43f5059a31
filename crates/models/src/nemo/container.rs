//! The members of an archive or of its unpacked directory.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};
use vlmd_kernels::weights::WeightFile;

use super::gzip;
use crate::budget::Budget;
use crate::files::{self, MAX_TEXT_FILE_BYTES};
use crate::{LoadError, torch};

/// Most members; a distributed checkpoint of a large model has some thousands.
const MAX_MEMBERS: usize = 1 << 16;

/// Most bytes of the headers of one member, long names and attributes included.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// Folders that are looked into, one within the other.
const MAX_DEPTH: usize = 3;

/// Files by their paths, of which `/` separates the parts.
#[derive(Debug)]
pub(super) struct Container {
    /// Its path, for messages.
    place: String,
    members: Members,
}

#[derive(Debug)]
enum Members {
    /// Where each lies in the archive.
    Archive {
        file: WeightFile,
        ranges: BTreeMap<String, Range<usize>>,
    },
    /// Where each lies on disk.
    Directory(BTreeMap<String, PathBuf>),
}

impl Container {
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let place = path.display().to_string();
        let members = if path.is_dir() {
            let mut paths = BTreeMap::new();
            list(path, "", 1, &mut paths)?;
            Members::Directory(paths)
        } else {
            let mut file = WeightFile::open(path)?;
            if gzip::is_compressed(file.bytes()) {
                let unfolded = gzip::unfold(&place, file.bytes())?;
                file = WeightFile::from_file(place.clone(), &unfolded)?;
            }
            let ranges = scan(&place, file.bytes())?;
            Members::Archive { file, ranges }
        };
        Ok(Self { place, members })
    }

    /// What it is called in messages.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The paths of all files, ascending.
    pub(super) fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &self.members {
            Members::Archive { ranges, .. } => Box::new(ranges.keys().map(String::as_str)),
            Members::Directory(paths) => Box::new(paths.keys().map(String::as_str)),
        }
    }

    /// Whether there is a file of that path.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.members {
            Members::Archive { ranges, .. } => ranges.contains_key(name),
            Members::Directory(paths) => paths.contains_key(name),
        }
    }

    /// The contents of a small file.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        let missing = || self.missing(name);
        match &self.members {
            Members::Archive { file, ranges } => {
                let range = ranges.get(name).ok_or_else(missing)?;
                let size = range.len() as u64;
                if size > MAX_TEXT_FILE_BYTES {
                    return Err(LoadError::TooLarge {
                        file: self.path_of(name),
                        size,
                        limit: MAX_TEXT_FILE_BYTES,
                    });
                }
                Ok(file.bytes().get(range.clone()).unwrap_or_default().to_vec())
            }
            Members::Directory(paths) => {
                let path = paths.get(name).ok_or_else(missing)?;
                files::read_bounded(path, &self.path_of(name))?.ok_or_else(missing)
            }
        }
    }

    /// A file of any size, and where in it the member lies. Nothing is read.
    pub(super) fn file(&self, name: &str) -> Result<(WeightFile, Range<usize>), LoadError> {
        match &self.members {
            Members::Archive { file, ranges } => {
                let range = ranges.get(name).ok_or_else(|| self.missing(name))?;
                Ok((file.clone(), range.clone()))
            }
            Members::Directory(paths) => {
                let path = paths.get(name).ok_or_else(|| self.missing(name))?;
                let file = WeightFile::open(path)?;
                let range = 0..file.bytes().len();
                Ok((file, range))
            }
        }
    }

    /// That a file is not there.
    pub(super) fn missing(&self, name: &str) -> LoadError {
        LoadError::Missing {
            file: name.to_owned(),
            place: format!("`{}`", self.place),
        }
    }

    /// A member's path behind the container's.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }
}

/// Finds the files of a tar archive.
///
/// Folders say nothing. What is neither file nor folder is refused, and so are paths that lead
/// elsewhere, although nothing here follows them: such an archive was made to do harm.
fn scan(place: &str, bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, LoadError> {
    let invalid = |reason: String| LoadError::invalid(place, reason);
    let damaged = |error: std::io::Error| invalid(format!("is no whole tar archive: {error}"));
    if bytes.is_empty() {
        return Err(invalid("is empty".to_owned()));
    }
    let left = Cell::new(0);
    let mut archive = Archive::new(Budget::new(Cursor::new(bytes), &left));
    let mut ranges = BTreeMap::new();
    let mut entries = archive.entries_with_seek().map_err(damaged)?;
    for count in 0.. {
        left.set(MAX_HEADER_BYTES);
        let Some(entry) = entries.next() else {
            break;
        };
        let entry = entry.map_err(damaged)?;
        if count == MAX_MEMBERS {
            return Err(invalid(format!("has more than {MAX_MEMBERS} members")));
        }
        let path = entry.path_bytes();
        let path = String::from_utf8_lossy(&path);
        let shown = || torch::shown(&path);
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory => {
                normal(&path).ok_or_else(|| invalid(outside(&shown())))?;
                continue;
            }
            EntryType::XGlobalHeader => continue,
            _ => {
                let reason = format!("its member `{}` is neither a file nor a folder", shown());
                return Err(invalid(reason));
            }
        }
        let name = normal(&path).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| invalid(outside(&shown())))?;
        let start = entry.raw_file_position();
        let range = start.checked_add(entry.size()).and_then(|end| {
            let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
            bytes.get(range.clone()).map(|_| range)
        });
        let range = range.ok_or_else(|| {
            invalid(format!(
                "its member `{}` of {} bytes at {start} lies beyond the end: it is cut off",
                shown(),
                entry.size()
            ))
        })?;
        if ranges.insert(name, range).is_some() {
            return Err(invalid(format!("has two members `{}`", shown())));
        }
    }
    Ok(ranges)
}

fn outside(path: &str) -> String {
    format!("its member `{path}` has a path that leads out of the archive")
}

/// The path without `.`, or `None` if it leads elsewhere.
fn normal(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(path).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => return None,
        }
    }
    Some(parts.join("/"))
}

/// Adds the files below `directory`, whose own path is `prefix`. Links are followed: the
/// directory is the operator's.
fn list(
    directory: &Path,
    prefix: &str,
    depth: usize,
    paths: &mut BTreeMap<String, PathBuf>,
) -> Result<(), LoadError> {
    let io = |source| LoadError::Io {
        file: directory.display().to_string(),
        source,
    };
    for entry in fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        // A name that is no text is none of NeMo's.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if path.is_file() {
            paths.insert(name, path);
        } else if path.is_dir() && depth < MAX_DEPTH {
            list(&path, &format!("{name}/"), depth + 1, paths)?;
        }
        if paths.len() > MAX_MEMBERS {
            return Err(LoadError::invalid(
                &directory.display().to_string(),
                format!("has more than {MAX_MEMBERS} files"),
            ));
        }
    }
    Ok(())
}
