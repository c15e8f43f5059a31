//! What the fuzz targets share.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::Device;
use vlmd_kernels::weights::Weights;
use vlmd_models::{LoadOptions, LoadedModel, ModelFiles, NemoFiles, load};

/// Checkpoints of every architecture, by their folders below `tests/golden`.
pub const CHECKPOINTS: [&str; 6] = ["phi3_v", "llava", "llava_next", "mllama", "kosmos2", "neva"];

/// A file or folder below `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../golden")
        .join(path)
}

/// Loads one of [`CHECKPOINTS`].
pub fn checkpoint(name: &str) -> LoadedModel {
    let directory = golden(name);
    let archive = directory.join("neva.nemo");
    let files = if archive.exists() {
        let tower = ModelFiles::Directory(directory.join("clip"));
        let archive = NemoFiles::open(&archive).expect("the golden opens");
        ModelFiles::Nemo(archive.with_tower(tower))
    } else {
        ModelFiles::Directory(directory)
    };
    load(&files, &LoadOptions::default()).expect("the golden loads")
}

/// A folder for files of one process, in memory where there is such a place.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("vlmd-fuzz-")
        .tempdir_in(parent)
        .expect("a folder can be made")
}

/// Copies the plain files of `from` that `wanted` says.
pub fn copy_files(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(from).expect("the folder is there") {
        let path = entry.expect("its entries are readable").path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| path.is_file() && wanted(name)) {
            fs::copy(&path, to.join(name)).expect("there is room");
        }
    }
}

/// Bytes of data that targets look at; longer inputs find the same faults, more slowly.
pub const ENOUGH: usize = 1 << 20;

/// Splits `data` at its first byte, which chooses among `count`.
pub fn choice(data: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (first, rest) = data.split_first()?;
    Some((usize::from(*first) % count, rest))
}

/// Whether a token is one that only templates may write. The token for what the vocabulary cannot
/// spell is not: any text may hold such.
pub fn is_control(tokenizer: &vlmd_text::Tokenizer, id: u32) -> bool {
    let unknown = |token: &str| matches!(token, "<unk>" | "[UNK]" | "<UNK>");
    tokenizer.is_special(id)
        && !tokenizer
            .id_to_token(id)
            .is_some_and(|token| unknown(&token))
}

/// Reads every tensor that is of a size to read.
pub fn read_all(weights: &Weights) {
    for name in weights.names() {
        let shape = weights.shape(name).expect("it has a name");
        let values = shape.iter().try_fold(1_usize, |all, n| all.checked_mul(*n));
        if values.is_some_and(|values| values <= ENOUGH) {
            // One that is stored in a type without arithmetic is refused.
            let _ = weights.tensor(name, &shape, None, &Device::Cpu);
        }
    }
}

/// Lets the product catch the panics of libraries where it does. libFuzzer's hook would end the
/// process at once; what nobody catches ends the target all the same.
pub fn let_panics_be_caught() {
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
}
