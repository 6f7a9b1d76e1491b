//! The problems an operation can answer with: sets of codes, declared beside the handlers.

use std::collections::BTreeMap;

use serde_json::json;
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::{Content, Ref, RefOr, schema};

use crate::http::problems::Code;

/// Of operations that need a credential.
pub(crate) const AUTH: &[Code] = &[
    Code::Unauthenticated,
    Code::Forbidden,
    Code::NotAcceptable,
    Code::Invalid,
    Code::RateLimited,
    Code::Internal,
    Code::Overloaded,
    Code::Unavailable,
];
/// Of operations with an id in the path.
pub(crate) const FOUND: &[Code] = &[Code::NotFound];
/// Of operations with a request body.
pub(crate) const BODY: &[Code] = &[
    Code::Malformed,
    Code::Timeout,
    Code::TooLarge,
    Code::UnsupportedMediaType,
    Code::Invalid,
];

/// Declares the problems of an operation: a type for `responses(…)`.
macro_rules! problems {
    ($name:ident: $($set:expr),+ $(,)?) => {
        pub(crate) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::response::Response>,
            > {
                $crate::surfaces::openapi::answers(&[$($set),+])
            }
        }
    };
}
pub(crate) use problems;

/// The errors of the OpenAI-compatible routes: a type for `responses(…)`.
pub(crate) struct OpenAiErrors;

impl utoipa::IntoResponses for OpenAiErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let words = [
            (
                400,
                "Invalid request, too long for every model, or against a provider's content policy",
            ),
            (401, "Missing or invalid credential"),
            (
                403,
                "The credential lacks the scope `gateway`, or the tenant may not use the model",
            ),
            (404, "Unknown model"),
            (408, "The request body was not received in time"),
            (413, "Request too large"),
            (429, "Rate limit reached or budget exhausted"),
            (500, "Internal server error"),
            (502, "Every provider rejected its API key, or the answer was cut off"),
            (503, "No provider is available, or the server is overloaded"),
            (504, "No provider answered in time"),
        ];
        let answer = |(status, words): (u16, &str)| {
            let response = ResponseBuilder::new()
                .description(words)
                .content(
                    "application/json",
                    Content::new(Some(Ref::from_schema_name("OpenaiError"))),
                )
                .build();
            (status.to_string(), RefOr::T(response))
        };
        words.into_iter().map(answer).collect()
    }
}

/// Describes the responses for all codes in `sets`, one per status.
pub(crate) fn answers(sets: &[&[Code]]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in sets.iter().copied().flatten().copied() {
        let codes = by_status.entry(code.status().as_u16()).or_default();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    let answer = |(status, codes): (u16, Vec<Code>)| {
        let words: Vec<String> = codes
            .iter()
            .map(|code| format!("`{}`: {}", code.as_str(), code.title()))
            .collect();
        let of_these = schema::ObjectBuilder::new()
            .schema_type(schema::SchemaType::AnyValue)
            .property(
                "code",
                schema::ObjectBuilder::new()
                    .schema_type(schema::SchemaType::AnyValue)
                    .enum_values(Some(codes.iter().map(|code| json!(code)))),
            );
        let body = schema::AllOfBuilder::new()
            .item(Ref::from_schema_name("Problem"))
            .item(of_these);
        let content = Content::new(Some(RefOr::T(schema::Schema::from(body.build()))));
        let response = ResponseBuilder::new()
            .description(words.join(". "))
            .content("application/problem+json", content)
            .build();
        (status.to_string(), RefOr::T(response))
    };
    by_status.into_iter().map(answer).collect()
}
