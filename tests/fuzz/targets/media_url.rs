//! URLs of pictures and redirects from them: never an address of the operator's own network,
//! however it is written.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, Option<&str>)| {
    let (url, redirect) = input;
    let Ok((url, address)) = vlmd_media::fuzzing::destination(url, redirect) else {
        return;
    };
    assert!(
        url.starts_with("http://") || url.starts_with("https://"),
        "{url}"
    );
    assert!(
        !url.contains(|c: char| c.is_control() || c == '\\'),
        "{url}"
    );
    let authority = url.split('/').nth(2).expect("a URL has an authority");
    assert!(!authority.contains('@'), "{url}");
    // A second reading leads to the same place.
    let again = vlmd_media::fuzzing::destination(&url, None).expect("it was good before");
    assert_eq!(again, (url.clone(), address));
    match address.map(|address| address.ip()) {
        Some(IpAddr::V4(address)) => assert!(is_public_v4(address), "{url}"),
        Some(IpAddr::V6(address)) => assert!(is_public_v6(address), "{url}"),
        // A name: not all digits, which some resolver would take for a number.
        None => assert!(authority.contains(|c: char| !c.is_ascii_digit()), "{url}"),
    }
});

/// By the standard library's tables, not the gate's.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || (a == 100 && b & 0xc0 == 64))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    let inside = address.to_ipv4().is_some() || first == 0x64 || first == 0x2002;
    !(inside
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unique_local()
        || address.is_unicast_link_local())
}
