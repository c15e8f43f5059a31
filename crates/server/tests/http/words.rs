//! What a request allows and rules out.

use serde_json::json;

use crate::script::{ALPHABET, END};
use crate::server::{TestServer, error_of};

#[tokio::test]
async fn an_answer_has_no_bad_word() {
    let server = TestServer::start().await;
    for (words, said) in [
        (json!(["c"]), "ab\0"),
        // Only the last letter of a word is withheld, and only where the others were said.
        (json!(["abc"]), "ab\0"),
        (json!(["  bc", "xc"]), "ab\0"),
        (json!(["xc", "cab"]), "abc"),
        (json!([]), "abc"),
    ] {
        let answer = server
            .answer(&json!({"bad_words": words, "max_tokens": 3, "temperature": 0}))
            .await;
        assert_eq!(answer["choices"][0]["message"]["content"], said, "{words}");
    }
}

#[tokio::test]
async fn an_answer_has_allowed_tokens_only() {
    let server = TestServer::start().await;
    for (allowed, said, reason) in [
        (json!([98, 97]), "ababab", "length"),
        (json!([97, END]), "aaaaaa", "length"),
        (json!([END]), "", "stop"),
    ] {
        let answer = server
            .answer(&json!({"allowed_token_ids": allowed, "max_tokens": 6, "temperature": 0}))
            .await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], said, "{allowed}");
        assert_eq!(choice["finish_reason"], reason, "{allowed}");
    }
}

#[tokio::test]
async fn a_request_that_allows_nothing_is_the_clients_mistake() {
    let server = TestServer::start().await;
    for extra in [
        json!({"allowed_token_ids": [END], "min_tokens": 2}),
        json!({"allowed_token_ids": [97], "bad_words": ["a"]}),
    ] {
        let (status, error) = error_of(server.chat(&extra).await).await;
        assert_eq!(
            (status, &error["code"]),
            (400, &json!("no_token_allowed")),
            "{error}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("`allowed_token_ids`"), "{message}");
    }
    assert_eq!(
        server.answer(&json!({})).await["choices"][0]["message"]["content"],
        ALPHABET
    );
}

#[tokio::test]
async fn sampling_fields_at_fault_are_named() {
    let server = TestServer::start().await;
    for (extra, field) in [
        (json!({"typical_p": 0}), "typical_p"),
        (json!({"typical_p": 1.5}), "typical_p"),
        (json!({"bad_words": ["a", ""]}), "bad_words[1]"),
        (json!({"allowed_token_ids": []}), "allowed_token_ids"),
        (
            json!({"allowed_token_ids": [0, END + 1]}),
            "allowed_token_ids",
        ),
    ] {
        let (status, error) = error_of(server.chat(&extra).await).await;
        assert_eq!((status, &error["param"]), (400, &json!(field)), "{error}");
    }
    let typical = server.answer(&json!({"typical_p": 0.3, "seed": 1})).await;
    assert_eq!(typical["choices"][0]["message"]["content"], ALPHABET);
}
