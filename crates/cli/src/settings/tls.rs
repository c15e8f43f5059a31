//! What the three flags of TLS say together.

use anyhow::{Result, bail};
use vlmd_server::TlsFiles;

use super::flags::TlsArgs;

/// The files of TLS, if it is wanted.
///
/// # Errors
/// When one is named that is nothing without another.
pub(crate) fn tls_files(args: &TlsArgs) -> Result<Option<TlsFiles>> {
    match (&args.ssl_certfile, &args.ssl_keyfile, &args.ssl_ca_certs) {
        (Some(certificates), Some(key), authorities) => Ok(Some(TlsFiles {
            certificates: certificates.clone(),
            key: key.clone(),
            client_authorities: authorities.clone(),
        })),
        (None, None, None) => Ok(None),
        (Some(certificates), None, _) => bail!(
            "`--ssl-certfile {}` needs its private key: `--ssl-keyfile FILE`",
            certificates.display()
        ),
        (None, Some(key), _) => bail!(
            "`--ssl-keyfile {}` needs its certificate: `--ssl-certfile FILE`",
            key.display()
        ),
        (None, None, Some(authorities)) => bail!(
            "`--ssl-ca-certs {}` asks clients for certificates, which takes TLS: \
             `--ssl-certfile FILE --ssl-keyfile FILE`",
            authorities.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(cert: bool, key: bool, ca: bool) -> Result<Option<TlsFiles>> {
        let named = |name: &str, there: bool| there.then(|| name.into());
        tls_files(&TlsArgs {
            ssl_certfile: named("cert", cert),
            ssl_keyfile: named("key", key),
            ssl_ca_certs: named("ca", ca),
        })
    }

    #[test]
    fn half_of_a_pair_is_refused_with_the_other_half() {
        for (cert, key, ca, needed) in [
            (true, false, false, "--ssl-keyfile FILE"),
            (true, false, true, "--ssl-keyfile FILE"),
            (false, true, false, "--ssl-certfile FILE"),
            (false, true, true, "--ssl-certfile FILE"),
            (false, false, true, "--ssl-certfile FILE --ssl-keyfile FILE"),
        ] {
            let message = files(cert, key, ca).unwrap_err().to_string();
            assert!(message.contains(needed), "{message}");
        }
        assert_eq!(files(false, false, false).unwrap(), None);
        let mutual = files(true, true, true).unwrap().unwrap();
        assert_eq!(mutual.client_authorities, Some("ca".into()));
        assert!(files(true, true, false).unwrap().is_some());
    }
}
