//! Doors for the fuzz targets of `tests/fuzz`; in no other build.

use std::net::SocketAddr;

use url::Host;

use crate::address::AddressPolicy;
use crate::data_uri::DataUri;
use crate::error::MediaError;
use crate::fetch::parse_relative;

/// The bytes that a data URI is counted with against the limits, and those that it decodes to.
/// `None` if `url` has another scheme.
///
/// # Errors
/// As the gate refuses it.
pub fn data_uri(url: &str) -> Option<Result<(u64, Vec<u8>), MediaError>> {
    DataUri::matches(url).then(|| {
        let uri = DataUri::parse(url)?;
        Ok((uri.decoded_len(), uri.decode()?))
    })
}

/// Where a URL leads without any host being allowed: the URL as it is fetched, and its address if
/// its host is one. With `redirect`, where that `Location` leads from there. Nothing is resolved.
///
/// # Errors
/// As the gate refuses it.
pub fn destination(
    url: &str,
    redirect: Option<&str>,
) -> Result<(String, Option<SocketAddr>), MediaError> {
    let mut url = parse_relative(None, url)?;
    if let Some(location) = redirect {
        url = parse_relative(Some(&url), location)?;
    }
    let address = match url.host() {
        Some(Host::Ipv4(address)) => address.into(),
        Some(Host::Ipv6(address)) => address.into(),
        Some(Host::Domain(_)) | None => return Ok((url.into(), None)),
    };
    let address = SocketAddr::new(address, url.port_or_known_default().unwrap_or_default());
    if !AddressPolicy::new(Vec::new()).permits(address) {
        let host = url.host_str().unwrap_or_default().to_owned();
        return Err(MediaError::ForbiddenAddress { host });
    }
    Ok((url.into(), Some(address)))
}
