//! How texts and statuses of providers are classified.

use super::*;

fn errors() -> Errors {
    Errors::new("main", vec!["sk-secret".to_owned().into(), String::new().into()])
}

#[test]
fn statuses_and_texts_determine_the_class() {
    for (status, body, class) in [
        (
            401,
            r#"{"error":{"message":"Incorrect API key provided: sk-secret","code":"invalid_api_key"}}"#,
            FailureClass::Key,
        ),
        (402, "", FailureClass::Key),
        (403, "<html>", FailureClass::Key),
        (
            403,
            r#"{"error":{"message":"flagged by moderation"}}"#,
            FailureClass::ContentPolicy,
        ),
        (
            404,
            r#"{"error":{"message":"no such model","code":"model_not_found"}}"#,
            FailureClass::Rejected,
        ),
        (408, "", FailureClass::Overload),
        (
            400,
            r#"{"error":{"message":"x","code":"context_length_exceeded"}}"#,
            FailureClass::ContextLength,
        ),
        (
            400,
            r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}"#,
            FailureClass::ContextLength,
        ),
        (
            500,
            r#"{"error":{"code":400,"type":"exceed_context_size_error","message":"x"}}"#,
            FailureClass::ContextLength,
        ),
        (413, "", FailureClass::ContextLength),
        (
            400,
            r#"{"error":{"message":"x","code":"content_filter","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            FailureClass::ContentPolicy,
        ),
        (
            400,
            r#"{"error":{"message":"unknown field","type":"invalid_request_error"}}"#,
            FailureClass::Rejected,
        ),
        (422, r#"{"detail":[{"loc":["body"]}]}"#, FailureClass::Rejected),
        (
            429,
            r#"{"error":{"message":"slow down","code":"rate_limit_exceeded"}}"#,
            FailureClass::Rate,
        ),
        (
            429,
            r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#,
            FailureClass::Key,
        ),
        (500, "oh no", FailureClass::Overload),
        (503, r#"{"error":"overloaded"}"#, FailureClass::Overload),
        (529, "", FailureClass::Overload),
        (302, "", FailureClass::Rejected),
        // As a list.
        (
            400,
            r#"[{"error":{"code":400,"message":"x","status":"context_length_exceeded","type":"context_length_exceeded"}}]"#,
            FailureClass::ContextLength,
        ),
        (429, r#"[{"error":{"code":429}}]"#, FailureClass::Rate),
        (
            422,
            r#"{"detail":[{"loc":["body"],"msg":"maximum context length"}]}"#,
            FailureClass::ContextLength,
        ),
        // As Anthropic writes it.
        (
            401,
            r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#,
            FailureClass::Key,
        ),
        (
            403,
            r#"{"type":"error","error":{"type":"permission_error","message":"x"}}"#,
            FailureClass::Key,
        ),
        (
            402,
            r#"{"type":"error","error":{"type":"billing_error","message":"x"}}"#,
            FailureClass::Key,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}"#,
            FailureClass::Key,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
            FailureClass::ContextLength,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 1 + 2 > 2"}}"#,
            FailureClass::ContextLength,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}"#,
            FailureClass::ContentPolicy,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages: at least one message is required"}}"#,
            FailureClass::Rejected,
        ),
        (
            404,
            r#"{"type":"error","error":{"type":"not_found_error","message":"model: claude-0"}}"#,
            FailureClass::Rejected,
        ),
        (
            413,
            r#"{"type":"error","error":{"type":"request_too_large","message":"x"}}"#,
            FailureClass::ContextLength,
        ),
        (
            429,
            r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#,
            FailureClass::Rate,
        ),
        (
            500,
            r#"{"type":"error","error":{"type":"api_error","message":"x"}}"#,
            FailureClass::Overload,
        ),
        (
            504,
            r#"{"type":"error","error":{"type":"timeout_error","message":"x"}}"#,
            FailureClass::Overload,
        ),
        (
            529,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
            FailureClass::Overload,
        ),
    ] {
        let error = errors().status(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
        );
        assert_eq!(error.class, class, "{status} {body}");
        assert!(error.message.starts_with("model main: "), "{}", error.message);
        assert!(!error.message.contains("sk-secret"), "{}", error.message);
    }
}

fn status(status: u16, body: &str) -> ModelError {
    errors().status(
        StatusCode::from_u16(status).unwrap(),
        &HeaderMap::new(),
        body.as_bytes(),
    )
}

#[test]
fn a_revoked_key_or_account_is_recognised_in_any_vendors_words() {
    for body in [
        r#"[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]"#,
        r#"[{"error":{"code":400,"message":"API Key not found. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]"#,
        r#"{"error":[{"message":"The api_key you sent is expired"}]}"#,
        r#"{"code":"Arrearage","message":"Access denied, please make sure your account is in good standing.","request_id":"x"}"#,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}"#,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-12-01."}}"#,
        r#"{"error":{"message":"Your account is not active, please check your billing details on our website.","type":"billing_not_active"}}"#,
        r#"{"error":{"message":"Billing hard limit has been reached","type":"insufficient_quota","code":"billing_hard_limit_reached"}}"#,
        r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#,
        r#"{"detail":"Your subscription has expired"}"#,
        r#"{"error":"Invalid credentials"}"#,
        r#"{"msg":"account suspended"}"#,
    ] {
        for code in [400, 422] {
            assert_eq!(status(code, body).class, FailureClass::Key, "{body}");
        }
    }
    // What a caller wrote and a provider quotes does not disable a key.
    for body in [
        r#"{"error":{"message":"Invalid value: 'your API key is invalid'. Supported values are: 'a'.","param":null}}"#,
        r#"{"error":{"message":"Unknown role `account suspended`"}}"#,
        r#"{"error":{"message":"API key is not valid for this","param":"messages[0].content"}}"#,
    ] {
        assert_eq!(status(400, body).class, FailureClass::Rejected, "{body}");
    }
}

#[test]
fn a_prompt_that_is_too_long_is_recognised_in_any_words() {
    for message in [
        "This endpoint's maximum is 8192 tokens. However, you requested about 9000 tokens in the messages.",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Input is too long: 5000 tokens, the sequence may have at most 4096",
        "Requested tokens (5000) exceed context of 4096",
        "Too many tokens in the prompt",
        "Please reduce your prompt; it has 5000 tokens",
        "input tokens and max_tokens exceed the limit of the context",
    ] {
        let body = serde_json::json!({"error": {"message": message}}).to_string();
        assert_eq!(status(400, &body).class, FailureClass::ContextLength, "{message}");
    }
    for (message, param) in [
        (
            "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
            Some("max_tokens"),
        ),
        (
            "max_tokens: 5000 > 4096, which is the maximum allowed number of output tokens",
            None,
        ),
        ("Too many images in request", None),
    ] {
        let body = serde_json::json!({"error": {"message": message, "param": param}}).to_string();
        assert_eq!(status(400, &body).class, FailureClass::Rejected, "{message}");
    }
}

#[test]
fn only_what_is_surely_the_callers_fault_is_certain() {
    for (body, is_certain) in [
        (
            r#"{"error":{"message":"Invalid type for 'messages': expected an array.","type":"invalid_request_error","param":"messages","code":"invalid_type"}}"#,
            true,
        ),
        (
            r#"{"error":{"message":"Missing required parameter: 'messages[0].content'.","param":"messages[0].content","code":"missing_required_parameter"}}"#,
            true,
        ),
        (
            r#"{"error":{"message":"Invalid 'temperature': decimal above maximum value.","param":"temperature","code":"decimal_above_max_value"}}"#,
            true,
        ),
        (
            r#"{"error":{"message":"-1 is less than the minimum of 0 - 'temperature'","type":"invalid_request_error","param":"temperature","code":null}}"#,
            true,
        ),
        (
            r#"{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required"}]}"#,
            true,
        ),
        (
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages: at least one message is required"}}"#,
            true,
        ),
        // What one provider does not accept, another one may.
        (
            r#"{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}"#,
            false,
        ),
        (
            r#"{"error":{"message":"Unknown parameter: 'reasoning'.","param":"reasoning","code":"unknown_parameter"}}"#,
            false,
        ),
        (
            r#"{"detail":[{"type":"extra_forbidden","loc":["body","user"],"msg":"Extra inputs are not permitted"}]}"#,
            false,
        ),
        (r#"{"error":{"message":"Not today.","code":"E17"}}"#, false),
        (r#"{"error":{"message":"x"}}"#, false),
        ("{}", false),
        ("[]", false),
        ("[[[]]]", false),
        ("7", false),
    ] {
        let error = status(400, body);
        assert_eq!(error.class, FailureClass::Rejected, "{body}");
        assert_eq!(error.refusal.unwrap().is_certain, is_certain, "{body}");
    }
    // An HTML page says nothing about the request.
    for body in ["<html><h1>400 Bad Request</h1></html>", "", "upstream request failed"] {
        let error = status(400, body);
        assert_eq!((error.class, error.refusal), (FailureClass::Rejected, None), "{body}");
    }
}

#[test]
fn keys_and_accounts_are_masked() {
    let errors = Errors::new("main", vec!["sk-proj-abcdefghijklmnop".to_owned().into()]);
    for text in [
        "bad key sk-proj-abcdefghijklmnop",
        "bad key 'sk-proj-abc***mnop'.",
        "bad key: proj-abcdefgh…",
        "token=efghijklmnop refused",
        "Authorization: Bearer sk-ant-REDACTED-bbbbbbbbbbbb",
        "key AIzaSyA1234567890abcdefghijklmnopqrstuv is blocked",
        "credential eyJhbGciOiJIUzI1NiJ9.e30.abc",
        "organization org-AbCdEf123456 is over its quota",
        "key 3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c",
    ] {
        let clean = errors.clean(text);
        assert!(clean.contains("***"), "{clean}");
        for secret in ["abcdefgh", "mnop", "1234567890", "eyJ", "AbCdEf", "9a8b7c", "REDACTED"] {
            assert!(!clean.contains(secret), "{clean}");
        }
    }
    // Innocent words stay.
    let text = "messages.0.content: expected a string, got 12345 (see request-id 7) for gpt-4o-mini-2024-07-18";
    assert_eq!(errors.clean(text), text);
}

#[test]
fn errors_in_the_stream_have_words_or_a_status_or_nothing() {
    for (error, class) in [
        (r#"{"message":"x","type":"server_error"}"#, FailureClass::Overload),
        (r#"{"message":"x","code":429}"#, FailureClass::Rate),
        (r#"{"message":"x","code":"429"}"#, FailureClass::Rate),
        (r#"{"message":"x","type":"rate_limit_error"}"#, FailureClass::Rate),
        (
            r#"{"message":"x","code":"context_length_exceeded"}"#,
            FailureClass::ContextLength,
        ),
        (r#"{"message":"x","code":400}"#, FailureClass::Rejected),
        (r#"{"message":"x","type":"overloaded_error"}"#, FailureClass::Overload),
        (r#""broken""#, FailureClass::Overload),
        ("{}", FailureClass::Overload),
    ] {
        let value: Value = serde_json::from_str(error).unwrap();
        assert_eq!(errors().in_stream(&value).class, class, "{error}");
    }
}

#[test]
fn a_providers_text_is_cut_cleaned_and_masked() {
    let text = format!("bad\r\nkey sk-secret {}", "é".repeat(2_000));
    let clean = errors().clean(&text);
    assert!(clean.starts_with("bad  key *** é"), "{clean}");
    assert_eq!(clean.chars().count(), MAX_MESSAGE + 1);
}
