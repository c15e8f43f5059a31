//! Wire types of the OpenAI-compatible API: requests, answers, stream chunks, errors.
//!
//! A request is read once, by [`ChatRequest::from_slice`], into typed and range-checked fields;
//! nothing behind this crate sees raw JSON. Each spelling of an image that clients of NIM and
//! vLLM use becomes the same [`ContentPart::ImageUrl`] here and nowhere else.
//!
//! The rule for fields: what is implemented is checked, what is unknown is ignored (as vLLM
//! does), and what is known, would change the answer and is not implemented is refused by name.
//! The last group is listed in [`UNSUPPORTED`].

mod agent_hints;
pub mod anthropic;
mod assets;
mod beams;
mod completion;
mod completion_answer;
mod content;
mod dialect;
mod error;
mod hosted;
mod informational;
mod inspection;
mod invocation;
mod markup;
mod message;
mod nvext;
mod picture;
mod reader;
mod request;
mod response;
pub mod responses;
mod served;
mod stops;
mod structure;
mod structured;
mod tools;
mod unsupported;
mod usage;
mod validate;
mod vocabulary;

pub use agent_hints::AgentHints;
pub use assets::{
    AssetBody, AssetCreated, AssetId, AssetInfo, AssetList, CreateAsset, MAX_ASSET_DESCRIPTION,
    asset_in,
};
pub use completion::{
    CHAT_FIELDS, CompletionRequest, DEFAULT_MAX_TOKENS, MAX_COMPLETIONS, MAX_PROMPTS, TextPrompt,
};
pub use completion_answer::{
    TextChoice, TextChunk, TextChunkChoice, TextCompletion, TextLogprobs, text_completion_id,
};
pub use content::{ContentPart, MAX_PARTS, MessageContent};
pub use dialect::{FieldNames, Translated};
pub use error::{
    ErrorBody, ErrorDetail, ErrorType, RequestError, StreamErrorBody, StreamErrorDetail,
};
pub use hosted::{
    HostedChoice, HostedChunk, HostedChunkChoice, HostedCompletion, HostedMessage, HostedRequest,
};
pub use informational::{Health, Model, ModelList, ModelPermission, Version};
pub use inspection::{
    DetokenizeRequest, Detokenized, Images, MultiModalFeatures, PlaceholderRange, RenderedPrompt,
    TokenizeInput, TokenizeRequest, Tokenized,
};
pub use invocation::Invocation;
pub use message::{Message, Role};
pub use nvext::NvExt;
pub use picture::{ImageDetail, ImagePart, ImageUrl, MAX_UUID_BYTES};
pub use request::{
    ChatRequest, MAX_CHOICES, MAX_LOGIT_BIAS, MAX_MESSAGES, MAX_NO_REPEAT_NGRAM, MAX_TOP_LOGPROBS,
    StreamOptions,
};
pub use response::{
    AnswerMessage, ChatChunk, ChatCompletion, Choice, ChoiceLogprobs, ChunkChoice, Delta, Entity,
    FinishReason, Null, PromptLogprob, StopReason, TokenLogprob, TopLogprob, completion_id,
};
pub use served::{EngineVersion, License, LicenseInfo, Manifest, Metadata, ModelInfo};
pub use stops::{MAX_STOP_BYTES, MAX_STOP_TOKEN_IDS, MAX_STOPS, StopSequences};
pub use structure::{MAX_JSON_DEPTH, MAX_JSON_VALUES, check_structure};
pub use structured::{
    Constraint, ConstraintKind, JsonSchemaFormat, ResponseFormat, StructuredOutputs,
};
pub use tools::{
    AllowedChoice, AllowedTools, Function, FunctionCall, FunctionChoice, FunctionDelta,
    MAX_FUNCTION_NAME, MAX_TOOLS, MAX_TOOLS_BYTES, NamedFunction, NamedTool, PastCall,
    PastFunction, Tool, ToolCall, ToolCallDelta, ToolChoice, ToolMode, tool_call_id,
};
pub use unsupported::{UNSUPPORTED, UNSUPPORTED_IN_COMPLETIONS, Unsupported};
pub use usage::{PromptTokensDetails, Timings, Usage};
pub use vocabulary::{MAX_ALLOWED_TOKEN_IDS, MAX_BAD_WORD_BYTES, MAX_BAD_WORDS};
