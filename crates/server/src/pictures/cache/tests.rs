use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use vlmd_backend::{LevelTable, Pixels, Prepared};
use vlmd_models::{Chat, PrepareError};
use vlmd_text::Tokenizer;

use super::*;

/// Takes pictures as they are, and counts how many.
#[derive(Default)]
struct Counting {
    taken: AtomicUsize,
}

impl Counting {
    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Processor for Counting {
    fn image(&self, picture: &Picture) -> Result<ImageInput, ImageError> {
        self.taken.fetch_add(1, Ordering::SeqCst);
        if picture.width() == 13 {
            return Err(ImageError::Refused("width 13".into()));
        }
        let shape = (1, picture.height() as usize, picture.width() as usize, 3);
        let pixels = Pixels::Levels {
            levels: Tensor::from_slice(picture.rgb(), shape, &Device::Cpu)?,
            table: LevelTable::new([std::array::from_fn(|level| level as f32); 3]),
        };
        Ok(ImageInput::new(vec![pixels], (shape.1, shape.2), 1)?)
    }

    fn compose(&self, _: &Chat, _: &[ImageInput]) -> Result<Prepared, PrepareError> {
        unreachable!("no conversation here")
    }

    fn render(&self, _: &Chat) -> Result<String, PrepareError> {
        unreachable!("no conversation here")
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        unreachable!("no text here")
    }

    fn stop_ids(&self) -> &[u32] {
        &[]
    }
}

fn picture(width: u32, height: u32, level: u8) -> Picture {
    Picture::from_rgb(width, height, vec![level; (width * height * 3) as usize]).unwrap()
}

/// Bytes of an entry for a picture of `pixels`.
fn entry(pixels: usize) -> usize {
    pixels * 3 + ENTRY_BYTES
}

fn file(name: &str) -> FileKey {
    FileKey::of(&Owner::default(), name.as_bytes())
}

struct Fixture {
    cache: ImageCache,
    processor: Counting,
}

impl Fixture {
    fn new(limit: usize) -> Self {
        Self {
            cache: ImageCache::new(limit),
            processor: Counting::default(),
        }
    }

    fn image(&self, name: &str, picture: &Picture) -> Result<ImageInput, ImageError> {
        let owner = Owner::default();
        self.cache
            .image(&self.processor, &owner, Some(file(name)), picture)
    }
}

#[test]
fn a_picture_is_made_once_whatever_file_it_comes_in() {
    let f = Fixture::new(entry(100));
    let first = f.image("a.png", &picture(2, 4, 7)).unwrap();
    let second = f.image("a.bmp", &picture(2, 4, 7)).unwrap();
    assert_eq!((first.key(), f.processor.taken()), (second.key(), 1));
    for name in ["a.png", "a.bmp"] {
        let known = f.cache.recall(&file(name)).unwrap();
        assert_eq!((known.image.key(), known.pixels), (first.key(), 8));
    }
    assert!(f.cache.recall(&file("b.png")).is_none());
    let expected = ImageCacheStats {
        queries: 4,
        hits: 3,
        images: 1,
        bytes: entry(8),
    };
    assert_eq!(f.cache.stats(), expected);
}

#[test]
fn pictures_of_equal_bytes_and_other_shapes_are_others() {
    let f = Fixture::new(entry(1000));
    let wide = f.image("wide", &picture(4, 2, 7)).unwrap();
    let high = f.image("high", &picture(2, 4, 7)).unwrap();
    assert_eq!((wide.size, high.size), ((2, 4), (4, 2)));
    assert_ne!(wide.key(), high.key());
}

#[test]
fn what_is_not_used_goes_with_its_files() {
    let f = Fixture::new(2 * entry(8));
    for level in [1, 2] {
        f.image(&format!("{level}"), &picture(2, 4, level)).unwrap();
    }
    assert!(f.cache.recall(&file("1")).is_some());
    f.image("3", &picture(2, 4, 3)).unwrap();
    let there = ["1", "2", "3"].map(|name| f.cache.recall(&file(name)).is_some());
    assert_eq!(there, [true, false, true]);
    assert_eq!(f.cache.stats().bytes, 2 * entry(8));
    assert_eq!(f.cache.lock().files.len(), 2);
    // What went is made again.
    f.image("2", &picture(2, 4, 2)).unwrap();
    assert_eq!(f.processor.taken(), 4);
}

#[test]
fn a_picture_larger_than_the_cache_is_made_each_time() {
    let f = Fixture::new(entry(8) - 1);
    for _ in 0..2 {
        f.image("a", &picture(2, 4, 1)).unwrap();
        assert!(f.cache.recall(&file("a")).is_none());
    }
    assert_eq!(f.processor.taken(), 2);
    assert_eq!((f.cache.stats().bytes, f.cache.lock().files.len()), (0, 0));
}

#[test]
fn a_cache_of_no_memory_counts_and_digests_nothing() {
    let f = Fixture::new(0);
    assert!(f.cache.file_key(&Owner::default(), b"x").is_none());
    f.image("a", &picture(2, 4, 1)).unwrap();
    assert_eq!(f.cache.stats(), ImageCacheStats::default());
}

#[test]
fn a_picture_that_is_refused_is_not_kept() {
    let f = Fixture::new(entry(1000));
    for _ in 0..2 {
        assert!(f.image("a", &picture(13, 1, 1)).is_err());
    }
    assert_eq!((f.processor.taken(), f.cache.stats().images), (2, 0));
}

#[test]
fn files_of_one_picture_are_bounded() {
    let f = Fixture::new(entry(1000));
    for nth in 0..100 {
        f.image(&format!("{nth}"), &picture(2, 4, 1)).unwrap();
    }
    assert_eq!(f.cache.lock().files.len(), FILES_PER_PICTURE);
    assert!(f.cache.recall(&file("0")).is_none());
    assert!(f.cache.recall(&file("99")).is_some());
    assert_eq!(f.processor.taken(), 1);
}

#[test]
fn requests_side_by_side_get_the_right_picture_within_the_bound() {
    let limit = 3 * entry(8);
    let f = Fixture::new(limit);
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let f = &f;
            scope.spawn(move || {
                for round in 0..400_u32 {
                    let level = (round.wrapping_mul(7) % 5) as u8 + thread % 2;
                    let name = format!("{level} of {}", round % 3);
                    let image = match f.cache.recall(&file(&name)) {
                        Some(known) => known.image,
                        None => f.image(&name, &picture(2, 4, level)).unwrap(),
                    };
                    let values = image.pixels[0].values().unwrap();
                    let found = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(found, vec![f32::from(level); 24]);
                    assert!(f.cache.stats().bytes <= limit);
                }
            });
        }
    });
    let inner = f.cache.lock();
    assert!(inner.files.len() <= 3 * FILES_PER_PICTURE);
    assert!(inner.hits < inner.queries && inner.hits > 0);
}
