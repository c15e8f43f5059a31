//! Pictures that were uploaded before they are asked about.
//!
//! NVIDIA's hosted endpoint took pictures above 180 KB only this way, and many clients still do
//! it: make an asset, put its bytes to the address that comes back, name it in requests, delete
//! it. Here the bytes wait in memory, within bounds for all and for each API key, until they are
//! deleted or an hour has passed. Who has not made an asset does not know that it is there.
//!
//! Nothing here looks into the bytes: a picture that is named goes through the media gate like
//! one that was just sent.

mod ledger;
mod limits;
mod refusal;
mod upload;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use axum::http::HeaderMap;
use vlmd_api::{AssetId, CreateAsset};

pub(crate) use ledger::{About, Owner};
pub use limits::AssetLimits;
pub(crate) use refusal::AssetRefusal;
pub(crate) use upload::receive;

use ledger::{Ledger, Token};
use upload::Upload;

/// Names the assets that a request refers to.
const REFERENCES: &str = "nvcf-input-asset-references";

/// How it is written in messages: NVIDIA's way.
const REFERENCES_FIELD: &str = "NVCF-INPUT-ASSET-REFERENCES";

/// All assets. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct AssetStore {
    limits: AssetLimits,
    ledger: Arc<Mutex<Ledger>>,
}

/// An asset that was just made.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) id: AssetId,
    /// What its upload has to present. A secret.
    pub(crate) token: String,
}

impl AssetStore {
    pub(crate) fn new(limits: AssetLimits) -> Self {
        Self {
            limits,
            ledger: Arc::new(Mutex::new(Ledger::new(limits))),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all assets, those that are on their way included.
    pub(crate) fn bytes(&self) -> usize {
        self.ledger().bytes()
    }

    /// Makes an asset without bytes.
    pub(crate) fn create(
        &self,
        owner: Owner,
        asset: &CreateAsset,
    ) -> Result<Created, AssetRefusal> {
        if self.limits.bytes == 0 {
            return Err(AssetRefusal::Disabled);
        }
        let content_type = essence(&asset.content_type);
        if !refusal::TYPES.contains(&content_type.as_str()) {
            let given = shown(&asset.content_type);
            return Err(AssetRefusal::Type { given });
        }
        let about = About {
            content_type: asset.content_type.as_str().into(),
            description: asset.description.as_str().into(),
            created: SystemTime::now(),
        };
        let mut ledger = self.ledger();
        let (id, token) = ledger.create(owner, about, Instant::now())?;
        if !ledger.swept {
            ledger.swept = true;
            tokio::spawn(sweep(Arc::downgrade(&self.ledger)));
        }
        Ok(Created {
            id,
            token: token.text(),
        })
    }

    /// The assets of an owner, oldest first.
    pub(crate) fn list(&self, owner: Owner) -> Vec<(AssetId, About)> {
        self.ledger().list(owner, Instant::now())
    }

    /// An asset of an owner, by its id as a path gives it.
    pub(crate) fn about(&self, owner: Owner, id: &str) -> Result<(AssetId, About), AssetRefusal> {
        let found = AssetId::parse(id).and_then(|id| {
            let about = self.ledger().about(owner, id, Instant::now())?;
            Some((id, about))
        });
        found.ok_or_else(|| AssetRefusal::NotFound(shown(id)))
    }

    /// Deletes an asset of an owner, by its id as a path gives it.
    pub(crate) fn delete(&self, owner: Owner, id: &str) -> Result<(), AssetRefusal> {
        let found =
            AssetId::parse(id).is_some_and(|id| self.ledger().delete(owner, id, Instant::now()));
        found
            .then_some(())
            .ok_or_else(|| AssetRefusal::NotFound(shown(id)))
    }

    /// Bytes of an asset that the request names at `field`.
    pub(crate) fn file(
        &self,
        owner: Owner,
        id: &str,
        field: &str,
    ) -> Result<Arc<[u8]>, AssetRefusal> {
        let found = AssetId::parse(id).and_then(|id| self.ledger().file(owner, id, Instant::now()));
        let (field, id) = (field.to_owned(), shown(id));
        match found {
            Some(Some(file)) => Ok(file),
            Some(None) => Err(AssetRefusal::Empty { field, id }),
            None => Err(AssetRefusal::Unknown { field, id }),
        }
    }

    /// Refuses a request whose header names an asset that its owner does not have. The header
    /// may come several times, with several ids each, or be empty.
    pub(crate) fn check_references(
        &self,
        owner: Owner,
        headers: &HeaderMap,
    ) -> Result<(), AssetRefusal> {
        for value in headers.get_all(REFERENCES) {
            let value = String::from_utf8_lossy(value.as_bytes());
            let ids = value.split(',').map(str::trim).filter(|id| !id.is_empty());
            for id in ids {
                self.file(owner, id, REFERENCES_FIELD)?;
            }
        }
        Ok(())
    }

    /// Begins to take the bytes of an asset.
    fn upload(&self, id: &str, token: &str) -> Result<Upload, AssetRefusal> {
        let found = AssetId::parse(id).zip(Token::parse(token));
        let found = found.and_then(|(id, token)| {
            let (owner, about) = self.ledger().upload(id, token, Instant::now())?;
            Some(Upload::new(self.clone(), id, owner, about))
        });
        found.ok_or(AssetRefusal::NoUpload)
    }
}

/// Drops assets when they end, as long as there are any that do.
async fn sweep(ledger: Weak<Mutex<Ledger>>) {
    loop {
        let next = {
            let Some(ledger) = ledger.upgrade() else {
                return;
            };
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.sweep(Instant::now());
            let next = ledger.next_end();
            ledger.swept = next.is_some();
            next
        };
        match next {
            Some(next) => tokio::time::sleep_until(next.into()).await,
            None => return,
        }
    }
}

/// A media type without its parameters, in lower case.
fn essence(content_type: &str) -> String {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// A client's word, short enough to repeat.
fn shown(word: &str) -> String {
    let word: String = word.chars().take(64).collect();
    format!("`{}`", word.escape_debug())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::HeaderValue;

    use super::*;

    fn png() -> CreateAsset {
        CreateAsset {
            content_type: "image/png".into(),
            description: String::new(),
        }
    }

    #[tokio::test]
    async fn the_header_may_be_empty_and_must_not_name_strangers() {
        let store = AssetStore::new(AssetLimits::default());
        let owner = Owner::from(None);
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.append(REFERENCES, HeaderValue::from_static(" , "));
            headers.append(REFERENCES, HeaderValue::from_str(value).unwrap());
            store.check_references(owner, &headers)
        };
        assert_eq!(check(""), Ok(()));
        let created = store.create(owner, &png()).unwrap();
        let id = created.id.to_string();
        assert_eq!(check(&id).unwrap_err().code(), "asset_not_uploaded");
        let mut upload = store.upload(&id, &created.token).unwrap();
        upload.grow(1).unwrap();
        upload.finish(vec![1]).unwrap();
        assert_eq!(check(&format!(" ,{id} ,, {id}")), Ok(()));
        for strangers in ["x", &AssetId::fresh().to_string(), &format!("{id},x")] {
            let refusal = check(strangers).unwrap_err();
            assert_eq!(refusal.code(), "unknown_asset", "{strangers}");
            assert_eq!(refusal.param().as_deref(), Some(REFERENCES_FIELD));
        }
    }

    #[tokio::test]
    async fn only_pictures_are_taken_and_none_where_there_is_no_room() {
        let store = AssetStore::new(AssetLimits::default());
        let create = |store: &AssetStore, content_type: &str| {
            let asset = CreateAsset {
                content_type: content_type.into(),
                description: String::new(),
            };
            store.create(Owner::from(None), &asset)
        };
        assert!(create(&store, "Image/PNG; x=y").is_ok());
        for other in ["", "text/html", "image/svg+xml", "video/mp4", "image/png/x"] {
            let refusal = create(&store, other).unwrap_err();
            assert_eq!(refusal.code(), "unsupported_content_type", "{other}");
        }
        let limits = AssetLimits {
            bytes: 0,
            ..AssetLimits::default()
        };
        let none = AssetStore::new(limits);
        let refusal = create(&none, "image/png").unwrap_err();
        assert_eq!(refusal, AssetRefusal::Disabled);
    }

    #[tokio::test]
    async fn assets_are_dropped_when_they_end_although_nobody_asks() {
        let limits = AssetLimits {
            ttl: Duration::from_millis(30),
            ..AssetLimits::default()
        };
        let store = AssetStore::new(limits);
        for _ in 0..2 {
            let created = store.create(Owner::from(None), &png()).unwrap();
            let id = created.id.to_string();
            let mut upload = store.upload(&id, &created.token).unwrap();
            upload.grow(9).unwrap();
            upload.finish(vec![0; 9]).unwrap();
            assert_eq!(store.bytes(), 9);
            let begin = Instant::now();
            // `bytes` sweeps nothing.
            while store.bytes() > 0 {
                assert!(begin.elapsed() < Duration::from_secs(20));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
