//! How many connections come from where.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Bits of an IPv6 address that tell one customer's network: a host has as many addresses in it as
/// it likes.
const V6_NETWORK: u128 = !0 << 64;

type Counts = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Counts connections by their other end.
#[derive(Debug)]
pub(crate) struct Peers {
    limit: Option<usize>,
    counts: Counts,
}

/// A connection that counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    /// `None` where nothing is counted.
    counted: Option<(Counts, IpAddr)>,
}

impl Peers {
    /// Lets `limit` connections come from each address, or any number.
    pub(crate) fn new(limit: Option<usize>) -> Self {
        Self {
            limit,
            counts: Counts::default(),
        }
    }

    /// Takes a connection from `address`, unless there are enough.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Guest> {
        let Some(limit) = self.limit else {
            return Some(Guest { counted: None });
        };
        let network = network(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Guest {
            counted: Some((Arc::clone(&self.counts), network)),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let Some((counts, network)) = &self.counted else {
            return;
        };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(network) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(network);
            }
        }
    }
}

/// What counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & V6_NETWORK).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_share() {
        let peers = Peers::new(Some(2));
        let enter = |address: &str| peers.enter(address.parse().unwrap());
        let first = enter("10.0.0.1").unwrap();
        let _second = enter("::ffff:10.0.0.1").unwrap();
        assert!(enter("10.0.0.1").is_none());
        let _other = enter("10.0.0.2").unwrap();
        let _v6 = [enter("2001:db8::1").unwrap(), enter("2001:db8::2").unwrap()];
        assert!(enter("2001:db8::ffff:3").is_none());
        assert!(enter("2001:db8:0:1::1").is_some());
        drop(first);
        assert!(enter("10.0.0.1").is_some());
    }

    #[test]
    fn what_has_left_is_forgotten() {
        let peers = Peers::new(Some(1));
        for _ in 0..3 {
            drop(peers.enter("10.0.0.1".parse().unwrap()).unwrap());
        }
        assert!(peers.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let peers = Peers::new(None);
        let guests: Vec<_> = (0..10)
            .map(|_| peers.enter("10.0.0.1".parse().unwrap()).unwrap())
            .collect();
        assert!(peers.counts.lock().unwrap().is_empty());
        drop(guests);
    }
}
