//! Pictures that clients send once and then by name.

use serde_json::{Value, json};

use crate::support::{Server, data_uri, golden_checkpoint, png};

/// What a picture's answer is known by: its log probabilities, to the last bit.
type Answer = Vec<Value>;

struct Bench {
    server: Server,
}

impl Bench {
    async fn start(arguments: &[&str]) -> Self {
        let checkpoint = golden_checkpoint();
        let mut all = vec!["--model", checkpoint.to_str().unwrap()];
        all.extend(["--served-model-name", "test"]);
        all.extend(arguments);
        Self {
            server: Server::start(&all).await,
        }
    }

    /// Asks about a picture with data, with a name, or with both.
    async fn ask(
        &self,
        key: &str,
        url: Option<&String>,
        uuid: Option<&str>,
    ) -> Result<Answer, Value> {
        let image_url = url.map(|url| json!({"url": url}));
        let body = json!({"model": "test", "temperature": 0, "max_tokens": 2, "logprobs": true,
        "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": image_url, "uuid": uuid},
            {"type": "text", "text": "What is this?"},
        ]}]});
        let call = self
            .server
            .http
            .post(format!("{}/v1/chat/completions", self.server.url))
            .header("content-type", "application/json")
            .bearer_auth(key)
            .body(body.to_string());
        let response = call.send().await.unwrap();
        let status = response.status().as_u16();
        let mut answer: Value = response.json().await.unwrap();
        if status == 200 {
            let content = answer["choices"][0]["logprobs"]["content"].take();
            return Ok(content.as_array().unwrap().clone());
        }
        assert_eq!(status, 400, "{answer}");
        Err(answer["error"].take())
    }

    async fn unknown(&self, key: &str, uuid: &str) {
        let error = self.ask(key, None, Some(uuid)).await.unwrap_err();
        assert_eq!(error["code"], "unknown_image_uuid", "{error}");
        assert_eq!(error["param"], "messages[0].content[0].uuid", "{error}");
    }
}

/// Two pictures that look different, as data URIs.
fn pictures() -> [String; 2] {
    let folder = golden_checkpoint().join("images");
    let mut black = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(40, 40)
        .write_to(&mut black, image::ImageFormat::Bmp)
        .unwrap();
    [
        png(&folder.join("a_97x41.png")),
        data_uri("image/bmp", black.get_ref()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_is_sent_once_and_then_by_its_name() {
    let bench = Bench::start(&["--api-key", "one,two"]).await;
    let [cat, dog] = pictures();
    bench.unknown("one", "pet").await;
    let of_cat = bench.ask("one", Some(&cat), Some("pet")).await.unwrap();
    assert_eq!(bench.ask("one", None, Some("pet")).await.unwrap(), of_cat);
    // A name belongs to the key it was given with.
    bench.unknown("two", "pet").await;
    let of_dog = bench.ask("two", Some(&dog), Some("pet")).await.unwrap();
    assert_ne!(of_cat, of_dog);
    assert_eq!(bench.ask("one", None, Some("pet")).await.unwrap(), of_cat);
    assert_eq!(bench.ask("two", None, Some("pet")).await.unwrap(), of_dog);
    // The same name with other data is the other picture from then on, whatever was remembered.
    let replaced = bench.ask("one", Some(&dog), Some("pet")).await.unwrap();
    assert_eq!(replaced, of_dog);
    assert_eq!(bench.ask("one", None, Some("pet")).await.unwrap(), of_dog);
    // Pictures are told apart by content alone: two names for one picture are one entry.
    assert_eq!(bench.ask("one", Some(&cat), None).await.unwrap(), of_cat);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_that_had_to_go_is_unknown() {
    // Room for one of the two.
    let bench = Bench::start(&["--image-uuid-memory", "6KB", "--image-cache-memory", "0"]).await;
    let [cat, dog] = pictures();
    let of_cat = bench.ask("", Some(&cat), Some("cat")).await.unwrap();
    assert_eq!(bench.ask("", None, Some("cat")).await.unwrap(), of_cat);
    bench.ask("", Some(&dog), Some("dog")).await.unwrap();
    bench.unknown("", "cat").await;
    bench.ask("", None, Some("dog")).await.unwrap();
    // Sent again, it is known again.
    assert_eq!(
        bench.ask("", Some(&cat), Some("cat")).await.unwrap(),
        of_cat
    );
    assert_eq!(bench.ask("", None, Some("cat")).await.unwrap(), of_cat);
    assert_eq!(
        bench.server.metric("vllm:mm_cache_queries_total").await,
        0.0
    );
}
