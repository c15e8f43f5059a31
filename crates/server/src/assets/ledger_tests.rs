use super::*;

const LIMITS: AssetLimits = AssetLimits {
    bytes: 100,
    owner_bytes: 60,
    count: 4,
    owner_count: 3,
    file_bytes: 50,
    ttl: Duration::from_secs(10),
};

fn owner(byte: u8) -> Owner {
    Owner::from(Some(Caller::from([byte; 32])))
}

fn about() -> About {
    About {
        content_type: "image/png".into(),
        description: "d".into(),
        created: SystemTime::UNIX_EPOCH,
    }
}

fn file(length: usize) -> Arc<[u8]> {
    vec![7; length].into()
}

/// Makes an asset with bytes.
fn filled(ledger: &mut Ledger, owner: Owner, length: usize, now: Instant) -> AssetId {
    let (id, _) = ledger.create(owner, about(), now).unwrap();
    ledger.reserve(owner, length, now).unwrap();
    assert!(ledger.keep(id, file(length), now));
    id
}

fn quota(refusal: Result<impl Sized, AssetRefusal>) -> Quota {
    match refusal.map(drop).unwrap_err() {
        AssetRefusal::Quota { quota, .. } => quota,
        other => panic!("{other}"),
    }
}

#[test]
fn an_asset_is_its_owners_alone() {
    let (mut ledger, now) = (Ledger::new(LIMITS), Instant::now());
    let id = filled(&mut ledger, owner(1), 5, now);
    let none = Owner::from(None);
    for stranger in [owner(2), none] {
        assert_eq!(ledger.about(stranger, id, now), None);
        assert_eq!(ledger.file(stranger, id, now), None);
        assert_eq!(ledger.list(stranger, now), []);
        assert!(!ledger.delete(stranger, id, now));
    }
    assert_eq!(ledger.file(owner(1), id, now), Some(Some(file(5))));
    assert_eq!(ledger.list(owner(1), now), [(id, about())]);
    assert!(ledger.delete(owner(1), id, now));
    assert!(!ledger.delete(owner(1), id, now));
    assert_eq!(ledger.bytes(), 0);
    assert!(ledger.owners.is_empty(), "nothing is kept of an owner");
}

#[test]
fn only_the_token_of_an_asset_uploads() {
    let (mut ledger, now) = (Ledger::new(LIMITS), Instant::now());
    let (id, token) = ledger.create(owner(1), about(), now).unwrap();
    let (other, other_token) = ledger.create(owner(1), about(), now).unwrap();
    assert_eq!(ledger.file(owner(1), id, now), Some(None), "no bytes yet");
    assert_eq!(ledger.upload(id, token, now), Some((owner(1), about())));
    let spelled = Token::parse(&token.text()).unwrap();
    assert!(ledger.upload(id, spelled, now).is_some());
    assert!(ledger.upload(id, other_token, now).is_none());
    assert!(ledger.upload(other, token, now).is_none());
    assert!(ledger.upload(AssetId::fresh(), token, now).is_none());
    assert!(Token::parse("").is_none());
}

#[test]
fn quotas_hold_for_one_and_for_all() {
    let (mut ledger, now) = (Ledger::new(LIMITS), Instant::now());
    filled(&mut ledger, owner(1), 50, now);
    assert_eq!(
        quota(ledger.reserve(owner(1), 11, now)),
        Quota::OwnerBytes(60)
    );
    assert_eq!(ledger.reserve(owner(1), 10, now), Ok(()));
    assert_eq!(quota(ledger.reserve(owner(2), 41, now)), Quota::Bytes(100));
    assert_eq!(
        quota(ledger.reserve(owner(2), usize::MAX, now)),
        Quota::OwnerBytes(60)
    );
    ledger.release(owner(1), 10);
    assert_eq!(ledger.reserve(owner(2), 50, now), Ok(()));
    assert_eq!(ledger.bytes(), 100);

    ledger.create(owner(1), about(), now).unwrap();
    let third = ledger.create(owner(1), about(), now).unwrap().0;
    assert_eq!(
        quota(ledger.create(owner(1), about(), now)),
        Quota::OwnerCount(3)
    );
    ledger.create(owner(2), about(), now).unwrap();
    assert_eq!(
        quota(ledger.create(owner(2), about(), now)),
        Quota::Count(4)
    );
    assert!(ledger.delete(owner(1), third, now));
    assert!(ledger.create(owner(2), about(), now).is_ok());
}

#[test]
fn what_was_refused_is_told_when_to_come_back() {
    let (mut ledger, now) = (Ledger::new(LIMITS), Instant::now());
    filled(&mut ledger, owner(1), 50, now);
    let later = now + Duration::from_secs(4);
    let refusal = ledger.reserve(owner(1), 50, later).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(7));
    assert!(refusal.to_string().contains("60 bytes"), "{refusal}");
    // Nothing of this owner's will ever end.
    assert_eq!(
        ledger
            .reserve(owner(2), 61, later)
            .unwrap_err()
            .retry_after(),
        None
    );
}

#[test]
fn assets_end_with_all_they_took() {
    let (mut ledger, now) = (Ledger::new(LIMITS), Instant::now());
    let first = filled(&mut ledger, owner(1), 50, now);
    let later = now + Duration::from_secs(4);
    let (second, token) = ledger.create(owner(1), about(), later).unwrap();
    let end = now + LIMITS.ttl;
    assert_eq!(ledger.next_end(), Some(end));
    let before = end - Duration::from_millis(1);
    assert!(ledger.about(owner(1), first, before).is_some());
    assert!(ledger.about(owner(1), first, end).is_none());
    assert_eq!(ledger.bytes(), 0);
    // One that ends while its bytes are on their way leaves them with the upload.
    assert_eq!(ledger.reserve(owner(1), 9, end), Ok(()));
    let end = later + LIMITS.ttl;
    assert!(!ledger.keep(second, file(9), end));
    assert_eq!(ledger.bytes(), 9);
    assert!(ledger.upload(second, token, end).is_none());
    assert_eq!(ledger.next_end(), None);
    ledger.release(owner(1), 9);
    assert!(ledger.owners.is_empty());
}

#[test]
fn bytes_that_come_again_take_the_place_of_the_older() {
    let (mut ledger, now) = (Ledger::new(LIMITS), Instant::now());
    let id = filled(&mut ledger, owner(1), 30, now);
    ledger.reserve(owner(1), 20, now).unwrap();
    assert_eq!(ledger.bytes(), 50, "both, for a moment");
    assert!(ledger.keep(id, file(20), now));
    assert_eq!(ledger.bytes(), 20);
    assert_eq!(ledger.file(owner(1), id, now), Some(Some(file(20))));
}

#[test]
fn a_life_beyond_all_clocks_is_endless() {
    let limits = AssetLimits {
        ttl: Duration::MAX,
        ..LIMITS
    };
    let (mut ledger, now) = (Ledger::new(limits), Instant::now());
    let id = filled(&mut ledger, owner(1), 1, now);
    assert_eq!(ledger.next_end(), None);
    assert!(ledger.about(owner(1), id, now).is_some());
}

#[test]
fn debug_output_shows_no_token_and_no_key() {
    let shown = format!("{:?}", (owner(65), Token::fresh(), Ledger::new(LIMITS)));
    assert!(
        shown.starts_with("(Owner(..), Token(..), Ledger"),
        "{shown}"
    );
}
