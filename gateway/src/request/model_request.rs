//! Builds a chat body from the port's request.

use async_openai::types::chat::{
    ChatCompletionMessageToolCall, ChatCompletionMessageToolCalls, ChatCompletionRequestAssistantMessage,
    ChatCompletionRequestAssistantMessageContent, ChatCompletionRequestMessage, ChatCompletionRequestSystemMessage,
    ChatCompletionRequestSystemMessageContent, ChatCompletionRequestToolMessage,
    ChatCompletionRequestToolMessageContent, ChatCompletionRequestUserMessage, ChatCompletionRequestUserMessageContent,
    ChatCompletionStreamOptions, ChatCompletionTool, ChatCompletionTools, CreateChatCompletionRequest, FunctionCall,
    FunctionObject, ResponseFormat, ResponseFormatJsonSchema,
};
use copilotd_actors::domain::context::prompt::{PromptCall, PromptMessage};
use copilotd_actors::domain::hash::PartHasher;
use copilotd_actors::domain::ids::UserId;
use copilotd_actors::domain::sent_prompt::ToolOffer;
use copilotd_actors::ports::ModelRequest;
use copilotd_actors::tenancy::TenantScope;
use serde_json::Value;

use super::body::{ChatBody, InvalidBody};
use super::files::{self, FilesMessage};
use super::strict::allows_strict;

/// Builds the body of a turn's step or a summary. The same request always gives the same bytes, and a longer
/// conversation only appends messages: providers cache by prefix. What depends on the deployment is added when it is
/// sent (`wire`).
pub fn body(request: &ModelRequest) -> Result<ChatBody, InvalidBody> {
    let tools: Vec<ChatCompletionTools> = request.tools.iter().map(tool).collect();
    #[expect(deprecated, reason = "servers other than OpenAI's only know user")]
    let body = CreateChatCompletionRequest {
        messages: request.messages.iter().map(message).collect(),
        model: request.route.clone(),
        stream: Some(true),
        stream_options: Some(ChatCompletionStreamOptions {
            include_usage: Some(true),
            include_obfuscation: None,
        }),
        max_completion_tokens: request.max_tokens.map(|max| u32::try_from(max).unwrap_or(u32::MAX)),
        // Rejected by OpenAI when there are no tools.
        parallel_tool_calls: (!tools.is_empty()).then_some(true),
        tools: (!tools.is_empty()).then_some(tools),
        response_format: request.response_schema.as_ref().map(response_format),
        user: Some(user(&request.scope, &request.user)),
        ..CreateChatCompletionRequest::default()
    };
    let files = request
        .messages
        .iter()
        .enumerate()
        .filter_map(|(index, message)| match message {
            PromptMessage::Files { files } => Some(FilesMessage {
                index,
                files: files.clone(),
            }),
            _ => None,
        });
    Ok(ChatBody::from_value(&body)?.with_files(files.collect()))
}

/// A pseudonym of the user for the provider, which may want to tell users apart when one misbehaves.
pub fn user(scope: &TenantScope, user: &UserId) -> String {
    let tenant = PartHasher::new().part(scope.tenant().as_str());
    hex::encode(&tenant.finish_with(user.as_str())[..16])
}

fn message(message: &PromptMessage) -> ChatCompletionRequestMessage {
    match message {
        PromptMessage::System { text } => ChatCompletionRequestMessage::System(ChatCompletionRequestSystemMessage {
            content: ChatCompletionRequestSystemMessageContent::Text(text.clone()),
            name: None,
        }),
        PromptMessage::User { text } => ChatCompletionRequestMessage::User(ChatCompletionRequestUserMessage {
            content: ChatCompletionRequestUserMessageContent::Text(text.clone()),
            name: None,
        }),
        // As a target reads it that reads text only; the others get more when they are asked.
        PromptMessage::Files { files } => ChatCompletionRequestMessage::User(ChatCompletionRequestUserMessage {
            content: ChatCompletionRequestUserMessageContent::Text(files::text(files, &[])),
            name: None,
        }),
        PromptMessage::Assistant { text, calls } => {
            // Content may be missing only with calls.
            let content = (!text.is_empty() || calls.is_empty())
                .then(|| ChatCompletionRequestAssistantMessageContent::Text(text.clone()));
            ChatCompletionRequestMessage::Assistant(ChatCompletionRequestAssistantMessage {
                content,
                tool_calls: (!calls.is_empty()).then(|| calls.iter().map(call).collect()),
                ..ChatCompletionRequestAssistantMessage::default()
            })
        }
        PromptMessage::Tool { call, content } => ChatCompletionRequestMessage::Tool(ChatCompletionRequestToolMessage {
            content: ChatCompletionRequestToolMessageContent::Text(content.clone()),
            tool_call_id: call.to_string(),
        }),
    }
}

fn call(call: &PromptCall) -> ChatCompletionMessageToolCalls {
    ChatCompletionMessageToolCalls::Function(ChatCompletionMessageToolCall {
        id: call.id.to_string(),
        function: FunctionCall {
            name: call.name.clone(),
            arguments: call.arguments.to_string(),
        },
    })
}

fn tool(tool: &ToolOffer) -> ChatCompletionTools {
    ChatCompletionTools::Function(ChatCompletionTool {
        function: FunctionObject {
            name: tool.name.clone(),
            description: (!tool.description.is_empty()).then(|| tool.description.clone()),
            parameters: Some(tool.parameters.clone()),
            // Strict functions rule out parallel calls on some models; arguments are validated by the core anyway.
            strict: None,
        },
    })
}

fn response_format(schema: &Value) -> ResponseFormat {
    ResponseFormat::JsonSchema {
        json_schema: ResponseFormatJsonSchema {
            description: None,
            name: "answer".to_owned(),
            schema: schema.clone(),
            strict: Some(allows_strict(schema)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests open scopes")]
    fn a_user_keeps_its_pseudonym() {
        let scope = TenantScope::from_verified("acme".parse().unwrap());
        assert_eq!(
            user(&scope, &"ada".parse().unwrap()),
            "472c9540d6fe2acd9aaad5ee46176dc6"
        );
    }
}
