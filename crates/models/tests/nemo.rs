//! Archives of NeMo, sound ones (`tests/reference/neva.py`) and hostile ones
//! (`tests/reference/broken_nemo.py`): containers and weights, not yet the model.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use vlmd_kernels::weights::Weights;
use vlmd_models::LoadError;
use vlmd_models::nemo::{CONFIG_FILE, NemoArchive, is_nemo};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden");

fn golden(path: &str) -> PathBuf {
    Path::new(GOLDENS).join(path)
}

/// Every tensor's shape and values.
fn contents(archive: &NemoArchive) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let weights = archive.weights().unwrap();
    let one = |name: &str| {
        let shape = weights.shape(name).unwrap();
        let tensor = weights.tensor(name, &shape, Some(DType::F32), &Device::Cpu);
        let values = tensor.unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (name.to_owned(), (shape, values))
    };
    weights.names().map(one).collect()
}

/// Unpacks an archive that the tests made.
fn unpacked(archive: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let file = fs::File::open(archive).unwrap();
    tar::Archive::new(file).unpack(directory.path()).unwrap();
    directory
}

#[test]
fn an_archive_its_compressed_form_and_its_directory_hold_the_same() {
    for name in ["neva", "neva_llama", "neva_tp2"] {
        let path = golden(&format!("{name}/neva.nemo"));
        let plain = NemoArchive::open(&path).unwrap();
        let expected = contents(&plain);
        assert!(!expected.is_empty());
        let config = plain.read(CONFIG_FILE).unwrap();

        let mut compressed = tempfile::Builder::new().suffix(".nemo").tempfile().unwrap();
        let level = flate2::Compression::fast();
        let mut encoder = flate2::write::GzEncoder::new(compressed.as_file_mut(), level);
        encoder.write_all(&fs::read(&path).unwrap()).unwrap();
        encoder.finish().unwrap();
        let directory = unpacked(&path);
        for other in [compressed.path(), directory.path()] {
            assert!(is_nemo(other), "{}", other.display());
            let archive = NemoArchive::open(other).unwrap();
            assert_eq!(archive.ranks(), plain.ranks());
            assert_eq!(archive.read(CONFIG_FILE).unwrap(), config);
            assert!(contents(&archive) == expected, "{}", other.display());
        }
    }
}

#[test]
fn tensors_have_the_names_and_shapes_of_their_ranks() {
    let archive = NemoArchive::open(&golden("neva/neva.nemo")).unwrap();
    assert_eq!(archive.ranks(), (1, 1));
    let weights = archive.weights().unwrap();
    assert!(
        weights
            .names()
            .all(|name| name.starts_with("tp0.pp0.model."))
    );
    assert_eq!(
        weights.dtype("tp0.pp0.model.decoder.final_layernorm.weight"),
        Some(DType::BF16)
    );
    // Transformer Engine's extra states are no tensors.
    assert!(!weights.names().any(|name| name.contains("_extra_state")));

    let archive = NemoArchive::open(&golden("neva_legacy/neva.nemo")).unwrap();
    let weights = archive.weights().unwrap();
    let name = "tp0.pp0.model.language_model.embedding.word_embeddings.weight";
    assert!(
        weights.shape(name).is_some(),
        "{:?}",
        weights.names().collect::<Vec<_>>()
    );
}

#[test]
fn ranks_share_what_is_not_split() {
    let archive = NemoArchive::open(&golden("neva_tp2/neva.nemo")).unwrap();
    assert_eq!(archive.ranks(), (2, 1));
    let tensors = contents(&archive);
    let mut equal = 0;
    let mut split = 0;
    for (name, (shape, values)) in &tensors {
        let Some(rest) = name.strip_prefix("tp0.pp0.") else {
            continue;
        };
        let (other_shape, other_values) = &tensors[&format!("tp1.pp0.{rest}")];
        assert_eq!(shape, other_shape, "{name}");
        if rest.contains("norm") {
            assert_eq!(values, other_values, "{name}");
            equal += 1;
        }
        if rest.ends_with("linear_qkv.weight") || rest.ends_with("linear_fc2.weight") {
            assert_ne!(values, other_values, "{name}");
            split += 1;
        }
    }
    assert!(equal > 2 && split > 2, "{equal} {split}");
    assert_eq!(tensors.len() % 2, 0);
}

#[test]
fn distributed_checkpoints_hold_the_whole_tensors() {
    let whole = Weights::open(&[golden("nemo_distributed/whole.safetensors")]).unwrap();
    for kind in ["torch_dist", "zarr"] {
        let path = golden(&format!("nemo_distributed/{kind}.nemo"));
        let directory = unpacked(&path);
        for path in [&path, directory.path()] {
            let archive = NemoArchive::open(path).unwrap();
            assert_eq!(archive.ranks(), (1, 1));
            let weights = archive.weights().unwrap();
            let mut found = 0;
            for name in whole.names() {
                let shape = whole.shape(name).unwrap();
                let expected = whole.tensor(name, &shape, None, &Device::Cpu).unwrap();
                // A rank's file has the layers apart.
                let stacked = name.split_once(".layers.");
                let layers = stacked.map_or(1, |_| shape[0]);
                for layer in 0..layers {
                    let (name, expected) = match stacked {
                        None => (format!("tp0.pp0.{name}"), expected.clone()),
                        Some((before, rest)) => (
                            format!("tp0.pp0.{before}.layers.{layer}.{rest}"),
                            expected.get(layer).unwrap(),
                        ),
                    };
                    let tensor = weights
                        .tensor(&name, expected.dims(), None, &Device::Cpu)
                        .unwrap();
                    assert_eq!(tensor.dtype(), expected.dtype(), "{name}");
                    let values = |tensor: &Tensor| -> Vec<f32> {
                        let tensor = tensor.to_dtype(DType::F32).unwrap();
                        tensor.flatten_all().unwrap().to_vec1().unwrap()
                    };
                    assert_eq!(values(&tensor), values(&expected), "{kind}: {name}");
                    found += 1;
                }
            }
            assert_eq!(weights.names().count(), found);
            assert_eq!(found, 1 + 3 + 3 + 1 + 1);
        }
    }
}

#[test]
fn damaged_distributed_checkpoints_are_refused() {
    let refused = |kind: &str, damage: &dyn Fn(&Path), words: &str| {
        let directory = unpacked(&golden(&format!("nemo_distributed/{kind}.nemo")));
        let folder = directory.path().join("model_weights");
        damage(&folder);
        let outcome = NemoArchive::open(directory.path()).and_then(|archive| archive.weights());
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let edit = |path: PathBuf, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&path).unwrap();
        edit(&mut bytes);
        fs::write(path, bytes).unwrap();
    };
    // Replaces bytes by as many others.
    let replace = |from: &'static [u8], to: &'static [u8]| {
        move |bytes: &mut Vec<u8>| {
            assert_eq!(from.len(), to.len());
            let at = bytes.windows(from.len()).position(|window| window == from);
            let at = at.unwrap();
            bytes[at..at + to.len()].copy_from_slice(to);
        }
    };

    let cut = |folder: &Path| edit(folder.join("__0_0.distcp"), &|bytes| bytes.truncate(1000));
    refused("torch_dist", &cut, "but the file has 1000 bytes");
    let remove = |folder: &Path| fs::remove_file(folder.join("__0_1.distcp")).unwrap();
    refused(
        "torch_dist",
        &remove,
        "`model_weights/__0_1.distcp` is missing",
    );
    let leave = |folder: &Path| {
        let other = replace(b"__0_0.distcp", b"../../passwd");
        edit(folder.join(".metadata"), &other);
    };
    refused(
        "torch_dist",
        &leave,
        "`model_weights/../../passwd` is missing",
    );
    let call = |folder: &Path| {
        let other = replace(b"BytesStorageMetadata", b"LoadYourselfMetadata");
        edit(folder.join(".metadata"), &other);
    };
    refused(
        "torch_dist",
        &call,
        "LoadYourselfMetadata`, which is not read",
    );
    let forget = |folder: &Path| fs::write(folder.join(".metadata"), b"\x80\x02}.").unwrap();
    refused(
        "torch_dist",
        &forget,
        "not the metadata of torch.distributed.checkpoint",
    );
    let twice = |folder: &Path| fs::write(folder.join("../model_weights.ckpt"), b"").unwrap();
    refused("torch_dist", &twice, "a distributed checkpoint as well");
    let both = |folder: &Path| {
        fs::create_dir(folder.join("a")).unwrap();
        fs::write(folder.join("a/.zarray"), b"").unwrap();
    };
    refused("torch_dist", &both, "of two formats");

    let remove = |folder: &Path| fs::remove_file(folder.join("model.steps/0")).unwrap();
    refused("zarr", &remove, "`model_weights/model.steps/0` is missing");
    let cut = |folder: &Path| edit(folder.join("model.steps/0"), &|bytes| bytes.truncate(7));
    refused("zarr", &cut, "has 7 bytes");
    let pack = |folder: &Path| {
        let other = replace(b"\"compressor\": null", b"\"compressor\":    7");
        edit(folder.join("model.steps/.zarray"), &other);
    };
    refused("zarr", &pack, "`compressor`");
    let garble = |folder: &Path| fs::write(folder.join("model.steps/.zarray"), b"{").unwrap();
    refused("zarr", &garble, "model.steps/.zarray` is not valid");
}

#[test]
fn members_are_read_by_name_alone() {
    let path = golden("neva/neva.nemo");
    let directory = unpacked(&path);
    for path in [&path, directory.path()] {
        let archive = NemoArchive::open(path).unwrap();
        assert!(
            archive
                .read(CONFIG_FILE)
                .unwrap()
                .starts_with(b"activation:")
        );
        for name in [
            "",
            ".",
            "..",
            "../neva.nemo",
            "/etc/passwd",
            "./model_config.yaml",
            "nothing",
        ] {
            let error = archive.read(name).unwrap_err();
            assert!(
                matches!(error, LoadError::Missing { .. }),
                "{name}: {error}"
            );
        }
    }
}

#[test]
fn other_paths_are_no_archives() {
    assert!(is_nemo(&golden("neva/neva.nemo")));
    assert!(!is_nemo(&golden("neva")));
    assert!(!is_nemo(&golden("llava")));
    assert!(!is_nemo(&golden("nothing.nemo")));
    let error = NemoArchive::open(&golden("nothing.nemo")).unwrap_err();
    assert!(error.to_string().contains("nothing.nemo"), "{error}");
}

#[test]
fn missing_and_doubled_ranks_are_refused() {
    let sound = unpacked(&golden("neva_tp2/neva.nemo"));
    let refused = |words: &str| {
        let error = NemoArchive::open(sound.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let rank = |name: &str| sound.path().join(name);
    fs::rename(rank("mp_rank_01"), rank("mp_rank_02")).unwrap();
    refused("none of tensor rank 1, pipeline rank 0");
    fs::rename(rank("mp_rank_02"), rank("mp_rank_000")).unwrap();
    refused("weights of the same rank");
    fs::rename(rank("mp_rank_000"), rank("tp_rank_01_pp_rank_001")).unwrap();
    refused("none of tensor rank 0, pipeline rank 1");
    fs::rename(rank("mp_rank_00"), rank("tp_rank_00_pp_rank_000")).unwrap();
    refused("none of tensor rank 0, pipeline rank 1");
    fs::rename(
        rank("tp_rank_01_pp_rank_001"),
        rank("tp_rank_00_pp_rank_001"),
    )
    .unwrap();
    let archive = NemoArchive::open(sound.path()).unwrap();
    assert_eq!(archive.ranks(), (1, 2));
    let weights = archive.weights().unwrap();
    assert!(
        weights
            .names()
            .any(|name| name.starts_with("tp0.pp1.model."))
    );
}

#[derive(Deserialize)]
struct Case {
    file: String,
    outcomes: Vec<String>,
}

/// Trouble that is not in the container: of the configuration, the tokenizer, or the model that
/// the weights belong to.
const SEEN_LATER: [&str; 22] = [
    "no_config",
    "no_yaml",
    "laughs",
    "deep_yaml",
    "no_layers",
    "billion_layers",
    "wide",
    "negative",
    "uneven",
    "other_norm",
    "other_positions",
    "other_target",
    "other_width",
    "more_layers",
    "more_ranks",
    "tokenizer_parent",
    "tokenizer_absolute",
    "tokenizer_broken",
    "tokenizer_cut",
    "no_tokenizer",
    "missing_weight",
    "wrong_shape",
];

#[test]
fn hostile_archives_are_refused_with_file_and_reason() {
    let manifest = fs::read(golden("broken_nemo/manifest.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&manifest).unwrap();
    let (mut refused, mut loaded) = (0, 0);
    for case in cases {
        let path = golden("broken_nemo").join(&case.file);
        let outcome = NemoArchive::open(&path).and_then(|archive| archive.weights());
        let later = SEEN_LATER
            .iter()
            .any(|name| case.file == format!("{name}.nemo"));
        match outcome {
            Ok(weights) => {
                assert!(
                    later || case.outcomes.contains(&"loads".to_owned()),
                    "{}",
                    case.file
                );
                assert!(weights.total_bytes() > 0);
                loaded += 1;
            }
            Err(error) => {
                let message = error.to_string();
                assert!(
                    !later && case.outcomes.contains(&"refused".to_owned()),
                    "{message}"
                );
                assert!(message.contains(&case.file), "{message}");
                assert!(!message.contains('\n'), "{message}");
                refused += 1;
            }
        }
    }
    assert_eq!((refused, loaded), (40, 27));
}

#[test]
fn refusals_say_what_is_wrong() {
    let cases = [
        (
            "parent_path",
            "`../../vlmd-escaped.txt` has a path that leads out",
        ),
        (
            "absolute_path",
            "`/vlmd-escaped.txt` has a path that leads out",
        ),
        (
            "symlink",
            "`./model_weights.ckpt` is neither a file nor a folder",
        ),
        ("twice", "two members `./model_config.yaml`"),
        ("truncated", "cut off"),
        ("wrong_checksum", "checksum"),
        ("exbibyte", "of 1152921504606846976 bytes"),
        ("truncated_gzip", "compressed data is damaged or cut off"),
        ("no_weights", "`model_weights.ckpt` is missing"),
        ("pickle_call", "getcwd`, which is not read"),
        ("pickle_class", "`collections.Counter`, which is not read"),
        ("pickle_cut", "the pickle is cut off"),
        ("tensor_expanded", "do not lie row by row"),
        ("tensor_beyond", "takes the values 8..24 of a storage of 16"),
        (
            "tensor_storage_path",
            "storage `../../0`, which is not there",
        ),
        (
            "tensor_complex",
            "`torch.ComplexFloatStorage`, which is not read",
        ),
        ("zip_bomb", "compressed"),
    ];
    for (name, words) in cases {
        let path = golden(&format!("broken_nemo/{name}.nemo"));
        let outcome = NemoArchive::open(&path).and_then(|archive| archive.weights());
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(words), "{name}: {message}");
    }
}

/// An archive of what `fill` adds.
fn archive(fill: impl FnOnce(&mut tar::Builder<&mut fs::File>)) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".nemo").tempfile().unwrap();
    let mut builder = tar::Builder::new(file.as_file_mut());
    fill(&mut builder);
    builder.finish().unwrap();
    drop(builder);
    file
}

fn add(builder: &mut tar::Builder<&mut fs::File>, name: &str, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    builder.append_data(&mut header, name, data).unwrap();
}

fn checkpoint() -> Vec<u8> {
    fs::read(golden("torch_files/protocol2.pt")).unwrap()
}

#[test]
fn long_names_and_attributes_are_read() {
    let long = format!("{}/notes.txt", "folder/".repeat(40));
    let file = archive(|builder| {
        // As Python's tarfile writes times and sizes beyond what a header holds.
        let size = checkpoint().len().to_string();
        let attributes = [("mtime", &b"1.5"[..]), ("size", size.as_bytes())];
        builder.append_pax_extensions(attributes).unwrap();
        add(builder, "model_weights.ckpt", &checkpoint());
        add(builder, &long, b"notes");
    });
    let archive = NemoArchive::open(file.path()).unwrap();
    assert_eq!(
        archive.weights().unwrap().names().collect::<Vec<_>>(),
        ["tp0.pp0.a", "tp0.pp0.b"]
    );
    assert_eq!(archive.read(&long.replace("//", "/")).unwrap(), b"notes");
}

#[test]
fn large_members_are_not_read_as_text() {
    let file = archive(|builder| {
        add(builder, "model_weights.ckpt", &checkpoint());
        add(builder, "large", &vec![0; (64 << 20) + 1]);
    });
    let error = NemoArchive::open(file.path())
        .unwrap()
        .read("large")
        .unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
    assert!(
        error.to_string().contains("/large` has 67108865 bytes"),
        "{error}"
    );
}

#[test]
fn headers_and_members_are_bounded() {
    let file = archive(|builder| add(builder, &"x/".repeat(600_000), b""));
    let error = NemoArchive::open(file.path()).unwrap_err().to_string();
    assert!(error.contains("headers are larger"), "{error}");

    let file = archive(|builder| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_path("folder").unwrap();
        header.set_cksum();
        for _ in 0..=1 << 16 {
            builder.append(&header, &b""[..]).unwrap();
        }
    });
    let error = NemoArchive::open(file.path()).unwrap_err().to_string();
    assert!(error.contains("more than 65536 members"), "{error}");
}

#[test]
fn an_archive_cut_anywhere_loads_nothing_else() {
    let whole = fs::read(golden("broken_nemo/complete.nemo")).unwrap();
    let file = tempfile::Builder::new().suffix(".nemo").tempfile().unwrap();
    let mut refused = 0;
    for len in (0..whole.len()).step_by(509) {
        fs::write(file.path(), &whole[..len]).unwrap();
        let outcome = NemoArchive::open(file.path()).and_then(|archive| archive.weights());
        // Only the padding of the end may be missing.
        match outcome {
            Ok(weights) => assert_eq!(weights.names().count(), 15, "{len}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 60, "{refused}");
}

#[test]
fn an_archive_that_unfolds_without_end_is_refused() {
    let mut file = tempfile::Builder::new().suffix(".nemo").tempfile().unwrap();
    let level = flate2::Compression::fast();
    let mut encoder = flate2::write::GzEncoder::new(file.as_file_mut(), level);
    for _ in 0..65 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap();
    let error = NemoArchive::open(file.path()).unwrap_err().to_string();
    assert!(error.contains("unfold to more than 67108864"), "{error}");
}
