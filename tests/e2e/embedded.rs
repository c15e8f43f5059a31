//! The model in the binary: no download, no key, no path.

use serde_json::Value;

use crate::support::{Server, png, project, request};

/// What PyTorch said when the model was exported, the server says too, as it is started by
/// default and with the narrowest cache.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_model_answers_as_it_was_trained() {
    let folder = project().join("models/tiny/examples");
    let examples: Value =
        serde_json::from_slice(&std::fs::read(folder.join("examples.json")).unwrap()).unwrap();
    let examples = examples.as_array().unwrap();
    assert!(examples.len() >= 4);
    for dtype in ["auto", "int8"] {
        let arguments = ["--served-model-name", "test", "--kv-cache-dtype", dtype];
        let server = Server::start(&arguments).await;
        for example in examples {
            let picture = png(&folder.join(example["image"].as_str().unwrap()));
            let question = example["question"].as_str().unwrap();
            let answer = server.text(&request(&[picture], question)).await;
            let expected = example["answer"].as_str().unwrap();
            assert_eq!(answer, expected, "{question} ({dtype})");
        }
    }
}
