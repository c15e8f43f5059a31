//! Digests by which pictures are told apart.
//!
//! Each is taken in a context of its own, over fields that go in with their lengths, so that no
//! two things that differ give the same bytes (CVE-2025-46722 was a key of pixels alone, by which
//! pictures of other shapes were the same).

use std::sync::Arc;

use blake3::Hasher;
use vlmd_media::Picture;

use crate::auth::Caller;

/// Whose pictures are meant.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owner {
    /// By the API key; none where the server takes everybody.
    pub(crate) caller: Option<Caller>,
    /// The request's `cache_salt`. Requests with different ones share nothing.
    pub(crate) cache_salt: Option<Arc<str>>,
}

impl Owner {
    /// The same for the same owner, and for no other. API keys are told apart: how soon an answer
    /// comes would tell who has one whether the holder of another has sent the same prompt.
    pub(crate) fn salt(&self) -> Vec<u8> {
        let mut hasher = Hasher::new_derive_key("vlmd 2026 owner of a prompt");
        self.update(&mut hasher);
        hasher.finalize().as_bytes().to_vec()
    }

    fn update(&self, hasher: &mut Hasher) {
        optional(hasher, self.cache_salt.as_deref().map(str::as_bytes));
        let caller = self.caller.as_ref().map(Caller::as_bytes);
        optional(hasher, caller.map(<[u8; 32]>::as_slice));
    }
}

/// The bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileKey([u8; 32]);

/// The pixels of a decoded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PictureKey([u8; 32]);

/// A name that an owner gave to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NameKey([u8; 32]);

impl FileKey {
    pub(super) fn of(owner: &Owner, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new_derive_key("vlmd 2026 picture file");
        owner.update(&mut hasher);
        field(&mut hasher, bytes);
        Self(hasher.finalize().into())
    }
}

impl PictureKey {
    pub(super) fn of(owner: &Owner, picture: &Picture) -> Self {
        let mut hasher = Hasher::new_derive_key("vlmd 2026 decoded picture");
        owner.update(&mut hasher);
        field(&mut hasher, b"rgb8");
        field(&mut hasher, &picture.width().to_le_bytes());
        field(&mut hasher, &picture.height().to_le_bytes());
        field(&mut hasher, picture.rgb());
        Self(hasher.finalize().into())
    }
}

impl NameKey {
    pub(super) fn of(owner: &Owner, uuid: &str) -> Self {
        let mut hasher = Hasher::new_derive_key("vlmd 2026 named picture");
        owner.update(&mut hasher);
        field(&mut hasher, uuid.as_bytes());
        Self(hasher.finalize().into())
    }
}

fn optional(hasher: &mut Hasher, bytes: Option<&[u8]>) {
    hasher.update(&[u8::from(bytes.is_some())]);
    if let Some(bytes) = bytes {
        field(hasher, bytes);
    }
}

fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn salted(salt: &str) -> Owner {
        Owner {
            cache_salt: Some(salt.into()),
            ..Owner::default()
        }
    }

    #[test]
    fn shape_and_pixels_and_salt_tell_pictures_apart() {
        let picture = |width, height, first| {
            let mut rgb = vec![0; (width * height * 3) as usize];
            rgb[0] = first;
            Picture::from_rgb(width, height, rgb).unwrap()
        };
        let nobody = Owner::default();
        let keys: HashSet<_> = [
            PictureKey::of(&nobody, &picture(2, 4, 0)),
            PictureKey::of(&nobody, &picture(4, 2, 0)),
            PictureKey::of(&nobody, &picture(8, 1, 0)),
            PictureKey::of(&nobody, &picture(2, 4, 1)),
            PictureKey::of(&salted(""), &picture(2, 4, 0)),
            PictureKey::of(&salted("s"), &picture(2, 4, 0)),
        ]
        .into();
        assert_eq!(keys.len(), 6);
        let again = PictureKey::of(&salted("s"), &picture(2, 4, 0));
        assert!(keys.contains(&again));
    }

    #[test]
    fn no_field_runs_into_the_next() {
        assert_ne!(
            FileKey::of(&salted("ab"), b"c"),
            FileKey::of(&salted("a"), b"bc")
        );
        assert_ne!(
            FileKey::of(&salted(""), b""),
            FileKey::of(&Owner::default(), b"")
        );
        assert_ne!(
            NameKey::of(&salted("ab"), "c"),
            NameKey::of(&salted("a"), "bc")
        );
    }

    #[test]
    fn names_and_what_is_remembered_belong_to_their_owner() {
        let owner = |key: Option<u8>| Owner {
            caller: key.map(|byte| Caller::from([byte; 32])),
            ..Owner::default()
        };
        let owners = [owner(None), owner(Some(0)), owner(Some(1)), salted("x")];
        let keys: HashSet<_> = owners.iter().map(|owner| NameKey::of(owner, "u")).collect();
        assert_eq!(keys.len(), 4);
        // So does what is remembered of a file, although its content is the same.
        let files: HashSet<_> = owners
            .iter()
            .map(|owner| FileKey::of(owner, b"f"))
            .collect();
        assert_eq!(files.len(), 4);
    }
}
