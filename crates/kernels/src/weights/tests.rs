//! Weights from files, whole and damaged.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A file that is removed with its test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vlmd-weights-{}-{number}.safetensors", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn shard(tensors: &[(&str, DType)]) -> Vec<u8> {
    let make = |dtype| {
        let values = Tensor::new(&[[1f32, -2.5], [0.125, 3.]], &Device::Cpu).unwrap();
        values.to_dtype(dtype).unwrap()
    };
    let tensors: HashMap<&str, Tensor> = tensors
        .iter()
        .map(|&(name, dtype)| (name, make(dtype)))
        .collect();
    safetensors::serialize(&tensors, None).unwrap()
}

fn open(files: &[&Temporary]) -> Result<Weights, WeightsError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| file.0.clone()).collect();
    Weights::open(&paths)
}

#[test]
fn tensors_come_from_any_shard_in_the_dtype_asked_for() {
    let first = Temporary::new(&shard(&[("a", DType::BF16), ("b", DType::F32)]));
    let second = Temporary::new(&shard(&[("c", DType::F16)]));
    let weights = open(&[&first, &second]).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(weights.total_bytes(), 4 * (2 + 4 + 2));
    assert_eq!(weights.shape("a"), Some(vec![2, 2]));
    assert_eq!(weights.dtype("c"), Some(DType::F16));
    assert_eq!(weights.dtype("d"), None);
    for name in ["a", "b", "c"] {
        let kept = weights.tensor(name, &[2, 2], None, &Device::Cpu).unwrap();
        assert_eq!(Some(kept.dtype()), weights.dtype(name));
        let wide = weights.tensor(name, &[2, 2], Some(DType::F32), &Device::Cpu);
        let wide = wide.unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(wide, [[1., -2.5], [0.125, 3.]]);
    }
}

#[test]
fn bytes_within_the_program_load_like_a_file() {
    let bytes: &'static [u8] = shard(&[("a", DType::F32)]).leak();
    let weights = Weights::from_bytes(bytes).unwrap();
    let a = weights.tensor("a", &[2, 2], Some(DType::BF16), &Device::Cpu);
    assert_eq!(a.unwrap().dtype(), DType::BF16);
}

#[test]
fn what_is_not_there_or_has_another_shape_is_told_with_file_and_shapes() {
    let file = Temporary::new(&shard(&[("a", DType::F32)]));
    let name = file.0.display().to_string();
    let weights = open(&[&file]).unwrap();
    let missing = weights
        .tensor("b", &[2, 2], None, &Device::Cpu)
        .unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("there is no tensor `b` in {name}")
    );
    let shape = weights.tensor("a", &[4], None, &Device::Cpu).unwrap_err();
    assert_eq!(
        shape.to_string(),
        format!("the tensor `a` in {name} has the shape [2, 2], expected [4]")
    );
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let first = Temporary::new(&shard(&[("a", DType::F32)]));
    let second = Temporary::new(&shard(&[("a", DType::F32)]));
    assert!(matches!(
        open(&[&first, &second]),
        Err(WeightsError::Duplicate { .. })
    ));
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let whole = shard(&[("a", DType::F32), ("b", DType::BF16)]);
    for len in 0..whole.len() {
        let file = Temporary::new(&whole[..len]);
        let error = open(&[&file]).unwrap_err();
        let file = file.0.display().to_string();
        assert!(error.to_string().contains(&file), "{len}: {error}");
    }
    let mut longer = whole;
    longer.push(0);
    assert!(open(&[&Temporary::new(&longer)]).is_err());
}

#[test]
fn hostile_headers_are_refused() {
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        Temporary::new(&bytes)
    };
    let max = u64::MAX;
    let headers = [
        "not json".to_owned(),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#.to_owned(),
        r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#.to_owned(),
        r#"{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,4]}}"#.to_owned(),
        format!(r#"{{"a":{{"dtype":"F32","shape":[{max},{max}],"data_offsets":[0,4]}}}}"#),
        format!(r#"{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[{max},{max}]}}}}"#),
    ];
    for header in headers {
        let file = file(&header, 4);
        let error = open(&[&file]).unwrap_err();
        assert!(
            matches!(error, WeightsError::Format { .. }),
            "{header}: {error}"
        );
    }
    let huge = Temporary::new(&u64::MAX.to_le_bytes());
    assert!(matches!(open(&[&huge]), Err(WeightsError::Format { .. })));
}

#[test]
fn a_form_that_candle_does_not_know_is_told_by_name() {
    let header = r#"{"a":{"dtype":"F8_E5M2","shape":[4],"data_offsets":[0,4]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 4]);
    let file = Temporary::new(&bytes);
    let weights = open(&[&file]).unwrap();
    let error = weights.tensor("a", &[4], None, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("stored as F8_E5M2"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_told_by_name() {
    let error = Weights::open(&[PathBuf::from("no/such.safetensors")]).unwrap_err();
    assert!(error.to_string().contains("no/such.safetensors"), "{error}");
}

/// The bytes 0, 1, 2… as a file.
fn counting(name: &'static str, len: u8) -> WeightFile {
    let bytes: Vec<u8> = (0..len).collect();
    WeightFile::from_static(name, bytes.leak())
}

fn raw(name: &str, dtype: StoredDtype, shape: &[usize], range: Range<usize>) -> RawTensor {
    RawTensor {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        range,
    }
}

#[test]
fn raw_tensors_load_from_where_they_lie_aligned_or_not() {
    let mut weights = Weights::empty();
    let tensors = vec![
        raw("even", StoredDtype::I16, &[2, 2], 4..12),
        raw("odd", StoredDtype::I16, &[2], 7..11),
        raw("scalar", StoredDtype::U8, &[], 31..32),
        raw("nothing", StoredDtype::F32, &[3, 0], 32..32),
    ];
    weights.add_raw(counting("file", 32), tensors).unwrap();
    let even = weights.tensor("even", &[2, 2], None, &Device::Cpu).unwrap();
    assert_eq!(
        even.to_vec2::<i16>().unwrap(),
        [[0x0504, 0x0706], [0x0908, 0x0b0a]]
    );
    let odd = weights.tensor("odd", &[2], None, &Device::Cpu).unwrap();
    assert_eq!(odd.to_vec1::<i16>().unwrap(), [0x0807, 0x0a09]);
    let scalar = weights.tensor("scalar", &[], None, &Device::Cpu).unwrap();
    assert_eq!(scalar.to_scalar::<u8>().unwrap(), 31);
    assert_eq!(weights.shape("nothing"), Some(vec![3, 0]));
    assert_eq!(weights.total_bytes(), 8 + 4 + 1);
}

#[test]
fn raw_tensors_that_cannot_be_are_refused_and_nothing_is_added() {
    let cases = [
        (
            raw("a", StoredDtype::I16, &[3], 28..34),
            "the tensor `a` in file should lie at 28..34, but the file has 32 bytes",
        ),
        (
            raw("a", StoredDtype::I16, &[3], 0..8),
            "the tensor `a` in file has 8 bytes, which is not what the shape [3] takes in I16",
        ),
        (
            raw("a", StoredDtype::F4, &[3], 0..1),
            "the tensor `a` in file has 1 bytes, which is not what the shape [3] takes in F4",
        ),
        (
            raw("a", StoredDtype::U8, &[1 << 40, 1 << 40], 0..1),
            "too large to be counted",
        ),
        (
            raw("good", StoredDtype::U8, &[1], 0..1),
            "the tensor `good` is in file and again in file",
        ),
    ];
    let reversed = Range { start: 8, end: 4 };
    let good = || raw("good", StoredDtype::U8, &[1], 0..1);
    let mut weights = Weights::empty();
    for (tensor, expected) in cases {
        let tensors = vec![good(), tensor];
        let error = weights.add_raw(counting("file", 32), tensors).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let tensors = vec![good(), raw("a", StoredDtype::U8, &[0], reversed)];
    weights.add_raw(counting("file", 32), tensors).unwrap_err();
    assert_eq!(weights.names().count(), 0);
}

#[test]
fn merged_weights_keep_their_values_under_the_prefix() {
    let make = |name, range| {
        let mut weights = Weights::empty();
        let tensors = vec![raw("a", StoredDtype::U8, &[1], range)];
        weights.add_raw(counting(name, 32), tensors).unwrap();
        weights
    };
    let mut weights = Weights::empty();
    weights.merge("first.", make("one", 1..2)).unwrap();
    weights.merge("second.", make("two", 2..3)).unwrap();
    let value = |weights: &Weights, name| {
        let tensor = weights.tensor(name, &[1], None, &Device::Cpu).unwrap();
        tensor.to_vec1::<u8>().unwrap()
    };
    assert_eq!(weights.names().collect::<Vec<_>>(), ["first.a", "second.a"]);
    assert_eq!(value(&weights, "first.a"), [1]);
    assert_eq!(value(&weights, "second.a"), [2]);
    let error = weights.merge("second.", make("three", 3..4)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tensor `second.a` is in two and again in three"
    );
    assert_eq!(value(&weights, "second.a"), [2]);
}

#[test]
fn an_open_file_needs_no_path() {
    let temporary = Temporary::new(&shard(&[("a", DType::F32)]));
    let file = std::fs::File::open(&temporary.0).unwrap();
    drop(temporary);
    let file = WeightFile::from_file("unnamed".to_owned(), &file).unwrap();
    assert_eq!(file.name(), "unnamed");
    let mut weights = Weights::empty();
    weights.add(file.clone()).unwrap();
    assert_eq!(weights.shape("a"), Some(vec![2, 2]));
    assert!(!format!("{file:?}").contains("[0"), "{file:?}");
}

fn part(source: &str, first: usize, offsets: &[usize], sizes: &[usize]) -> Part {
    Part {
        source: source.to_owned(),
        first,
        offsets: offsets.to_vec(),
        sizes: sizes.to_vec(),
    }
}

fn joined(shape: &[usize], parts: Vec<Part>) -> JoinedTensor {
    JoinedTensor {
        name: "joined".to_owned(),
        shape: shape.to_vec(),
        parts,
    }
}

#[test]
fn parts_come_together_in_their_places() {
    let weights = || {
        let mut weights = Weights::empty();
        for (name, start) in [("a", 0), ("b", 16)] {
            let tensors = vec![raw(name, StoredDtype::U8, &[2, 6], start..start + 12)];
            weights.add_raw(counting(name, 32), tensors).unwrap();
        }
        weights
    };
    let bytes = |tensor: JoinedTensor| {
        let shape = tensor.shape.clone();
        let weights = weights().join(vec![tensor]).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["joined"]);
        assert_eq!(weights.total_bytes(), shape.iter().product::<usize>());
        let tensor = weights.tensor("joined", &shape, None, &Device::Cpu);
        tensor
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<u8>()
            .unwrap()
    };
    let rows = vec![
        part("b", 0, &[1, 0], &[1, 3]),
        part("a", 3, &[0, 0], &[1, 3]),
    ];
    assert_eq!(bytes(joined(&[2, 3], rows)), [3, 4, 5, 16, 17, 18]);
    let columns = vec![
        part("a", 6, &[0, 0], &[2, 1]),
        part("b", 6, &[0, 1], &[2, 2]),
    ];
    assert_eq!(bytes(joined(&[2, 3], columns)), [6, 22, 23, 7, 24, 25]);
    let cube = vec![
        part("a", 0, &[0, 0, 0], &[2, 1, 2]),
        part("b", 0, &[0, 1, 0], &[2, 1, 2]),
    ];
    assert_eq!(
        bytes(joined(&[2, 2, 2], cube)),
        [0, 1, 16, 17, 2, 3, 18, 19]
    );
    assert_eq!(bytes(joined(&[], vec![part("b", 11, &[], &[])])), [27]);
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let refused = |shape: &[usize], parts: Vec<Part>| {
        let mut weights = Weights::empty();
        let tensors = vec![
            raw("a", StoredDtype::U8, &[8], 0..8),
            raw("wide", StoredDtype::F32, &[2], 8..16),
        ];
        weights.add_raw(counting("file", 32), tensors).unwrap();
        weights
            .join(vec![joined(shape, parts)])
            .unwrap_err()
            .to_string()
    };
    for parts in [
        vec![part("a", 1, &[0], &[8])],
        vec![part("a", usize::MAX, &[0], &[8])],
        vec![part("a", 0, &[1], &[8])],
        vec![part("a", 0, &[usize::MAX], &[8])],
        vec![part("a", 0, &[0, 0], &[8, 1])],
        vec![part("a", 0, &[0], &[6]), part("wide", 0, &[6], &[2])],
    ] {
        let words = refused(&[8], parts);
        assert!(words.contains("does not fit"), "{words}");
    }
    let words = refused(&[8], vec![part("a", 0, &[0], &[4])]);
    assert!(words.contains("4 values in all"), "{words}");
    let words = refused(&[8], Vec::new());
    assert!(words.contains("0 values in all"), "{words}");
    let words = refused(&[1], vec![part("none", 0, &[0], &[1])]);
    assert!(words.contains("no tensor `none`"), "{words}");
}
