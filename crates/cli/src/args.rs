//! What the command line says, before anything is resolved.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vlmd_bench::BenchArgs;
use vlmd_engine::{EngineConfig, Speculation};
use vlmd_media::{AllowHost, constants};
use vlmd_server::{RootPath, ServerConfig};

use crate::access_args::AccessArgs;
use crate::asset_args::AssetArgs;
use crate::check::CheckArgs;
use crate::kv_choice::KvChoice;
use crate::plan::PlanArgs;
use crate::response_args::ResponseArgs;
use crate::settings::DeploymentArgs;

/// Self-hosted inference server for vision-language models.
///
/// Without a command it serves: `vlmd` is `vlmd serve`.
#[derive(Debug, Parser)]
#[command(name = "vlmd", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model over HTTP (the default command)
    Serve(Box<ServeArgs>),
    /// Measure an OpenAI-compatible endpoint, or two of them side by side
    Bench(Box<BenchArgs>),
    /// Check what this machine computes against what it should, and how fast it is
    Check(CheckArgs),
    /// List the models of the catalog
    Models,
    /// Fetch a model into the Hugging Face cache
    Download(DownloadArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DownloadArgs {
    /// Catalog name, alias, or Hugging Face repository
    pub(crate) model: String,
    /// Branch, tag or commit; the catalog's own where it pins one, else `main`
    #[arg(long, env = "VLMD_REVISION")]
    pub(crate) revision: Option<String>,
    /// Cache of models as NIM containers keep it, in place of Hugging Face's own
    #[arg(long, env = "VLMD_CACHE_PATH", value_name = "DIR")]
    pub(crate) cache_path: Option<PathBuf>,
    /// Fetch nothing: say where the model is, or that it is not there
    #[arg(long, env = "VLMD_OFFLINE")]
    pub(crate) offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Catalog name, alias, Hugging Face repository, a directory with a checkpoint, or a `.nemo`
    /// archive
    #[arg(long, env = "VLMD_MODEL", default_value = vlmd_models::catalog::EMBEDDED_MODEL)]
    pub(crate) model: String,
    /// CLIP model for a `.nemo` archive that brings no vision tower: a directory or a Hugging Face
    /// repository; by default the one that the archive names
    #[arg(long, env = "VLMD_VISION_TOWER", value_name = "DIR|REPO")]
    pub(crate) vision_tower: Option<String>,
    /// Branch, tag or commit of the repository
    #[arg(long, env = "VLMD_REVISION")]
    pub(crate) revision: Option<String>,
    /// Names that clients may put in `model`; the first is the one reported
    #[arg(
        long,
        env = "VLMD_SERVED_MODEL_NAME",
        value_delimiter = ',',
        value_name = "NAME,..."
    )]
    pub(crate) served_model_name: Vec<String>,

    /// Address to listen on
    #[arg(long, env = "VLMD_HOST", default_value = "0.0.0.0")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "VLMD_PORT", default_value_t = 8000)]
    pub(crate) port: u16,
    /// Path under which all routes answer as well, such as /models/vision, for proxies that pass
    /// it on
    #[arg(
        long,
        env = "VLMD_ROOT_PATH",
        default_value = "",
        hide_default_value = true,
        value_name = "PATH"
    )]
    pub(crate) root_path: RootPath,
    /// Keys that clients must present as `Authorization: Bearer`; none leaves the server open
    #[arg(
        long,
        env = "VLMD_API_KEY",
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "KEY,..."
    )]
    pub(crate) api_key: Vec<String>,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    /// Bytes of a request body
    #[arg(long, env = "VLMD_MAX_BODY_BYTES", default_value_t = ServerConfig::DEFAULT_MAX_BODY_BYTES)]
    pub(crate) max_body_bytes: usize,
    /// Chat requests under way at a time, waiting ones included; more are answered 503
    #[arg(long, env = "VLMD_MAX_INFLIGHT", default_value_t = ServerConfig::DEFAULT_MAX_INFLIGHT, value_parser = positive)]
    pub(crate) max_inflight: usize,
    /// Open connections; more wait to be accepted
    #[arg(long, env = "VLMD_MAX_CONNECTIONS", default_value_t = ServerConfig::DEFAULT_MAX_CONNECTIONS, value_parser = positive)]
    pub(crate) max_connections: usize,
    /// Seconds for a request's header to arrive
    #[arg(long, env = "VLMD_HEADER_TIMEOUT", default_value = "30", value_parser = seconds)]
    pub(crate) header_timeout: Duration,
    /// Seconds for a request's body to arrive
    #[arg(long, env = "VLMD_BODY_TIMEOUT", default_value = "60", value_parser = seconds)]
    pub(crate) body_timeout: Duration,
    /// Prompts prepared at a time; by default one per core
    #[arg(long, env = "VLMD_PREPARE_CONCURRENCY", value_parser = positive)]
    pub(crate) prepare_concurrency: Option<usize>,
    /// Seconds that running requests get to finish after SIGTERM
    #[arg(long, env = "VLMD_DRAIN_TIMEOUT", default_value = "25", value_parser = seconds)]
    pub(crate) drain_timeout: Duration,

    /// Where the model runs
    #[arg(
        long,
        env = "VLMD_DEVICE",
        default_value = "auto",
        value_name = "auto|cpu|cuda[:N]"
    )]
    pub(crate) device: DeviceChoice,
    /// Precision of the weights; `auto` keeps what the checkpoint holds on a CPU, else it is bf16
    #[arg(long, env = "VLMD_DTYPE", value_enum, default_value_t)]
    pub(crate) dtype: Precision,
    /// Follow transformers where it departs from the code that the weights were trained with:
    /// with mllama, tokens before the first picture see all tiles
    #[arg(long, env = "VLMD_TRANSFORMERS_QUIRKS")]
    pub(crate) transformers_quirks: bool,
    /// What cached keys and values are kept as; `auto` is f32 on a CPU, else that of the weights
    #[arg(
        long,
        env = "VLMD_KV_CACHE_DTYPE",
        default_value = "auto",
        value_name = "auto|f32|f16|bf16|int8"
    )]
    pub(crate) kv_cache_dtype: KvChoice,
    /// Memory for cached keys and values, such as 512MiB or 8GB; by default what the memory plan
    /// leaves (`--plan-only`), on a CPU a quarter of what is free beside the weights, and no more
    /// than the longest sequences could use
    #[arg(long, env = "VLMD_KV_CACHE_MEMORY", value_name = "SIZE")]
    pub(crate) kv_cache_memory: Option<ByteSize>,
    /// Memory for what answers look at by cross-attention, where the model has it (mllama), such
    /// as 4GiB; by default a quarter of what is free beside the weights
    #[arg(long, env = "VLMD_CROSS_ATTENTION_MEMORY", value_name = "SIZE")]
    pub(crate) cross_attention_memory: Option<ByteSize>,
    /// CPU threads for the model; by default all cores
    #[arg(long, env = "VLMD_THREADS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,

    /// Tokens of one conversation, prompt and answer together; by default what the model and
    /// the cache memory allow
    #[arg(long, env = "VLMD_MAX_MODEL_LEN", value_parser = positive)]
    pub(crate) max_model_len: Option<usize>,
    /// Tokens of an answer whose request does not say `max_tokens`
    #[arg(long, env = "VLMD_DEFAULT_MAX_TOKENS", default_value_t = 2048, value_parser = positive)]
    pub(crate) default_max_tokens: usize,
    /// Requests that run side by side
    #[arg(long, env = "VLMD_MAX_NUM_SEQS", default_value_t = EngineConfig::DEFAULT_MAX_NUM_SEQS, value_parser = positive)]
    pub(crate) max_num_seqs: usize,
    /// Tokens that one step of the engine may compute
    #[arg(long, env = "VLMD_MAX_NUM_BATCHED_TOKENS", default_value_t = EngineConfig::DEFAULT_MAX_NUM_BATCHED_TOKENS, value_parser = positive)]
    pub(crate) max_num_batched_tokens: usize,
    /// Tokens of one prompt in one step: fewer make shorter pauses for the answers beside it
    #[arg(long, env = "VLMD_MAX_PREFILL_CHUNK", default_value_t = EngineConfig::DEFAULT_MAX_PREFILL_CHUNK, value_parser = positive)]
    pub(crate) max_prefill_chunk: usize,
    /// Requests that may wait for a place; more are answered 503
    #[arg(long, env = "VLMD_MAX_QUEUE", default_value_t = EngineConfig::DEFAULT_MAX_QUEUE, value_parser = positive)]
    pub(crate) max_queue: usize,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    #[command(flatten)]
    pub(crate) media: MediaArgs,

    #[command(flatten)]
    pub(crate) deployment: DeploymentArgs,

    #[command(flatten)]
    pub(crate) assets: AssetArgs,

    #[command(flatten)]
    pub(crate) responses: ResponseArgs,

    #[command(flatten)]
    pub(crate) plan: PlanArgs,

    /// Least level of what is logged
    #[arg(long, env = "VLMD_LOG_LEVEL", value_enum, default_value_t)]
    pub(crate) log_level: LogLevel,
    /// Form of the log
    #[arg(long, env = "VLMD_LOG_FORMAT", value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Tokens of the prompts that may wait, together; more are answered 503
    #[arg(long, env = "VLMD_MAX_QUEUED_TOKENS", default_value_t = EngineConfig::DEFAULT_MAX_QUEUED_TOKENS, value_parser = positive)]
    pub(crate) max_queued_tokens: usize,
    /// How many times as long as a step that only writes answers one may take that also reads
    /// prompts or pictures; `inf` is no bound
    #[arg(long, env = "VLMD_MAX_STEP_STRETCH", default_value_t = EngineConfig::DEFAULT_MAX_STEP_STRETCH, value_parser = stretch)]
    pub(crate) max_step_stretch: f64,
    /// Compute every prompt anew, whatever earlier ones have left in the KV cache
    #[arg(long, env = "VLMD_NO_PREFIX_CACHE")]
    pub(crate) no_prefix_cache: bool,
    /// Memory for encoded pictures that may come again, such as 1GiB; 0 keeps none
    #[arg(
        long,
        env = "VLMD_ENCODER_CACHE_MEMORY",
        value_name = "SIZE",
        default_value = "512MiB"
    )]
    pub(crate) encoder_cache_memory: ByteSize,
    /// Tokens guessed in a step, looked up in prompt and answer; 0 guesses none
    #[arg(long, env = "VLMD_SPECULATIVE_TOKENS", default_value_t = 0)]
    pub(crate) speculative_tokens: u8,
    /// Fewest tokens in a row that must have stood before for a guess
    #[arg(long, env = "VLMD_SPECULATIVE_MIN_NGRAM", default_value_t = Speculation::DEFAULT_MIN_NGRAM, value_parser = positive)]
    pub(crate) speculative_min_ngram: usize,
    /// Most tokens in a row that are looked for
    #[arg(long, env = "VLMD_SPECULATIVE_MAX_NGRAM", default_value_t = Speculation::DEFAULT_MAX_NGRAM, value_parser = positive)]
    pub(crate) speculative_max_ngram: usize,
    /// Also export metrics under names that vLLM has given up
    #[arg(long, env = "VLMD_METRICS_LEGACY_NAMES")]
    pub(crate) metrics_legacy_names: bool,
    /// Tell in `usage` how many tokens of a prompt were found in the KV cache
    #[arg(long, env = "VLMD_ENABLE_PROMPT_TOKENS_DETAILS")]
    pub(crate) enable_prompt_tokens_details: bool,
    /// Seconds in which a request must begin to run, else it is answered 503
    #[arg(long, env = "VLMD_QUEUE_TIMEOUT", value_parser = seconds)]
    pub(crate) queue_timeout: Option<Duration>,
    /// Seconds in which a request must be answered, else it is answered 504
    #[arg(long, env = "VLMD_REQUEST_TIMEOUT", value_parser = seconds)]
    pub(crate) request_timeout: Option<Duration>,
}

impl EngineArgs {
    /// How to guess at next tokens, if at all.
    pub(crate) fn speculation(&self) -> Option<Speculation> {
        (self.speculative_tokens > 0).then_some(Speculation {
            tokens: usize::from(self.speculative_tokens),
            min_ngram: self.speculative_min_ngram,
            max_ngram: self.speculative_max_ngram,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct MediaArgs {
    /// Pictures in one request; by default what the catalog says of the model, or 5
    #[arg(long, env = "VLMD_MAX_IMAGES", default_value_t = 5)]
    pub(crate) max_images: usize,
    /// Bytes of one picture as sent or fetched
    #[arg(long, env = "VLMD_MAX_IMAGE_BYTES", default_value_t = constants::MAX_IMAGE_BYTES)]
    pub(crate) max_image_bytes: u64,
    /// Pixels of one picture
    #[arg(long, env = "VLMD_MAX_IMAGE_PIXELS", default_value_t = constants::MAX_IMAGE_PIXELS)]
    pub(crate) max_image_pixels: u64,
    /// Pixels of a picture's longer side
    #[arg(long, env = "VLMD_MAX_IMAGE_SIDE", default_value_t = constants::MAX_IMAGE_SIDE)]
    pub(crate) max_image_side: u32,
    /// Bytes of all pictures of a request
    #[arg(long, env = "VLMD_MAX_REQUEST_IMAGE_BYTES", default_value_t = constants::MAX_REQUEST_BYTES)]
    pub(crate) max_request_image_bytes: u64,
    /// Pixels of all pictures of a request
    #[arg(long, env = "VLMD_MAX_REQUEST_IMAGE_PIXELS", default_value_t = constants::MAX_REQUEST_PIXELS)]
    pub(crate) max_request_image_pixels: u64,
    /// Memory for pictures that were resampled before, such as 512MiB or 4GB; 0 keeps none. By
    /// default an eighth of what is free, and no more than 1 GiB
    #[arg(long, env = "VLMD_IMAGE_CACHE_MEMORY", value_name = "SIZE")]
    pub(crate) image_cache_memory: Option<ByteSize>,
    /// Memory for pictures that clients may send again by their `uuid` alone; 0 keeps none
    #[arg(
        long,
        env = "VLMD_IMAGE_UUID_MEMORY",
        value_name = "SIZE",
        default_value = "256MiB"
    )]
    pub(crate) image_uuid_memory: ByteSize,
    /// Seconds that fetching one picture may take, from name look-up to last byte
    #[arg(long, env = "VLMD_MEDIA_FETCH_TIMEOUT", default_value = "5", value_parser = seconds)]
    pub(crate) media_fetch_timeout: Duration,
    /// Pictures fetched at a time, over all requests
    #[arg(long, env = "VLMD_MEDIA_FETCH_CONCURRENCY", default_value_t = constants::FETCH_CONCURRENCY, value_parser = positive)]
    pub(crate) media_fetch_concurrency: usize,
    /// Pictures fetched at a time from one host
    #[arg(long, env = "VLMD_MEDIA_FETCH_CONCURRENCY_PER_HOST", default_value_t = constants::FETCH_CONCURRENCY_PER_HOST, value_parser = positive)]
    pub(crate) media_fetch_concurrency_per_host: usize,
    /// Pictures decoded at a time; by default one per core, and no more than 8
    #[arg(long, env = "VLMD_MEDIA_DECODE_CONCURRENCY", value_parser = positive)]
    pub(crate) media_decode_concurrency: Option<usize>,
    /// Private hosts that pictures may come from: names, addresses or networks
    #[arg(
        long,
        env = "VLMD_ALLOW_MEDIA_HOST",
        value_delimiter = ',',
        value_name = "HOST,..."
    )]
    pub(crate) allow_media_host: Vec<AllowHost>,
    /// Fetch no pictures: they must come within requests
    #[arg(long, env = "VLMD_NO_MEDIA_URLS")]
    pub(crate) no_media_urls: bool,
}

/// `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => text
                .strip_prefix("cuda:")
                .and_then(|ordinal| ordinal.parse().ok())
                .map(Self::Cuda)
                .ok_or_else(|| "expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
}

impl Precision {
    pub(crate) fn dtype(self) -> Option<candle_core::DType> {
        use candle_core::DType;
        match self {
            Self::Auto => None,
            Self::F32 => Some(DType::F32),
            Self::F16 => Some(DType::F16),
            Self::Bf16 => Some(DType::BF16),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// A number of bytes with an optional unit: B, KB, MB, GB (powers of 1000), KiB, MiB, GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            _ => return Err("expected a whole number of B, KB, MB, GB, KiB, MiB or GiB".into()),
        };
        let number: u64 = number
            .parse()
            .map_err(|_| "expected a whole number".to_owned())?;
        number
            .checked_mul(unit)
            .map(Self)
            .ok_or_else(|| "too large".to_owned())
    }
}

pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn stretch(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(stretch) if stretch > 1.0 => Ok(stretch),
        _ => Err("expected a number above 1, or `inf`".to_owned()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected seconds of at least 0".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_is_the_default_command() {
        let cli = Cli::parse_from(["vlmd", "--port", "9000"]);
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.port, 9000);
        assert_eq!(cli.serve.model, vlmd_models::catalog::EMBEDDED_MODEL);
    }

    #[test]
    fn sizes_take_units() {
        for (text, bytes) in [
            ("12", 12),
            ("3KB", 3000),
            ("2 MiB", 2 << 20),
            ("8gib", 8 << 30),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GB", "-1", "1.5GB", "1XB", "99999999999999GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn devices_are_named_with_their_ordinal() {
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:x", "CUDA"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn zero_is_refused_where_it_means_nothing() {
        for flag in [
            "--max-num-seqs",
            "--max-model-len",
            "--threads",
            "--default-max-tokens",
        ] {
            assert!(Cli::try_parse_from(["vlmd", flag, "0"]).is_err(), "{flag}");
        }
        assert!(Cli::try_parse_from(["vlmd", "--drain-timeout", "-1"]).is_err());
    }
}
