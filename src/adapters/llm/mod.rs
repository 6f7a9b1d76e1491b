//! Model providers: the OpenAI and Anthropic protocols, and what they share.

pub mod anthropic;
pub mod genai_span;
pub mod openai;
pub mod provider;
