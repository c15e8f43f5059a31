//! TLS for clients, with or without certificates of their own.
//!
//! rustls with ring, as where pictures are fetched: TLS 1.2 and 1.3, and what rustls takes for safe
//! of them. Files are read once, when the server starts.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

/// What is spoken inside; see the module `serve` for why there is no `h2`.
const PROTOCOL: &[u8] = b"http/1.1";

/// The files that TLS needs, all PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, followed by those between it and its authority.
    pub certificates: PathBuf,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1, not encrypted.
    pub key: PathBuf,
    /// Authorities of clients. If given, a client without a certificate of one of them is refused.
    pub client_authorities: Option<PathBuf>,
}

/// Speaks TLS on accepted connections.
#[derive(Clone)]
pub struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    mutual: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("mutual", &self.mutual)
            .finish_non_exhaustive()
    }
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the {what} `{path}`")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no PEM.
    #[error("the {what} `{path}` are not valid PEM")]
    Pem {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: PemError,
    },
    /// A file holds no certificate.
    #[error(
        "there is no certificate in the {what} `{path}`; expected `-----BEGIN CERTIFICATE-----`"
    )]
    NoCertificate {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The key is encrypted.
    #[error(
        "the private key `{0}` is encrypted, and nobody is there to be asked for its passphrase; \
         store it decrypted (`openssl pkey -in KEY -out PLAIN`), readable by the server alone"
    )]
    Encrypted(PathBuf),
    /// The file of the key holds none.
    #[error(
        "there is no private key in `{0}`; expected PKCS #8, PKCS #1 or SEC 1 in PEM, such as \
         `-----BEGIN PRIVATE KEY-----`"
    )]
    NoKey(PathBuf),
    /// A certificate of an authority is not valid.
    #[error("an authority in `{path}` is not valid")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The key is of a kind that is not known, or not that of the certificate.
    #[error("the certificate `{certificates}` cannot be used with the private key `{key}`")]
    Pair {
        /// The file of the certificate.
        certificates: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// TLS itself cannot be set up.
    #[error("TLS cannot be set up")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
}

const CERTIFICATES: &str = "certificates";
const AUTHORITIES: &str = "certificates of client authorities";

impl Tls {
    /// Reads the files and checks that they belong together.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn from_files(files: &TlsFiles) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Setup(error.into()))?;
        let builder = match &files.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(AUTHORITIES, path)? {
                    roots.add(authority).map_err(|source| TlsError::Authority {
                        path: path.clone(),
                        source,
                    })?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| TlsError::Setup(error.into()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates(CERTIFICATES, &files.certificates)?;
        let mut config = builder
            .with_single_cert(chain, private_key(&files.key)?)
            .map_err(|source| TlsError::Pair {
                certificates: files.certificates.clone(),
                key: files.key.clone(),
                source,
            })?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            mutual: files.client_authorities.is_some(),
        })
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

/// All certificates of a file; at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError::NoCertificate {
            what,
            path: path.to_owned(),
        }),
        Ok(found) => Ok(found),
        Err(source) => Err(TlsError::Pem {
            what,
            path: path.to_owned(),
            source,
        }),
    }
}

/// The first private key of a file.
fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read("private key", path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        // PKCS #8 says it in its label, the older forms in a header (RFC 1421), whose key then
        // cannot be decoded.
        let text = String::from_utf8_lossy(&bytes);
        let encrypted =
            text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("4,ENCRYPTED");
        if encrypted {
            TlsError::Encrypted(path.to_owned())
        } else {
            TlsError::NoKey(path.to_owned())
        }
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use super::*;

    /// A folder with a certificate, its key, and the key of another.
    struct Folder {
        folder: tempfile::TempDir,
        files: TlsFiles,
    }

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let CertifiedKey { cert, signing_key } =
                generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let files = TlsFiles {
                certificates: folder.path().join("cert.pem"),
                key: folder.path().join("key.pem"),
                client_authorities: None,
            };
            std::fs::write(&files.certificates, cert.pem()).unwrap();
            std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
            let other = other.signing_key.serialize_pem();
            std::fs::write(folder.path().join("other.pem"), other).unwrap();
            Self { folder, files }
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }
    }

    #[test]
    fn a_certificate_and_its_key_are_enough() {
        let mut folder = Folder::new();
        assert!(!Tls::from_files(&folder.files).unwrap().mutual);
        folder.files.client_authorities = Some(folder.files.certificates.clone());
        assert!(Tls::from_files(&folder.files).unwrap().mutual);
    }

    #[test]
    fn keys_that_need_a_passphrase_are_refused_with_what_to_do() {
        let mut folder = Folder::new();
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
             DEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n",
        ] {
            folder.files.key = folder.write("locked.pem", text);
            let error = Tls::from_files(&folder.files).unwrap_err();
            assert!(matches!(error, TlsError::Encrypted(_)), "{error:?}");
            assert!(error.to_string().contains("openssl pkey"), "{error}");
        }
    }

    #[test]
    fn files_that_do_not_serve_are_named() {
        let folder = Folder::new();
        let fails = |files: TlsFiles, name: &str| {
            let error = Tls::from_files(&files).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            error
        };
        let with = |change: &dyn Fn(&mut TlsFiles)| {
            let mut files = folder.files.clone();
            change(&mut files);
            files
        };
        let missing = folder.folder.path().join("missing.pem");
        let error = fails(with(&|files| files.key = missing.clone()), "missing.pem");
        assert!(matches!(error, TlsError::Read { .. }), "{error:?}");
        let other = folder.folder.path().join("other.pem");
        let error = fails(with(&|files| files.key = other.clone()), "cert.pem");
        assert!(matches!(error, TlsError::Pair { .. }), "{error:?}");
        let error = fails(
            with(&|files| files.key = files.certificates.clone()),
            "cert.pem",
        );
        assert!(matches!(error, TlsError::NoKey(_)), "{error:?}");
        let error = fails(
            with(&|files| files.certificates = files.key.clone()),
            "key.pem",
        );
        assert!(matches!(error, TlsError::NoCertificate { .. }), "{error:?}");
        let broken = folder.write(
            "broken.pem",
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        );
        let error = fails(
            with(&|files| files.certificates = broken.clone()),
            "broken.pem",
        );
        assert!(matches!(error, TlsError::Pem { .. }), "{error:?}");
        let empty = folder.write("empty.pem", "");
        let authorities = with(&|files| files.client_authorities = Some(empty.clone()));
        fails(authorities, "client authorities");
    }
}
