//! The names.

use super::super::values::{self, Read};

/// A variable and what it means.
pub(super) struct Name {
    pub(super) variable: &'static str,
    pub(super) meaning: Meaning,
}

/// What a variable means here.
#[derive(Clone, Copy)]
pub(super) enum Meaning {
    /// The value of an argument, by its id. Of several variables for one argument the first in the
    /// table goes first: the newest name.
    Sets(&'static str, fn(&str) -> Read),
    /// Read by somebody else, or together with others.
    Elsewhere,
    /// Nothing, and nothing is missed.
    Idle(&'static str),
    /// Something that there is not; what to do instead. Not reported where the value is `unless` or
    /// switches something off.
    Lacking {
        instead: &'static str,
        unless: &'static [&'static str],
    },
}

const fn sets(variable: &'static str, argument: &'static str, read: fn(&str) -> Read) -> Name {
    let meaning = Meaning::Sets(argument, read);
    Name { variable, meaning }
}

const fn elsewhere(variable: &'static str) -> Name {
    let meaning = Meaning::Elsewhere;
    Name { variable, meaning }
}

const fn idle(variable: &'static str, why: &'static str) -> Name {
    let meaning = Meaning::Idle(why);
    Name { variable, meaning }
}

const fn lacking(variable: &'static str, instead: &'static str) -> Name {
    let meaning = Meaning::Lacking {
        instead,
        unless: &[],
    };
    Name { variable, meaning }
}

/// What counts things of which there is one.
const fn one(variable: &'static str, instead: &'static str) -> Name {
    let meaning = Meaning::Lacking {
        instead,
        unless: &["1", "-1"],
    };
    Name { variable, meaning }
}

const ENGINE: &str = "it tunes an engine that is another one";
const VIDEO: &str = "there are no models for video";
const LORA: &str = "adapters are not served; merge it into the weights";
const ONE_DEVICE: &str = "a model runs on one device; start more servers behind a balancer";
const CACHED: &str = "models are found by name in the cache, or named by directory";

/// Beginnings of names that come in numbers.
pub(super) const FAMILIES: &[&str] = &["NIM_STREAMING_", "NIM_CAPTURE_"];

/// All variables that are known.
pub(super) const TABLE: &[Name] = &[
    // What is served.
    sets("NIM_MODEL_PATH", "model", values::model),
    sets("NIM_FT_MODEL", "model", values::model),
    sets("NIM_MODEL_NAME", "model", values::model),
    sets("NIM_SERVED_MODEL_NAME", "served_model_name", values::list),
    sets("NIM_CUSTOM_MODEL_NAME", "served_model_name", values::list),
    elsewhere("NIM_MODEL_PROFILE"),
    sets("NIM_CACHE_PATH", "cache_path", values::plain),
    sets("NIM_DISABLE_MODEL_DOWNLOAD", "offline", values::switch),
    idle("NIM_TAGS_SELECTOR", CACHED),
    idle("NIM_MODEL_TYPE", CACHED),
    idle("NIM_MODEL_VARIANT", CACHED),
    idle("NIM_MODEL_SIZE", CACHED),
    idle("NIM_PRECISION", "`--dtype` says it"),
    lacking("NIM_MANIFEST_PATH", CACHED),
    idle("NIM_MANIFEST_ALLOW_UNSAFE", CACHED),
    lacking("NIM_REPOSITORY_OVERRIDE", "HF_ENDPOINT names another hub"),
    lacking(
        "NIM_DRAFT_MODEL_PATH",
        "`--speculative-tokens` guesses without a model",
    ),
    lacking(
        "NIM_USE_DFLASH",
        "`--speculative-tokens` guesses without a model",
    ),
    lacking("NIM_PEFT_SOURCE", LORA),
    idle("NIM_PEFT_REFRESH_INTERVAL", LORA),
    idle("NIM_PEFT_API_TIMEOUT_SECS", LORA),
    idle("NIM_MAX_GPU_LORAS", LORA),
    idle("NIM_MAX_CPU_LORAS", LORA),
    idle("NIM_MAX_LORA_RANK", LORA),
    lacking(
        "NIM_CHAT_TEMPLATE",
        "the checkpoint's own template is used; put it there",
    ),
    // The port and what it speaks.
    sets("NIM_SERVER_PORT", "port", values::port),
    sets("NIM_HTTP_API_PORT", "port", values::port),
    sets("NIM_HEALTH_PORT", "health_port", values::port),
    elsewhere("NIM_SSL_MODE"),
    elsewhere("NIM_SSL_CERTS_PATH"),
    elsewhere("NIM_SSL_KEY_PATH"),
    elsewhere("NIM_SSL_CA_CERTS_PATH"),
    sets("NIM_CORS_ALLOW_ORIGINS", "cors_allow_origins", values::list),
    sets("NIM_CORS_ALLOW_METHODS", "cors_allow_methods", values::list),
    sets("NIM_CORS_ALLOW_HEADERS", "cors_allow_headers", values::list),
    sets(
        "NIM_CORS_EXPOSE_HEADERS",
        "cors_expose_headers",
        values::list,
    ),
    sets(
        "NIM_CORS_ALLOW_CREDENTIALS",
        "cors_allow_credentials",
        values::switch,
    ),
    sets("NIM_CORS_MAX_AGE", "cors_max_age", values::plain),
    sets(
        "NIM_DISABLE_RESPONSES_ROUTE",
        "disable_route",
        values::responses,
    ),
    idle(
        "NIM_PER_REQ_METRICS_ENABLE",
        "requests ask for `return_timings`",
    ),
    idle(
        "NIM_MIDDLEWARE_CONFIG_PATH",
        "there is no middleware to be configured",
    ),
    // Logs and traces.
    sets("NIM_LOG_LEVEL", "log_level", values::log_level),
    sets("NIM_JSONL_LOGGING", "log_format", values::json_lines),
    sets("NIM_LOGGING_JSONL", "log_format", values::json_lines),
    idle(
        "NIM_DISABLE_LOG_REQUESTS",
        "neither headers nor bodies are ever logged",
    ),
    sets("NIM_ENABLE_OTEL", "tracing", values::tracing),
    // Sizes.
    sets("NIM_MAX_MODEL_LEN", "max_model_len", values::length),
    sets(
        "NIM_GPU_MEMORY_UTILIZATION",
        "gpu_memory_utilization",
        values::plain,
    ),
    sets(
        "NIM_GPU_MEM_FRACTION",
        "gpu_memory_utilization",
        values::plain,
    ),
    sets(
        "NIM_KV_CACHE_PERCENT",
        "gpu_memory_utilization",
        values::plain,
    ),
    sets(
        "NIM_KVCACHE_PERCENT",
        "gpu_memory_utilization",
        values::plain,
    ),
    sets(
        "NIM_ENABLE_KV_CACHE_REUSE",
        "no_prefix_cache",
        values::inverse,
    ),
    sets("NIM_MAX_NUM_SEQS", "max_num_seqs", values::plain),
    sets(
        "NIM_MAX_NUM_BATCHED_TOKENS",
        "max_num_batched_tokens",
        values::plain,
    ),
    sets("NIM_STREAM_INTERVAL", "stream_interval", values::plain),
    idle(
        "NIM_ENABLE_CHUNKED_PREFILL",
        "long prompts always come in pieces",
    ),
    idle(
        "NIM_LOW_MEMORY_MODE",
        "weights are always read where they lie",
    ),
    idle("NIM_RELAX_MEM_CONSTRAINTS", "what does not fit cannot run"),
    one("NIM_TENSOR_PARALLEL_SIZE", ONE_DEVICE),
    one("NIM_PIPELINE_PARALLEL_SIZE", ONE_DEVICE),
    lacking("NIM_MULTI_NODE", ONE_DEVICE),
    one("NIM_NUM_COMPUTE_NODES", ONE_DEVICE),
    idle("NIM_NODE_RANK", ONE_DEVICE),
    idle("NIM_LEADER_ROLE", ONE_DEVICE),
    // The engine.
    elsewhere("NIM_PASSTHROUGH_ARGS"),
    idle("NIM_DISABLE_CUDA_GRAPH", ENGINE),
    idle("NIM_COMPILATION_CONFIG", ENGINE),
    idle(
        "NIM_FORCE_TRUST_REMOTE_CODE",
        "no code of a checkpoint is ever executed",
    ),
    idle("NIM_TOKENIZER_MODE", ENGINE),
    idle(
        "NIM_GUIDED_DECODING_BACKEND",
        "there is one, for all forms of structured output",
    ),
    idle(
        "NIM_ENABLE_AUTO_TOOL_CHOICE",
        "models that can call tools do",
    ),
    idle(
        "NIM_TOOL_CALL_PARSER",
        "the template tells the form of calls",
    ),
    idle("NIM_DISABLE_CHUNKED_MM_INPUT", ENGINE),
    idle(
        "NIM_DISABLE_MM_PREPROCESSOR_CACHE",
        "`--image-cache-memory 0` keeps no pictures",
    ),
    idle("NIM_MM_ENCODER_ATTN_BACKEND", ENGINE),
    idle("NIM_MM_ENCODER_TP_MODE", ENGINE),
    // Pictures.
    sets("NIM_MAX_IMAGES_PER_PROMPT", "max_images", values::plain),
    idle("NIM_MAX_VIDEOS_PER_PROMPT", VIDEO),
    idle("NIM_VIDEO_PRUNING_RATE", VIDEO),
    idle("NIM_VIDEO_PRUNING_METHOD", VIDEO),
    lacking("NIM_ENABLE_STREAMING", VIDEO),
    idle("NIM_MEDIA_IO_KWARGS", VIDEO),
    lacking(
        "NIM_MM_PROCESSOR_KWARGS",
        "pictures are prepared as the checkpoint's `preprocessor_config.json` says",
    ),
    sets("NIM_ALLOW_URL_INPUT", "no_media_urls", values::inverse),
    idle(
        "NIM_CONN_FAST_HTTP",
        "pictures are fetched by another client",
    ),
    idle(
        "NIM_CONN_READ_BUFSIZE",
        "pictures are fetched by another client",
    ),
    idle(
        "NIM_CONN_TRUST_ENV",
        "pictures are never fetched through a proxy",
    ),
    idle(
        "NIM_SDK_USE_NATIVE_TLS",
        "the system's authorities are always used",
    ),
];
