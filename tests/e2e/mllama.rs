//! What Llama-3.2-Vision cannot be asked, over HTTP: each refusal says what to do.

use serde_json::{Value, json};

use crate::support::{Server, png, project};

/// The message of a 400 for `messages`.
async fn refusal(golden: &str, messages: Value) -> String {
    let folder = project().join("tests/golden").join(golden);
    let model = folder.to_str().unwrap();
    let server = Server::start(&["--model", model, "--served-model-name", "test"]).await;
    let body = json!({"model": "test", "messages": messages, "max_tokens": 1});
    let answer = server.chat(&body).await;
    assert_eq!(answer.status(), 400);
    let answer: Value = answer.json().await.unwrap();
    answer["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_message_beside_a_picture() {
    let url = png(&project().join("tests/golden/mllama/images/a_97x41.png"));
    let parts = json!([
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What is it?"},
    ]);
    let messages = json!([
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": parts},
    ]);
    assert_eq!(
        refusal("mllama", messages).await,
        "`messages`: the model's chat template refuses this conversation: Prompting with images is \
         incompatible with system messages.; put the system message's text into the first user \
         message"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_with_a_base_model() {
    let messages = json!([{"role": "user", "content": "Hello."}]);
    assert_eq!(
        refusal("mllama_base", messages).await,
        "`messages`: the model's chat template refuses this conversation: there is none: the \
         checkpoint is a base model, which cannot chat"
    );
}
