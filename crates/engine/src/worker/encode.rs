//! Pictures of those that run: encoded once, together where they fit, in pieces between steps.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use vlmd_backend::{Encoding, ImageInput, ImageKey, Model};

use super::features::FeatureCache;
use super::guard::guarded;
use crate::config::EngineConfig;
use crate::sequence::Sequence;
use crate::stats::Status;

/// What encodes, and what has been encoded.
pub(super) struct Encoder {
    cache: FeatureCache,
    job: Option<Job>,
    /// Pictures of a call that failed: each is tried alone, so that one bad picture fails no
    /// other's request.
    suspects: HashSet<ImageKey>,
    status: Arc<Status>,
}

/// Pictures that are being encoded.
struct Job {
    images: Vec<ImageInput>,
    encoding: Box<dyn Encoding>,
}

/// Pictures that could not be encoded.
struct Failure {
    images: Vec<ImageInput>,
    reason: String,
}

/// What a turn of encoding did.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// Units of work.
    pub(super) units: usize,
    pub(super) took: Duration,
    /// A picture that cannot be encoded.
    pub(super) failed: Option<ImageKey>,
}

impl Encoder {
    pub(super) fn new(cache_bytes: usize, status: Arc<Status>) -> Self {
        Self {
            cache: FeatureCache::new(cache_bytes),
            job: None,
            suspects: HashSet::new(),
            status,
        }
    }

    /// Gives a newcomer the features of those of its pictures that were encoded before.
    pub(super) fn recall(&mut self, sequence: &mut Sequence) {
        let unseen: Vec<ImageKey> = sequence.unseen().map(ImageInput::key).collect();
        for key in unseen {
            self.status.encoder_queries.fetch_add(1, Relaxed);
            if let Some(features) = self.cache.get(key) {
                self.status.encoder_hits.fetch_add(1, Relaxed);
                sequence.see(key, features);
            }
        }
    }

    /// Does about `units` of work, at least a piece, for the pictures that the running wait for,
    /// oldest first.
    pub(super) fn turn(
        &mut self,
        model: &dyn Model,
        running: &mut [Sequence],
        units: usize,
    ) -> Turn {
        let started = Instant::now();
        let mut turn = Turn::default();
        match self.job(model, running) {
            Ok(None) => {}
            Ok(Some(job)) => {
                let before = job.encoding.remaining();
                let failure = self.advance(job, model, running, units).err();
                turn.failed = failure.and_then(|failure| self.blame(&failure));
                let left = self.job.as_ref().map_or(0, |job| job.encoding.remaining());
                turn.units = before.saturating_sub(left);
            }
            Err(failure) => turn.failed = self.blame(&failure),
        }
        turn.took = started.elapsed();
        turn
    }

    /// The job that is under way if anyone still waits for it, else the next.
    fn job(&mut self, model: &dyn Model, running: &[Sequence]) -> Result<Option<Job>, Failure> {
        let wanted = || running.iter().flat_map(Sequence::unseen);
        if let Some(job) = self.job.take() {
            let mut keys = job.images.iter().map(ImageInput::key);
            if keys.any(|key| wanted().any(|image| image.key() == key)) {
                return Ok(Some(job));
            }
        }
        let images = self.next_images(wanted());
        if images.is_empty() {
            return Ok(None);
        }
        match guarded(|| model.begin_encoding(&images.iter().collect::<Vec<_>>())) {
            Ok(encoding) => Ok(Some(Job { images, encoding })),
            Err(reason) => Err(Failure { images, reason }),
        }
    }

    /// Takes a job further: to its end, or back to its place.
    fn advance(
        &mut self,
        job: Job,
        model: &dyn Model,
        running: &mut [Sequence],
        units: usize,
    ) -> Result<(), Failure> {
        let Job {
            images,
            mut encoding,
        } = job;
        let advanced = guarded(|| {
            encoding.advance(units)?;
            // Only then does the clock tell what it cost.
            model.device().synchronize()
        });
        let done = advanced.and_then(|()| {
            if encoding.remaining() > 0 {
                return Ok(None);
            }
            // Replaced, not moved: what is left of it is dropped here in any case.
            let encoding = std::mem::replace(&mut encoding, Box::new(Vec::new()));
            finish(model, &images, encoding).map(Some)
        });
        match done {
            Ok(None) => self.job = Some(Job { images, encoding }),
            Ok(Some(features)) => self.hand_out(&images, features, running),
            Err(reason) => return Err(Failure { images, reason }),
        }
        Ok(())
    }

    /// Pictures for one call, each once, from the first on as many as fit; a suspect alone.
    fn next_images<'a>(&self, wanted: impl Iterator<Item = &'a ImageInput>) -> Vec<ImageInput> {
        let mut images: Vec<ImageInput> = Vec::new();
        let mut pixels = 0_usize;
        for image in wanted {
            if images.iter().any(|known| known.key() == image.key()) {
                continue;
            }
            let suspect = self.suspects.contains(&image.key());
            pixels = pixels.saturating_add(image.area());
            if !images.is_empty() && (suspect || pixels > EngineConfig::ENCODER_CALL_PIXELS) {
                break;
            }
            images.push(image.clone());
            if suspect {
                break;
            }
        }
        images
    }

    fn hand_out(&mut self, images: &[ImageInput], features: Vec<Tensor>, running: &mut [Sequence]) {
        let count = images.len() as u64;
        self.status.images_encoded.fetch_add(count, Relaxed);
        for (image, features) in images.iter().zip(features) {
            self.suspects.remove(&image.key());
            for sequence in &mut *running {
                if sequence.see(image.key(), &features) {
                    sequence.note_seen();
                }
            }
            self.cache.insert(image.key(), features);
        }
        let bytes = self.cache.bytes() as u64;
        self.status.encoder_cache_bytes.store(bytes, Relaxed);
    }

    /// A failure of one picture is its own; of several, it is found out whose it is.
    fn blame(&mut self, failure: &Failure) -> Option<ImageKey> {
        let reason = &failure.reason;
        if let [image] = &failure.images[..] {
            tracing::error!(reason, "a picture could not be encoded");
            self.suspects.remove(&image.key());
            return Some(image.key());
        }
        tracing::warn!(reason, "pictures could not be encoded together");
        let keys = failure.images.iter().map(ImageInput::key);
        self.suspects.extend(keys);
        None
    }
}

/// The features, which must have the shapes that were promised.
fn finish(
    model: &dyn Model,
    images: &[ImageInput],
    encoding: Box<dyn Encoding>,
) -> Result<Vec<Tensor>, String> {
    let features = guarded(|| encoding.finish())?;
    let spec = model.spec();
    let as_promised = |(given, image): (&Tensor, &ImageInput)| match spec.cross_feature_bytes {
        0 => given.dims() == [image.features, spec.hidden_size],
        // What is kept for cross-attention has the model's own shape, and a size.
        each => given.elem_count() * given.dtype().size_in_bytes() <= image.features * each,
    };
    if features.len() == images.len() && features.iter().zip(images).all(as_promised) {
        return Ok(features);
    }
    let shapes: Vec<_> = features.iter().map(Tensor::dims).collect();
    Err(format!(
        "the encoder gave features of shapes {shapes:?} for {} pictures",
        images.len()
    ))
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use vlmd_backend::{LevelTable, Pixels};

    use super::*;
    use crate::block_pool::BlockPool;
    use crate::byte_budget::ByteBudget;

    /// A picture of so many parts in eighty of what a call takes.
    fn image(number: usize, parts: usize) -> ImageInput {
        let width = EngineConfig::ENCODER_CALL_PIXELS / 80;
        let levels = Tensor::zeros((parts, 1, width, 3), DType::U8, &Device::Cpu).unwrap();
        let table = LevelTable::new([[0.; 256]; 3]);
        let pixels = Pixels::Levels { levels, table };
        ImageInput::new(vec![pixels], (number, 1), 1).unwrap()
    }

    #[test]
    fn neighbours_share_a_call_within_the_bound_and_suspects_are_alone() {
        let status = Status::new(BlockPool::new(1), ByteBudget::new(0));
        let mut encoder = Encoder::new(0, Arc::new(status));
        let images: Vec<_> = [40, 40, 40, 90, 1, 1]
            .into_iter()
            .enumerate()
            .map(|(number, parts)| image(number, parts))
            .collect();
        let call = |encoder: &Encoder, wanted: &[usize]| {
            let next = encoder.next_images(wanted.iter().map(|&index| &images[index]));
            let place = |image: &ImageInput| image.size.0;
            next.iter().map(place).collect::<Vec<_>>()
        };
        assert_eq!(call(&encoder, &[0, 0, 1, 2]), [0, 1]);
        assert_eq!(call(&encoder, &[3, 4]), [3], "larger than the bound");
        assert_eq!(call(&encoder, &[4, 3, 5]), [4]);
        assert!(call(&encoder, &[]).is_empty());
        let failure = |numbers: &[usize]| Failure {
            images: numbers.iter().map(|&index| images[index].clone()).collect(),
            reason: "a test".into(),
        };
        assert_eq!(encoder.blame(&failure(&[4, 5])), None);
        assert_eq!(call(&encoder, &[4, 5]), [4]);
        assert_eq!(call(&encoder, &[0, 4]), [0]);
        assert_eq!(encoder.blame(&failure(&[4])), Some(images[4].key()));
    }
}
