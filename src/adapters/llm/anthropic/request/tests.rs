use super::*;

fn ask(body: &Value) -> Result<Value, Unsupported> {
    said(body, false)
}

fn said(body: &Value, is_checked: bool) -> Result<Value, Unsupported> {
    let mut body = body.clone();
    body["model"] = json!("default");
    let body = ChatBody::from_value(&body).unwrap();
    let options = TranslateOptions {
        model: "claude-x",
        max_tokens: 4096,
        stream: body.stream(),
        is_checked,
    };
    write(&body, options).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// Translates `body` together with one plain message.
fn with(mut body: Value) -> Result<Value, Unsupported> {
    body["messages"] = json!([{"role": "user", "content": "Hello?"}]);
    ask(&body)
}

#[test]
fn a_full_request_says_everything_once() {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}});
    let body = json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello?"},
            {"role": "developer", "content": [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,QUJD"}},
            ]},
            {"role": "assistant", "content": "Let me see.",
             "tool_calls": [call("call_1", "{\"city\":\"Łódź\",\"days\":2}"), call("functions.x:2", "")]},
            {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
            {"role": "tool", "content": [{"type": "text", "text": "sun"}], "tool_call_id": "functions.x:2", "name": "get_weather"},
            {"role": "user", "content": "And?", "cache_control": {"type": "ephemeral"}},
            {"role": "assistant", "content": ""},
            {"role": "assistant", "content": null, "refusal": "I will not."},
            {"role": "assistant", "content": [{"type": "text", "text": "Well."}], "reasoning_content": "hm",
             "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
            {"role": "user", "content": "Bye."},
        ],
        "max_completion_tokens": 100, "stream": true, "stream_options": {"include_usage": true},
        "temperature": 1.7, "top_p": 0.5, "top_k": 5, "stop": "END", "user": "u1", "seed": 1, "n": 1,
        "tools": [{"type": "function", "function": {
            "name": "get_weather", "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "minLength": 1}}},
        }}],
        "parallel_tool_calls": false, "thinking": {"type": "adaptive"}, "logprobs": false, "metadata": {"a": "b"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": true,
            "schema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}},
        "reasoning_effort": "high",
    });
    assert_eq!(
        ask(&body).unwrap(),
        json!({
            "model": "claude-x",
            "max_tokens": 100,
            "system": [
                {"type": "text", "text": "Be brief."},
                {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
            ],
            "messages": [
                {"role": "user", "content": [
                    {"type": "text", "text": "Hello?"},
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "url", "url": "https://x.example/a.png"}},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                    {"type": "document", "title": "a.pdf",
                     "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}},
                ]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Łódź", "days": 2}},
                    {"type": "tool_use", "id": "id_functions-2ex-3a2", "name": "get_weather", "input": {}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"},
                    {"type": "tool_result", "tool_use_id": "id_functions-2ex-3a2", "content": [{"type": "text", "text": "sun"}]},
                    {"type": "text", "text": "And?", "cache_control": {"type": "ephemeral"}},
                ]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "I will not."},
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "Well."},
                ]},
                {"role": "user", "content": [{"type": "text", "text": "Bye."}]},
            ],
            "tools": [{"name": "get_weather", "description": "Tells the weather.",
                       "input_schema": {"type": "object", "properties": {"city": {"type": "string", "minLength": 1}}}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": true},
            "top_p": 0.5,
            "top_k": 5,
            "stop_sequences": ["END"],
            "metadata": {"user_id": "u1"},
            "thinking": {"type": "adaptive"},
            "output_config": {
                "format": {"type": "json_schema", "schema": {
                    "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
                    "additionalProperties": false}},
                "effort": "high",
            },
            "stream": true,
        })
    );
}

#[test]
fn single_members_are_translated_or_left_out() {
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let strict = json!([{"type": "function", "cache_control": {"type": "ephemeral"},
                         "function": {"name": "f", "strict": true, "parameters": {"type": "object", "properties": {}}}}]);
    for (body, pointer, expected) in [
        (json!({}), "/max_tokens", Some(json!(4096))),
        (json!({"max_tokens": 7}), "/max_tokens", Some(json!(7))),
        (json!({}), "/stream", None),
        (json!({}), "/system", None),
        (json!({}), "/tools", None),
        (json!({"temperature": 0}), "/temperature", Some(json!(0.0))),
        (json!({"temperature": 0.25}), "/temperature", Some(json!(0.25))),
        (json!({"temperature": 2}), "/temperature", None),
        (json!({"top_p": 1}), "/top_p", None),
        (json!({"stop": ["a", "b"]}), "/stop_sequences", Some(json!(["a", "b"]))),
        (json!({"stop": []}), "/stop_sequences", None),
        (json!({"stop": null}), "/stop_sequences", None),
        (
            json!({"metadata": {"user_id": "u"}}),
            "/metadata",
            Some(json!({"user_id": "u"})),
        ),
        (json!({"metadata": {"x": "y"}}), "/metadata", None),
        (json!({"safety_identifier": "u"}), "/metadata/user_id", Some(json!("u"))),
        (json!({"service_tier": "auto"}), "/service_tier", Some(json!("auto"))),
        (json!({"service_tier": "flex"}), "/service_tier", None),
        (
            json!({"reasoning_effort": "minimal"}),
            "/output_config/effort",
            Some(json!("low")),
        ),
        (
            json!({"reasoning_effort": "none"}),
            "/thinking/type",
            Some(json!("disabled")),
        ),
        (json!({"response_format": {"type": "text"}}), "/output_config", None),
        (
            json!({"output_config": {"effort": "low"}, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {}}}}}),
            "/output_config/effort",
            Some(json!("low")),
        ),
        (
            json!({"tools": tools}),
            "/tools/0/input_schema",
            Some(json!({"type": "object", "properties": {}})),
        ),
        (json!({"tools": tools}), "/tool_choice", None),
        (
            json!({"tools": tools, "parallel_tool_calls": true}),
            "/tool_choice",
            None,
        ),
        (
            json!({"tools": tools, "tool_choice": "auto"}),
            "/tool_choice",
            Some(json!({"type": "auto"})),
        ),
        (
            json!({"tools": tools, "tool_choice": "required"}),
            "/tool_choice",
            Some(json!({"type": "any"})),
        ),
        (
            json!({"tools": tools, "tool_choice": "none", "parallel_tool_calls": false}),
            "/tool_choice",
            Some(json!({"type": "none"})),
        ),
        (
            json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": false}),
            "/tool_choice",
            Some(json!({"type": "tool", "name": "f", "disable_parallel_tool_use": true})),
        ),
        (json!({"tool_choice": "none"}), "/tool_choice", None),
        (
            json!({"tools": strict}),
            "/tools/0",
            Some(
                json!({"name": "f", "strict": true, "cache_control": {"type": "ephemeral"},
                        "input_schema": {"type": "object", "properties": {}, "additionalProperties": false}}),
            ),
        ),
        (
            json!({"logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0, "top_logprobs": 0, "store": false,
                   "modalities": ["text"], "functions": [], "function_call": "auto", "verbosity": "medium", "audio": null}),
            "/store",
            None,
        ),
    ] {
        let request = with(body.clone()).unwrap();
        assert_eq!(request.pointer(pointer), expected.as_ref(), "{body} {pointer}");
    }
}

#[test]
fn unsupported_members_are_refused_by_name() {
    for (body, param) in [
        (json!({"n": 2}), "n"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"presence_penalty": 0.5}), "presence_penalty"),
        (json!({"logit_bias": {"1": 5}}), "logit_bias"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"audio": {"voice": "x"}}), "audio"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"web_search_options": {}}), "web_search_options"),
        (json!({"x_own": 1}), "x_own"),
        (json!({"stop": "\n"}), "stop"),
        (json!({"reasoning_effort": "wild"}), "reasoning_effort"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0]"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}),
            "tools[0].function.parameters",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true,
                   "parameters": {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}}}}]}),
            "tools[0].function.parameters",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"type": "allowed_tools"}}),
            "tool_choice",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
    ] {
        assert_eq!(with(body.clone()).unwrap_err().param, param, "{body}");
    }
}

#[test]
fn unsupported_messages_are_refused_by_path() {
    let call = |call: Value| json!([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}]);
    for (messages, param) in [
        (json!([]), "messages"),
        (json!([{"role": "system", "content": "a"}]), "messages"),
        (
            json!([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]),
            "messages",
        ),
        (
            json!([{"role": "user", "content": "b"}, {"role": "assistant", "content": "secret"}]),
            "messages",
        ),
        (json!([{"role": "function", "content": "a"}]), "messages[0].role"),
        (json!([{"role": "user", "content": " \n"}]), "messages[0].content"),
        (json!([{"role": "user", "content": 7}]), "messages[0].content"),
        (
            json!([{"role": "user", "name": "bob", "content": "a"}]),
            "messages[0].name",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": {}}]}]),
            "messages[0].content[1]",
        ),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AA"}}]}]),
            "messages[0].content[0]",
        ),
        (
            json!([{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]),
            "messages[0].content[0]",
        ),
        (
            json!([{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "https://x"}}]}]),
            "messages[0].content[0]",
        ),
        (
            call(json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"secret"}})),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            call(json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1]"}})),
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            call(json!({"id": "1", "type": "custom", "custom": {"name": "f"}})),
            "messages[1].tool_calls[0]",
        ),
        (
            json!([{"role": "user", "content": "a"}, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]),
            "messages[1].function_call",
        ),
        (
            json!([{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]),
            "messages[1].tool_call_id",
        ),
    ] {
        let error = ask(&json!({ "messages": messages })).unwrap_err();
        assert_eq!(error.param, param, "{messages}");
        assert!(!error.why.contains("secret"), "{error:?}");
    }
}

#[test]
fn tools_called_earlier_are_declared_and_may_not_be_called() {
    let messages = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        {"role": "tool", "tool_call_id": "2", "content": "b", "is_error": true},
    ]);
    let request = ask(&json!({ "messages": messages })).unwrap();
    assert_eq!(
        request["tools"],
        json!([{"name": "f", "input_schema": {"type": "object"}}])
    );
    assert_eq!(request["tool_choice"], json!({"type": "none"}));
    let results = json!([
        {"type": "tool_result", "tool_use_id": "1"},
        {"type": "tool_result", "tool_use_id": "2", "content": "b", "is_error": true},
    ]);
    assert_eq!(request["messages"][2]["content"], results);
}

#[test]
fn ids_that_differ_stay_different() {
    let ids = ["a.b", "a:b", "a-2eb", "id_a-2eb", "a_b", ""];
    let body = |id: &str| {
        let call = json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]},
                              {"role": "tool", "tool_call_id": id, "content": "b"}]);
        let request = ask(&json!({ "messages": messages })).unwrap();
        let id = request["messages"][1]["content"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(request["messages"][2]["content"][0]["tool_use_id"], json!(id));
        id
    };
    let translated: std::collections::HashSet<String> = ids.into_iter().map(body).collect();
    assert_eq!(translated.len(), ids.len());
}

#[test]
fn constraints_may_be_omitted_if_the_answer_is_validated_anyway() {
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"], "additionalProperties": false});
    let body = json!({
        "messages": [{"role": "user", "content": "Hello?"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}},
    });
    assert!(said(&body, false).is_err());
    let request = said(&body, true).unwrap();
    assert!(
        request.to_string().contains("\"n\"") && !request.to_string().contains("minimum"),
        "{request:#}"
    );
}
