//! The gate as a whole, against HTTP servers on the loopback interface.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use vlmd_media::{DecodeLimits, ErrorKind, FetchFailure, MediaConfig, MediaError, MediaGate};

/// A server that answers every connection with `respond`, which gets the request's head.
struct Server {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start<F, R>(respond: F) -> Self
    where
        F: Fn(TcpStream, String) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let head = read_head(&mut stream).await;
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(respond(stream, head));
            }
        });
        Self {
            address,
            requests,
            task,
        }
    }

    /// Always the same bytes, then the connection is closed.
    async fn fixed(response: Vec<u8>) -> Self {
        let response = Arc::new(response);
        Self::start(move |mut stream, _| {
            let response = Arc::clone(&response);
            async move {
                // The client may have gone, which is what some tests are about.
                let _ = stream.write_all(&response).await;
            }
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn redirect(location: &str) -> Vec<u8> {
    response("302 Found", &format!("Location: {location}\r\n"), b"")
}

/// A PNG of one colour.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(width, height, image::Rgb([1, 2, 3]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn data_uri(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes))
}

/// Reaches the loopback address, with a deadline that no healthy fetch comes near.
fn local() -> MediaConfig {
    MediaConfig {
        fetch_timeout: Duration::from_secs(30),
        allow_hosts: vec!["127.0.0.1".parse().unwrap()],
        ..MediaConfig::default()
    }
}

async fn load(config: MediaConfig, url: &str) -> Result<(u32, u32), MediaError> {
    let picture = MediaGate::new(config).unwrap().load(url).await?;
    Ok((picture.width(), picture.height()))
}

#[tokio::test]
async fn a_picture_is_fetched_from_an_allowed_host() {
    let server = Server::start(|mut stream, head| async move {
        assert!(head.starts_with("GET /a.png?b HTTP/1.1\r\n"), "{head}");
        assert!(
            head.to_lowercase().contains("\r\nuser-agent: vlmd/"),
            "{head}"
        );
        let body = response("200 OK", "Content-Type: text/html\r\n", &png(3, 2));
        stream.write_all(&body).await.unwrap();
    })
    .await;
    assert_eq!(load(local(), &server.url("/a.png?b#c")).await, Ok((3, 2)));
}

#[tokio::test]
async fn a_chunked_body_without_a_length_is_read() {
    let png = png(3, 2);
    let mut body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in png.chunks(10) {
        body.extend(format!("{:x}\r\n", chunk.len()).bytes());
        body.extend(chunk);
        body.extend(b"\r\n");
    }
    body.extend(b"0\r\n\r\n");
    let server = Server::fixed(body).await;
    assert_eq!(load(local(), &server.url("/")).await, Ok((3, 2)));
}

#[tokio::test]
async fn loopback_is_refused_by_default_and_nothing_is_sent() {
    let server = Server::fixed(response("200 OK", "", &png(1, 1))).await;
    for url in [
        server.url("/"),
        format!("http://localhost:{}/", server.address.port()),
    ] {
        let error = load(MediaConfig::default(), &url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ForbiddenAddress, "{url}");
        assert!(error.to_string().contains("--allow-media-host"), "{error}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn an_allowed_name_is_reached_at_its_private_address() {
    let server = Server::fixed(response("200 OK", "", &png(1, 1))).await;
    let host = format!("localhost:{}", server.address.port());
    let config = MediaConfig {
        allow_hosts: vec![host.parse().unwrap()],
        ..local()
    };
    assert_eq!(
        load(config.clone(), &format!("http://{host}/")).await,
        Ok((1, 1))
    );
    let error = load(config, &server.url("/")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForbiddenAddress);
}

#[tokio::test]
async fn redirects_are_followed_up_to_the_limit() {
    let server = Server::start(|mut stream, head| async move {
        let own = stream.local_addr().unwrap();
        let answer = match head.split_whitespace().nth(1).unwrap() {
            "/1" => redirect("2"),
            "/2" => redirect("/3"),
            "/3" => redirect(&format!("//{own}/4")),
            "/loop" => redirect("/loop"),
            _ => response("200 OK", "", &png(2, 2)),
        };
        stream.write_all(&answer).await.unwrap();
    })
    .await;
    assert_eq!(load(local(), &server.url("/1")).await, Ok((2, 2)));
    assert_eq!(server.requests(), 4);
    let error = load(local(), &server.url("/loop")).await.unwrap_err();
    assert_eq!(
        error,
        MediaError::FetchFailed(FetchFailure::TooManyRedirects(3))
    );
    assert_eq!(server.requests(), 8);
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused() {
    let inner = Server::fixed(response("200 OK", "", &png(1, 1))).await;
    let port = inner.address.port();
    for (location, kind) in [
        (
            format!("http://127.0.0.2:{port}/"),
            ErrorKind::ForbiddenAddress,
        ),
        (
            format!("http://localhost:{port}/"),
            ErrorKind::ForbiddenAddress,
        ),
        (
            format!("http://[::ffff:127.0.0.1]:{port}/"),
            ErrorKind::ForbiddenAddress,
        ),
        (
            "http://169.254.169.254/".to_owned(),
            ErrorKind::ForbiddenAddress,
        ),
        (
            format!("http://user@127.0.0.1:{port}/"),
            ErrorKind::InvalidUrl,
        ),
        ("file:///etc/passwd".to_owned(), ErrorKind::InvalidUrl),
        ("data:,x".to_owned(), ErrorKind::InvalidUrl),
    ] {
        let outer = Server::fixed(redirect(&location)).await;
        let config = MediaConfig {
            allow_hosts: vec![outer.address.to_string().parse().unwrap()],
            ..local()
        };
        let error = load(config, &outer.url("/")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{location}: {error}");
    }
    assert_eq!(inner.requests(), 0);
}

#[tokio::test]
async fn other_statuses_are_told() {
    for (status, code) in [
        ("404 Not Found", 404),
        ("500 Internal Server Error", 500),
        ("304 Not Modified", 304),
        ("302 Found", 302),
    ] {
        let server = Server::fixed(response(status, "", b"")).await;
        let error = load(local(), &server.url("/")).await.unwrap_err();
        assert_eq!(error, MediaError::FetchFailed(FetchFailure::Status(code)));
    }
}

#[tokio::test]
async fn the_deadline_covers_a_silent_server_and_a_slow_body() {
    let silent = Server::start(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let slow = Server::start(|mut stream, _| async move {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n\x89PNG";
        stream.write_all(head).await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    for server in [silent, slow] {
        let config = MediaConfig {
            fetch_timeout: Duration::from_millis(100),
            ..local()
        };
        let error = load(config, &server.url("/")).await.unwrap_err();
        assert_eq!(error, MediaError::FetchFailed(FetchFailure::Timeout(100)));
        assert!(
            error.to_string().contains("--media-fetch-timeout"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_limit() {
    let server = Server::start(|mut stream, _| async move {
        let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[0x89; 4096]).await.is_ok() {}
    })
    .await;
    let config = MediaConfig {
        image: DecodeLimits {
            max_bytes: 100_000,
            ..DecodeLimits::default()
        },
        ..local()
    };
    let error = load(config, &server.url("/")).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("at most 100000 bytes (`--max-image-bytes`)"),
        "{error}"
    );
}

#[tokio::test]
async fn an_announced_length_over_the_limit_is_not_awaited() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n";
    let server = Server::start(move |mut stream, _| async move {
        stream.write_all(head).await.unwrap();
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let error = load(local(), &server.url("/")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn a_broken_transfer_is_told_as_such() {
    let mut cut = response("200 OK", "", &png(3, 3));
    cut.pop();
    for answer in [cut, b"SSH-2.0-OpenSSH\r\n".to_vec(), Vec::new()] {
        let server = Server::fixed(answer).await;
        let error = load(local(), &server.url("/")).await.unwrap_err();
        assert_eq!(error, MediaError::FetchFailed(FetchFailure::Transfer));
    }
}

#[tokio::test]
async fn a_port_without_a_listener_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = load(local(), &format!("http://{address}/"))
        .await
        .unwrap_err();
    assert_eq!(error, MediaError::FetchFailed(FetchFailure::Connect));
}

#[tokio::test]
async fn a_server_without_tls_is_no_https_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
    });
    let error = load(local(), &url).await.unwrap_err();
    assert_eq!(error, MediaError::FetchFailed(FetchFailure::Connect));
}

#[tokio::test]
async fn content_decides_what_a_body_is() {
    let page = response("200 OK", "Content-Type: image/png\r\n", b"<!doctype html>");
    let server = Server::fixed(page).await;
    let error = load(local(), &server.url("/a.png")).await.unwrap_err();
    assert_eq!(error, MediaError::UnsupportedFormat);
    let server = Server::fixed(response("204 No Content", "", b"")).await;
    let error = load(local(), &server.url("/")).await.unwrap_err();
    assert_eq!(error, MediaError::EmptyImage);
}

#[tokio::test]
async fn a_data_uri_is_loaded_without_a_network() {
    let uri = data_uri(&png(4, 5)).replace("image/png", "text/plain");
    assert_eq!(load(MediaConfig::default(), &uri).await, Ok((4, 5)));
}

#[tokio::test]
async fn a_data_uri_is_measured_before_it_is_decoded() {
    let config = MediaConfig {
        image: DecodeLimits {
            max_bytes: 8,
            ..DecodeLimits::default()
        },
        ..MediaConfig::default()
    };
    // Its payload could not be decoded; that the size comes first is what is told.
    let error = load(config, "data:image/png;base64,!!!!!!!!!!!!")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--max-image-bytes"), "{error}");
}

#[tokio::test]
async fn what_is_neither_a_url_nor_a_data_uri_is_refused() {
    for url in [
        "",
        "a.png",
        "ftp://host/a.png",
        "file:///a.png",
        "data:image/png;base64",
    ] {
        let error = load(MediaConfig::default(), url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
    }
}

#[tokio::test]
async fn pictures_come_in_the_order_of_their_urls() {
    // The first answer is held back until the others have been asked for.
    let asked = Arc::new(tokio::sync::Barrier::new(3));
    let server = Server::start(move |mut stream, head| {
        let asked = Arc::clone(&asked);
        async move {
            asked.wait().await;
            let width = head.as_bytes()[5] - b'0';
            let answer = response("200 OK", "", &png(width.into(), 1));
            stream.write_all(&answer).await.unwrap();
        }
    })
    .await;
    let mut urls: Vec<_> = ["/3", "/1", "/2"].map(|path| server.url(path)).into();
    urls.insert(1, data_uri(&png(7, 1)));
    let gate = MediaGate::new(local()).unwrap();
    let pictures = gate.load_all(&urls).await.unwrap();
    let widths: Vec<_> = pictures.iter().map(vlmd_media::Picture::width).collect();
    assert_eq!(widths, [3, 7, 1, 2]);
}

#[tokio::test]
async fn a_failing_picture_is_told_by_its_index() {
    let gate = MediaGate::new(MediaConfig::default()).unwrap();
    let good = data_uri(&png(1, 1));
    let urls = [
        good.clone(),
        good,
        "data:,text".to_owned(),
        "data:,more".to_owned(),
    ];
    assert_eq!(
        gate.load_all(&urls).await,
        Err((2, MediaError::UnsupportedFormat))
    );
    assert_eq!(gate.load_all(&[]).await, Ok(Vec::new()));
}

#[tokio::test]
async fn the_pictures_of_a_request_share_its_limits() {
    let uri = data_uri(&png(10, 10));
    let two = [uri.clone(), uri.clone()];
    for (config, flag) in [
        (
            MediaConfig {
                max_request_pixels: 150,
                ..MediaConfig::default()
            },
            "at most 150 pixels (`--max-request-image-pixels`), these have at least 200",
        ),
        (
            MediaConfig {
                max_request_bytes: png(10, 10).len() as u64 * 2 - 1,
                ..MediaConfig::default()
            },
            "`--max-request-image-bytes`",
        ),
    ] {
        let gate = MediaGate::new(config).unwrap();
        assert!(gate.load_all(std::slice::from_ref(&uri)).await.is_ok());
        let (_, error) = gate.load_all(&two).await.unwrap_err();
        assert!(error.to_string().contains(flag), "{error}");
        // The next request starts afresh.
        assert!(gate.load(&uri).await.is_ok());
    }
}

#[tokio::test]
async fn fetched_bytes_count_for_the_request() {
    let server = Server::fixed(response("200 OK", "", &png(10, 10))).await;
    let config = MediaConfig {
        max_request_bytes: 10,
        ..local()
    };
    let error = load(config, &server.url("/")).await.unwrap_err();
    assert!(
        error.to_string().contains("--max-request-image-bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn fetches_beyond_the_slots_wait_for_their_turn() {
    let server = Server::fixed(response("200 OK", "", &png(1, 1))).await;
    let config = MediaConfig {
        fetch_concurrency: 1,
        decode_concurrency: 1,
        ..local()
    };
    let gate = MediaGate::new(config).unwrap();
    let urls = vec![server.url("/"); 20];
    assert_eq!(
        gate.load_all(&urls).await.map(|pictures| pictures.len()),
        Ok(20)
    );
}

/// What the server relies on to load pictures in spawned tasks.
#[test]
fn loading_can_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let gate = MediaGate::new(MediaConfig::default()).unwrap();
    is_send(&gate.load("data:,x"));
    is_send(&gate.load_all(&[]));
}
