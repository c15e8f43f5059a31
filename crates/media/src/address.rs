//! Which addresses the gate connects to.
//!
//! A URL in a request makes this server a client inside the operator's network. So only
//! addresses of the public Internet are reached, unless the operator names a host. The tables
//! follow IANA's special-purpose address registries; what they do not list as globally
//! reachable is refused, as is every IPv6 form that carries an IPv4 address inside (mapped,
//! NAT64, 6to4, Teredo, ISATAP), since who unwraps it and where cannot be known here. Only a
//! network's own NAT64 prefix looks like any other address, and must be closed in the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 blocks that are not the public Internet.
const CLOSED_V4: [Ipv4Net; 19] = [
    v4(0, 0, 0, 0, 8),        // "this network"; 0.0.0.0 reaches the own host on Linux
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT; one cloud keeps its metadata service here
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's host agent, public by number only
    v4(169, 254, 0, 0, 16),   // link-local, with most clouds' metadata service
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // IETF protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 52, 193, 0, 24),  // automatic multicast tunnelling
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(192, 175, 48, 0, 24),  // AS112
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, and limited broadcast
];

/// Global unicast, the only IPv6 block that public hosts have addresses in. Outside lie loopback,
/// the unspecified address, mapped and compatible IPv4, NAT64, unique local, link-local,
/// site-local and multicast addresses.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// Blocks of [`GLOBAL_V6`] that are not the public Internet.
const CLOSED_V6: [Ipv6Net; 5] = [
    v6(0x2001, 0, 23),     // IETF protocol assignments: Teredo, benchmarking, ORCHID
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4
    AS112_V6,              // AS112, like its IPv4 blocks
    v6(0x3fff, 0, 20),     // documentation
];

const AS112_V6: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48);

/// Whether an address belongs to the public Internet.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !CLOSED_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => {
            GLOBAL_V6.contains(&address)
                && !CLOSED_V6.iter().any(|net| net.contains(&address))
                && !is_isatap(address)
        }
    }
}

/// Whether the lower half is an ISATAP interface (RFC 5214, 6.1), of which the last 32 bits are an
/// IPv4 address that a router may send to.
fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [.., 0 | 0x200, 0x5efe, _, _])
}

/// A host that may be fetched from although its addresses are not public: one value of
/// `--allow-media-host`.
///
/// Parsed from a host name (`media.internal`), an address (`10.0.0.7`, `fd00::7`), either with a
/// port (`media.internal:8080`, `[fd00::7]:8080`), or a block of addresses (`10.0.0.0/8`).
/// A name is trusted whatever it resolves to; a block and an address count however they are
/// reached. Public hosts stay reachable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowHost {
    target: Target,
    /// Any, if not given.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// Lower case, in the ASCII form of international names, without the final dot.
    Name(String),
    Net(IpNet),
}

/// A value of `--allow-media-host` that names no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither a host name nor an IP address, with or without a port, nor a CIDR block")]
pub struct ParseAllowHostError(String);

impl FromStr for AllowHost {
    type Err = ParseAllowHostError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let net = |address: IpAddr| Target::Net(IpNet::from(address));
        if let Ok(block) = text.parse::<IpNet>() {
            let target = Target::Net(block.trunc());
            return Ok(Self { target, port: None });
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let target = net(address);
            return Ok(Self { target, port: None });
        }
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self {
                target: net(socket.ip()),
                port: Some(socket.port()),
            });
        }
        let invalid = || ParseAllowHostError(text.to_owned());
        let (host, port) = match text.rsplit_once(':') {
            // A colon within brackets belongs to the address.
            Some((host, port)) if !port.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| invalid())?))
            }
            _ => (text, None),
        };
        let target = match url::Host::parse(host).map_err(|_| invalid())? {
            url::Host::Domain(name) if name.contains('*') => return Err(invalid()),
            url::Host::Domain(name) => Target::Name(name.trim_end_matches('.').to_owned()),
            url::Host::Ipv4(address) => net(address.into()),
            url::Host::Ipv6(address) => net(address.into()),
        };
        Ok(Self { target, port })
    }
}

impl fmt::Display for AllowHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.port) {
            (Target::Name(name), None) => write!(f, "{name}"),
            (Target::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (Target::Net(net), Some(port)) => SocketAddr::new(net.addr(), port).fmt(f),
            (Target::Net(net), None) if net.prefix_len() == net.max_prefix_len() => {
                net.addr().fmt(f)
            }
            (Target::Net(net), None) => net.fmt(f),
        }
    }
}

/// The public Internet and what the operator added to it.
#[derive(Debug)]
pub(crate) struct AddressPolicy {
    allowed: Vec<AllowHost>,
}

impl AddressPolicy {
    pub(crate) fn new(allowed: Vec<AllowHost>) -> Self {
        Self { allowed }
    }

    /// Whether the operator vouches for a host name, so that its addresses need no check.
    pub(crate) fn trusts(&self, name: &str, port: u16) -> bool {
        let name = name.trim_end_matches('.');
        self.allowed.iter().any(|entry| {
            matches!(&entry.target, Target::Name(trusted) if trusted == name)
                && entry.port.is_none_or(|allowed| allowed == port)
        })
    }

    /// Whether a connection to `address` may be made.
    pub(crate) fn permits(&self, address: SocketAddr) -> bool {
        is_public(address.ip())
            || self.allowed.iter().any(|entry| {
                matches!(&entry.target, Target::Net(net) if net.contains(&address.ip()))
                    && entry.port.is_none_or(|allowed| allowed == address.port())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_open() {
        let open = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "168.63.129.15",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001:81b::200e",
            "2001:200::1",
        ];
        let closed = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.175.48.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::a00:1",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ];
        for address in open {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in closed {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    /// First, last and middle addresses of a block, and its neighbours.
    fn samples(net: Ipv4Net) -> ([Ipv4Addr; 3], [Ipv4Addr; 2]) {
        let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
        let inside = [first, last, first.midpoint(last)].map(Ipv4Addr::from_bits);
        let outside = [first.wrapping_sub(1), last.wrapping_add(1)].map(Ipv4Addr::from_bits);
        (inside, outside)
    }

    #[test]
    fn blocks_end_where_their_neighbours_begin() {
        let mut open = 0;
        for net in CLOSED_V4 {
            let (inside, outside) = samples(net);
            for address in inside {
                assert!(!is_public(address.into()), "{address}");
            }
            for address in outside {
                let closed = CLOSED_V4.iter().any(|net| net.contains(&address));
                assert_eq!(is_public(address.into()), !closed, "{address}");
                open += usize::from(!closed);
            }
        }
        assert!(open >= 30, "{open}");
    }

    /// Every known way of carrying an IPv4 address in an IPv6 one.
    fn carriers(address: Ipv4Addr) -> Vec<Ipv6Addr> {
        let bits = u128::from(address.to_bits());
        let inverted = u128::from(!address.to_bits());
        let low = |prefix: u128| Ipv6Addr::from_bits(prefix | bits);
        vec![
            low(0),                                              // compatible (RFC 4291)
            low(0xffff << 32),                                   // mapped
            low(0xffff << 48),                                   // translated, SIIT (RFC 2765)
            low(0x0064_ff9b << 96),                              // NAT64 (RFC 6052)
            low(0x0064_ff9b_0001 << 80),                         // NAT64, local (RFC 8215)
            Ipv6Addr::from_bits((0x2002 << 112) | (bits << 80)), // 6to4 (RFC 3056)
            Ipv6Addr::from_bits((0x2001 << 112) | (bits << 64)), // Teredo server (RFC 4380)
            Ipv6Addr::from_bits((0x2001 << 112) | inverted),     // Teredo client
            low((0xfe80 << 112) | (0x5efe << 32)),               // ISATAP, link-local (RFC 5214)
            low((0x2606_4700 << 96) | (0x5efe << 32)),           // ISATAP, global
            low((0x2606_4700 << 96) | (0x0200_5efe << 32)),      // ISATAP, of a public address
        ]
    }

    #[test]
    fn no_carrier_of_an_ipv4_address_is_open() {
        let mut tried = 0;
        for net in CLOSED_V4 {
            let (inside, outside) = samples(net);
            // Public ones too: where they are unwrapped cannot be known.
            for address in inside.into_iter().chain(outside) {
                for carrier in carriers(address) {
                    assert!(!is_public(carrier.into()), "{address} in {carrier}");
                    tried += 1;
                }
            }
        }
        assert_eq!(tried, 19 * 5 * 11);
    }

    #[test]
    fn blocks_of_ipv6_are_closed_to_their_ends() {
        for (net, neighbour) in [
            ("::/3", None),
            ("4000::/2", None),
            ("8000::/1", None),
            ("2001::/23", Some("2001:200::")),
            ("2001:db8::/32", Some("2001:db9::")),
            ("2002::/16", Some("2003::")),
            ("2620:4f:8000::/48", Some("2620:4f:8001::")),
            ("3fff::/20", Some("3fff:1000::")),
            ("fc00::/7", None),
            ("fe80::/10", None),
            ("ff00::/8", None),
        ] {
            let net: Ipv6Net = net.parse().unwrap();
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            for bits in [first, last, first.midpoint(last)] {
                let address = Ipv6Addr::from_bits(bits);
                assert!(!is_public(address.into()), "{address}");
            }
            if let Some(neighbour) = neighbour {
                assert!(is_public(neighbour.parse().unwrap()), "{neighbour}");
            }
        }
    }

    #[test]
    fn allow_values_are_read_in_every_spelling() {
        for (text, canonical) in [
            ("media.internal", "media.internal"),
            ("Media.INTERNAL.", "media.internal"),
            ("media.internal:8080", "media.internal:8080"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.7:80", "10.0.0.7:80"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("fd00::7", "fd00::7"),
            ("[fd00::7]", "fd00::7"),
            ("[fd00::7]:80", "[fd00::7]:80"),
            ("fd00::/8", "fd00::/8"),
        ] {
            let parsed: AllowHost = text.parse().unwrap();
            assert_eq!(parsed.to_string(), canonical, "{text}");
        }
        for text in [
            "",
            "http://host",
            "host/path",
            "host:port",
            "host:",
            "host:70000",
            "*.example.com",
            "user@host",
            "10.0.0.0/33",
            "a b",
        ] {
            assert!(text.parse::<AllowHost>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_allowed_name_is_trusted_on_its_port_only() {
        let policy = AddressPolicy::new(vec![
            "one.internal".parse().unwrap(),
            "two.internal:81".parse().unwrap(),
        ]);
        for (name, port, trusted) in [
            ("one.internal", 80, true),
            ("one.internal.", 443, true),
            ("two.internal", 81, true),
            ("two.internal", 80, false),
            ("sub.one.internal", 80, false),
            ("one.internal.example.com", 80, false),
        ] {
            assert_eq!(policy.trusts(name, port), trusted, "{name}:{port}");
        }
        assert!(!policy.permits("127.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn an_allowed_block_opens_its_addresses_only() {
        let policy = AddressPolicy::new(vec![
            "10.1.0.0/16".parse().unwrap(),
            "127.0.0.1:9000".parse().unwrap(),
            "::1".parse().unwrap(),
        ]);
        for (address, permitted) in [
            ("10.1.255.255:80", true),
            ("10.2.0.0:80", false),
            ("127.0.0.1:9000", true),
            ("127.0.0.1:9001", false),
            ("[::1]:5", true),
            ("[::ffff:10.1.0.1]:80", false),
            ("8.8.8.8:53", true),
        ] {
            assert_eq!(
                policy.permits(address.parse().unwrap()),
                permitted,
                "{address}"
            );
        }
    }
}
