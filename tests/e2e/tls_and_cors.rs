//! TLS with and without certificates of clients, the port for probes, pages of other origins.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{Certificate, Client, Identity, Method, StatusCode};
use serde_json::{Value, json};

use crate::running::{Running, refusal};
use crate::support::{PATIENCE, Server, vlmd};

/// An authority, and what it has vouched for.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// A certificate for `name` and its key, as PEM, in files too.
    fn vouch(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let (cert, key) = (cert.pem(), key.serialize_pem());
        fs::write(self.file("cert.pem"), &cert).unwrap();
        fs::write(self.file("key.pem"), &key).unwrap();
        (cert, key)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that trusts this authority alone, and shows what it has.
    fn client(&self, shown: Option<(String, String)>) -> Client {
        let builder = Client::builder()
            .no_proxy()
            .tls_certs_only([Certificate::from_pem(self.issuer.pem().as_bytes()).unwrap()]);
        match shown {
            Some((cert, key)) => {
                let identity = Identity::from_pem(format!("{cert}{key}").as_bytes()).unwrap();
                builder.identity(identity)
            }
            None => builder,
        }
        .build()
        .unwrap()
    }
}

/// `vlmd serve` on a free port of this machine.
fn serving() -> Command {
    let mut command = vlmd();
    command.args(["serve", "--host", "127.0.0.1", "--port", "0"]);
    command.args(["--log-level", "warn"]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_speaks_tls() {
    let authority = Authority::new();
    authority.vouch("localhost");
    let mut command = serving();
    command
        .arg("--ssl-certfile")
        .arg(authority.file("cert.pem"));
    command.arg("--ssl-keyfile").arg(authority.file("key.pem"));
    command.args(["--header-timeout", "1"]);
    let server = Running::start(command);
    assert!(server.url.starts_with("https://"), "{}", server.url);
    let client = authority.client(None);
    server.ready(&client).await;
    let body = json!({"model": "vlmd/tiny", "max_tokens": 2,
        "messages": [{"role": "user", "content": "Hi"}]});
    let answer = client
        .post(server.at("/v1/chat/completions"))
        .json(&body)
        .send();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    let asset = client
        .post(server.at("/v2/nvcf/assets"))
        .json(&json!({"contentType": "image/png", "description": "a picture"}))
        .send();
    let asset: Value = asset.await.unwrap().json().await.unwrap();
    let upload = asset["uploadUrl"].as_str().unwrap();
    let assets = server.at("/v2/nvcf/assets/");
    assert!(upload.starts_with(&assets), "{upload} under {assets}");

    // Another authority is not trusted, plain HTTP not spoken, and silence not waited for.
    let stranger = Authority::new().client(None);
    assert!(stranger.get(server.at("/v1/models")).send().await.is_err());
    let plain = server.at("/v1/models").replace("https", "http");
    assert!(client.get(plain).send().await.is_err());
    let address = server.url.strip_prefix("https://").unwrap();
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest);
    tokio::time::timeout(PATIENCE, closed)
        .await
        .expect("the server closes")
        .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_show_a_certificate_where_they_must_and_probes_need_none() {
    let authority = Authority::new();
    let client = authority.vouch("client");
    authority.vouch("localhost");
    let mut command = serving();
    command
        .env("NIM_SSL_MODE", "MTLS")
        .env("NIM_SSL_CERTS_PATH", authority.file("cert.pem"))
        .env("NIM_SSL_KEY_PATH", authority.file("key.pem"))
        .env("NIM_SSL_CA_CERTS_PATH", authority.file("ca.pem"))
        .env("NIM_HEALTH_PORT", "0");
    let server = Running::start(command);
    let known = authority.client(Some(client));
    server.ready(&known).await;
    let models = known.get(server.at("/v1/models")).send().await.unwrap();
    assert_eq!(models.status(), StatusCode::OK);
    let nobody = authority.client(None);
    assert!(nobody.get(server.at("/v1/models")).send().await.is_err());
    let foreign = authority.client(Some(Authority::new().vouch("client")));
    assert!(foreign.get(server.at("/v1/models")).send().await.is_err());

    let probes = server.probes.as_deref().unwrap();
    let probe = async |path: &str| {
        let answer = nobody.get(format!("{probes}{path}")).send().await;
        answer.unwrap().status()
    };
    assert_eq!(probe("/v1/health/ready").await, StatusCode::OK);
    assert_eq!(probe("/v1/health/live").await, StatusCode::OK);
    assert_eq!(probe("/v1/models").await, StatusCode::NOT_FOUND);
}

#[test]
fn a_key_that_needs_a_passphrase_is_refused() {
    let authority = Authority::new();
    authority.vouch("localhost");
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(authority.file("key.pem"), locked).unwrap();
    let (cert, key) = (authority.file("cert.pem"), authority.file("key.pem"));
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let err = refusal(&[], &["--ssl-certfile", cert, "--ssl-keyfile", key]);
    assert!(
        err.contains("is encrypted") && err.contains("openssl pkey"),
        "{err}"
    );
    let err = refusal(&[], &["--ssl-certfile", cert]);
    assert!(err.contains("--ssl-keyfile"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_named_origins_may_call() {
    const ORIGIN: &str = "https://app.example.org";
    let mut command = serving();
    command.args(["--api-key", "secret"]);
    command.env(
        "NIM_CORS_ALLOW_ORIGINS",
        format!("{ORIGIN},http://localhost:3000"),
    );
    let server = Running::start(command);
    let client = Client::builder().no_proxy().build().unwrap();
    server.ready(&client).await;
    let preflight = async |origin: &str| {
        let call = client.request(Method::OPTIONS, server.at("/v1/chat/completions"));
        let call = call.header("origin", origin);
        let call = call.header("access-control-request-method", "POST");
        let call = call.header(
            "access-control-request-headers",
            "authorization,content-type",
        );
        call.send().await.unwrap()
    };
    let answer = preflight(ORIGIN).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let header = |name: &str| answer.headers()[name].to_str().unwrap();
    assert_eq!(header("access-control-allow-origin"), ORIGIN);
    assert_eq!(
        header("access-control-allow-headers"),
        "authorization,content-type"
    );
    assert!(header("access-control-allow-methods").contains("POST"));
    assert_eq!(header("access-control-max-age"), "600");
    assert!(!header("x-request-id").is_empty());
    let stranger = preflight("https://elsewhere.example.org").await;
    assert!(
        !stranger
            .headers()
            .contains_key("access-control-allow-origin")
    );

    // Scripts may read why they were refused.
    let call = client.get(server.at("/v1/models")).header("origin", ORIGIN);
    let answer = call.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
    let exposed = &answer.headers()["access-control-expose-headers"];
    assert_eq!(exposed, "x-request-id,retry-after");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shared_with_other_origins_by_default() {
    let server = Server::start(&[]).await;
    let call = server
        .http
        .request(Method::OPTIONS, format!("{}/v1/models", server.url));
    let call = call.header("origin", "https://app.example.org");
    let answer = call.header("access-control-request-method", "GET").send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}
