//! Bytes of an asset on their way into memory.

use std::time::Instant;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, EXPECT};
use axum::http::{HeaderMap, HeaderName};
use futures::StreamExt as _;
use tokio::time::timeout;
use vlmd_api::AssetId;

use super::ledger::{About, Owner};
use super::{AssetRefusal, AssetStore, essence, shown};
use crate::ServerConfig;
use crate::body;
use crate::error::Refusal;

/// Comes with the bytes, as the description that the asset was made with.
const DESCRIPTION: HeaderName = HeaderName::from_static("x-amz-meta-nvcf-asset-description");

/// An upload. Counts the bytes that have come, and gives them back unless it is finished.
#[derive(Debug)]
pub(super) struct Upload {
    store: AssetStore,
    id: AssetId,
    owner: Owner,
    about: About,
    reserved: usize,
}

impl Upload {
    pub(super) fn new(store: AssetStore, id: AssetId, owner: Owner, about: About) -> Self {
        Self {
            store,
            id,
            owner,
            about,
            reserved: 0,
        }
    }

    /// Refuses headers that differ from what the asset was made with. What is not sent does not
    /// differ.
    fn check_headers(&self, headers: &HeaderMap) -> Result<(), AssetRefusal> {
        if let Some(given) = headers.get(CONTENT_TYPE) {
            let given = String::from_utf8_lossy(given.as_bytes());
            if essence(&given) != essence(&self.about.content_type) {
                return Err(AssetRefusal::OtherType {
                    declared: shown(&self.about.content_type),
                    given: shown(&given),
                });
            }
        }
        if let Some(given) = headers.get(DESCRIPTION)
            && !is_same(given.as_bytes(), &self.about.description)
        {
            return Err(AssetRefusal::OtherDescription);
        }
        Ok(())
    }

    /// Makes room for more bytes.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), AssetRefusal> {
        let mut ledger = self.store.ledger();
        ledger.reserve(self.owner, bytes, Instant::now())?;
        self.reserved = self.reserved.saturating_add(bytes);
        Ok(())
    }

    /// Gives all room back.
    fn give_back(&mut self) {
        let reserved = std::mem::take(&mut self.reserved);
        self.store.ledger().release(self.owner, reserved);
    }

    /// Keeps the bytes, for which room was made.
    pub(super) fn finish(mut self, file: Vec<u8>) -> Result<(), AssetRefusal> {
        let kept = self
            .store
            .ledger()
            .keep(self.id, file.into(), Instant::now());
        if !kept {
            return Err(AssetRefusal::NoUpload);
        }
        self.reserved = 0;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Whether a header says `text`. Headers are bytes: some clients write UTF-8, others Latin-1.
/// White space around a value is not part of it.
fn is_same(header: &[u8], text: &str) -> bool {
    let text = text.trim();
    let latin: String = header.iter().copied().map(char::from).collect();
    header == text.as_bytes() || latin == text
}

/// Takes the bytes of an asset: who they come from, whether they fit, and then themselves.
pub(crate) async fn receive(
    store: &AssetStore,
    config: &ServerConfig,
    id: &str,
    token: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(), Refusal> {
    let limit = store.limits.file_bytes;
    let begun = store.upload(id, token).and_then(|upload| {
        upload.check_headers(headers)?;
        match body::declared_length(headers) {
            Some(length) if length > limit as u64 => Err(AssetRefusal::TooLarge {
                limit,
                given: format!("has {length}"),
            }),
            _ => Ok(upload),
        }
    });
    let mut upload = match begun {
        Ok(upload) => upload,
        Err(refusal) => {
            // A client that asked first has sent nothing and will not.
            if !headers.contains_key(EXPECT) {
                body::linger(body.into_data_stream(), limit).await;
            }
            return Err(refusal.into());
        }
    };
    let read = collect(&mut upload, body);
    let file = timeout(config.body_timeout, read)
        .await
        .map_err(|_| Refusal::BodyTimeout(config.body_timeout.as_secs()))??;
    if file.is_empty() {
        return Err(AssetRefusal::NoBytes.into());
    }
    Ok(upload.finish(file)?)
}

/// Room is made for what has come, not for what is declared: a client that says much and sends
/// nothing takes nothing from others.
async fn collect(upload: &mut Upload, body: Body) -> Result<Vec<u8>, Refusal> {
    let limit = upload.store.limits.file_bytes;
    let mut stream = body.into_data_stream();
    let mut file = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| Refusal::BodyBroken)?;
        let refusal = if chunk.len() > limit.saturating_sub(file.len()) {
            Some(AssetRefusal::TooLarge {
                limit,
                given: "has more".to_owned(),
            })
        } else {
            upload.grow(chunk.len()).err()
        };
        if let Some(refusal) = refusal {
            drop(file);
            upload.give_back();
            body::linger(stream, limit).await;
            return Err(refusal.into());
        }
        file.extend_from_slice(&chunk);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use axum::http::header::CONTENT_LENGTH;
    use vlmd_api::CreateAsset;

    use super::super::AssetLimits;
    use super::*;

    fn made(limits: AssetLimits, description: &str) -> (AssetStore, String, String) {
        let store = AssetStore::new(limits);
        let asset = CreateAsset {
            content_type: "image/png".into(),
            description: description.into(),
        };
        let created = store.create(Owner::from(None), &asset).unwrap();
        (store, created.id.to_string(), created.token)
    }

    #[tokio::test]
    async fn what_breaks_off_takes_no_room() {
        let (store, id, token) = made(AssetLimits::default(), "");
        let mut upload = store.upload(&id, &token).unwrap();
        upload.grow(10).unwrap();
        assert_eq!(store.bytes(), 10);
        drop(upload);
        assert_eq!(store.bytes(), 0);
        // Nor does what comes too late.
        let mut upload = store.upload(&id, &token).unwrap();
        upload.grow(10).unwrap();
        store.delete(Owner::from(None), &id).unwrap();
        assert_eq!(upload.finish(vec![0; 10]), Err(AssetRefusal::NoUpload));
        assert_eq!(store.bytes(), 0);
    }

    #[tokio::test]
    async fn headers_must_not_differ_from_the_assets() {
        let (store, id, token) = made(AssetLimits::default(), "ein Schneemännchen ");
        let upload = store.upload(&id, &token).unwrap();
        let verdict = |name: HeaderName, value: &[u8]| {
            let value = HeaderValue::from_bytes(value).unwrap();
            let checked = upload.check_headers(&HeaderMap::from_iter([(name, value)]));
            checked.map_err(|refusal| refusal.code())
        };
        assert_eq!(upload.check_headers(&HeaderMap::new()), Ok(()));
        assert_eq!(verdict(CONTENT_TYPE, b"Image/PNG; x=1"), Ok(()));
        let other = Err("unsupported_content_type");
        assert_eq!(verdict(CONTENT_TYPE, b"image/jpeg"), other);
        assert_eq!(verdict(CONTENT_TYPE, b"\xff"), other);
        assert_eq!(
            verdict(DESCRIPTION, "ein Schneemännchen".as_bytes()),
            Ok(())
        );
        assert_eq!(verdict(DESCRIPTION, b"ein Schneem\xe4nnchen"), Ok(()));
        assert_eq!(
            verdict(DESCRIPTION, b"ein Schneemann"),
            Err("invalid_value")
        );
    }

    #[tokio::test]
    async fn bytes_are_bounded_with_a_declared_length_or_without() {
        let limits = AssetLimits {
            file_bytes: 8,
            owner_bytes: 12,
            ..AssetLimits::default()
        };
        let (store, id, token) = made(limits, "");
        let send = async |bytes: &[u8], declared: bool| {
            let mut headers = HeaderMap::new();
            if declared {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            }
            let (config, body) = (ServerConfig::default(), Body::from(bytes.to_vec()));
            receive(&store, &config, &id, &token, &headers, body).await
        };
        let status = |sent: Result<(), Refusal>| sent.unwrap_err().status().as_u16();
        assert_eq!(status(send(&[0; 9], true).await), 413);
        assert_eq!(status(send(&[0; 9], false).await), 413);
        assert_eq!(status(send(&[], true).await), 400);
        assert_eq!(store.bytes(), 0);
        send(&[0; 8], false).await.unwrap();
        // Both the old bytes and the new ones count until the new ones are all there.
        assert_eq!(status(send(&[0; 8], true).await), 429);
        assert_eq!(store.bytes(), 8);
        send(&[0; 4], true).await.unwrap();
        assert_eq!(store.bytes(), 4);
    }
}
