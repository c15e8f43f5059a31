//! Kosmos-2 over HTTP: the reference's own answers, as raw text, clean, and streamed.

use serde_json::{Value, json};

use crate::support::{Server, png, project};

/// Below this distance between the two best logits the reference's own choice is a coin toss.
const CLEAR_GAP: f64 = 1e-3;

fn clear(case: &Value, field: &str) -> bool {
    let gaps = case[field].as_array().unwrap();
    gaps.iter().all(|gap| gap.as_f64().unwrap() > CLEAR_GAP)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_over_http_are_the_references_own() {
    let folder = project().join("tests/golden/kosmos2");
    let golden = std::fs::read(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let model = folder.to_str().unwrap();
    let server = Server::start(&["--model", model, "--served-model-name", "test"]).await;
    let ask = |case: &Value, extra: Value| {
        let files = case["images_decoded"].as_array();
        let files = files.or(case["images"].as_array()).unwrap();
        let mut content: Vec<Value> = files
            .iter()
            .map(|file| png(&folder.join(file.as_str().unwrap())))
            .map(|url| json!({"type": "image_url", "image_url": {"url": url}}))
            .collect();
        let prompt = case.get("prompt").or(case.get("text")).unwrap();
        content.push(json!({"type": "text", "text": prompt}));
        let mut body = json!({
            "model": "test", "messages": [{"role": "user", "content": content}],
            "temperature": 0, "max_tokens": 16, "ignore_eos": true,
            "grounded_response": prompt.as_str().unwrap().contains("<grounding>"),
        });
        let fields = extra.as_object().unwrap().clone();
        body.as_object_mut().unwrap().extend(fields);
        body
    };
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        // A message without text asks for a caption.
        if case["prompt"] == "" {
            continue;
        }
        let answer = async |extra| -> Value {
            let answer = server.chat(&ask(case, extra)).await;
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(
                answer["usage"]["prompt_tokens"], case["prompt_len"],
                "{name}: {answer}"
            );
            answer["choices"][0]["message"].clone()
        };
        if clear(case, "top2_gaps") {
            let plain = json!({"no_repeat_ngram_size": 0, "skip_special_tokens": false});
            let message = answer(plain).await;
            assert_eq!(message["content"], case["generated_text"], "{name}");
            assert!(message.get("entities").is_none(), "{name}: {message}");
        }
        if clear(case, "top2_gaps_ngram3") {
            // The checkpoint's own settings repeat no three tokens.
            let message = answer(json!({"skip_special_tokens": false})).await;
            assert_eq!(message["content"], case["generated_text_ngram3"], "{name}");
            let message = answer(json!({})).await;
            let expected = &case["post_processed"]["answer"];
            assert_eq!(message["content"], expected["text"], "{name}");
            let entities = message["entities"].as_array().unwrap();
            assert_eq!(
                entities.len(),
                expected["entities"].as_array().unwrap().len()
            );
        }
    }
    for case in golden["refused"].as_array().unwrap() {
        let answer = server.chat(&ask(case, json!({}))).await;
        assert_eq!(answer.status(), 400);
        let answer: Value = answer.json().await.unwrap();
        let error = &answer["error"];
        assert_eq!(error["param"], "messages[0].content[1].image_url.url");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("takes 1 image per prompt"), "{message}");
    }
}
