//! What the command line says, before anything is resolved.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::arrivals::Pattern;
use crate::workload::Size;

/// Measure an OpenAI-compatible endpoint, or two of them side by side
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct BenchArgs {
    /// The endpoint: http://HOST:PORT, its /v1, or a whole .../chat/completions
    #[arg(long, default_value = "http://localhost:8000", value_name = "URL")]
    pub(crate) url: String,
    /// Model to ask for; by default the first one that the endpoint lists
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Environment variable with the API key; by default NVIDIA_API_KEY for NVIDIA's hosted
    /// endpoint, and no key for others
    #[arg(long, value_name = "NAME", conflicts_with = "key_file")]
    pub(crate) key_env: Option<String>,
    /// File with the API key
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// A second endpoint, measured in turn with the first by the same requests
    #[arg(long, value_name = "URL")]
    pub(crate) vs: Option<String>,
    /// Model to ask the second endpoint for; by default the first one that it lists
    #[arg(long, value_name = "NAME", requires = "vs")]
    pub(crate) vs_model: Option<String>,
    /// Environment variable with the key of the second endpoint
    #[arg(
        long,
        value_name = "NAME",
        requires = "vs",
        conflicts_with = "vs_key_file"
    )]
    pub(crate) vs_key_env: Option<String>,
    /// File with the key of the second endpoint
    #[arg(long, value_name = "FILE", requires = "vs")]
    pub(crate) vs_key_file: Option<PathBuf>,

    /// Requests under way at a time: a closed loop for each number
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1", value_parser = concurrency)]
    pub(crate) concurrency: Vec<usize>,
    /// Requests that arrive in a second, however long answers take: an open loop for each number
    #[arg(long, value_name = "R,...", value_delimiter = ',', value_parser = rate, conflicts_with = "concurrency")]
    pub(crate) request_rate: Vec<f64>,
    /// How the requests of an open loop arrive
    #[arg(long, value_enum, default_value_t, requires = "request_rate")]
    pub(crate) arrivals: Pattern,
    /// Requests of each loop to each endpoint; by default 8 for each under way, and 20 at least
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "duration")]
    pub(crate) requests: Option<usize>,
    /// Seconds of each loop on each endpoint, instead of a number of requests; those under way at
    /// its end are waited for
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) duration: Option<Duration>,
    /// Requests to each endpoint before any that count
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) warmup_requests: usize,
    /// Parts that each loop is cut into with --vs: the endpoints take turns, and drift of the
    /// machine or the network meets both; by default 4, each with as many requests as are under way
    #[arg(long, value_name = "N", value_parser = positive, requires = "vs")]
    pub(crate) rounds: Option<usize>,
    /// Seconds for one request
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) workload: WorkloadArgs,

    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a page with tables and charts, which needs no scripts and no network
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Go beyond what NVIDIA's hosted endpoint takes: 40 requests a minute, pictures of 180 KB
    #[arg(long)]
    pub(crate) ignore_limits: bool,
    /// Proxy for all requests, http://HOST:PORT; those of the environment are not used
    #[arg(long, value_name = "URL")]
    pub(crate) proxy: Option<String>,
    /// No progress on stderr
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct WorkloadArgs {
    /// Words of a drawn prompt
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = words)]
    pub(crate) input_words: usize,
    /// Tokens of a drawn prompt, instead of words
    #[arg(long, value_name = "N", value_parser = words, requires = "tokenizer", conflicts_with = "input_words")]
    pub(crate) input_tokens: Option<usize>,
    /// tokenizer.json of the model, or the folder that holds it: counts for --input-tokens
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Prompts to ask in turn, one a line; or JSON lines of AIPerf's form
    /// {"text": "...", "images": ["file, URL or data:"]}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_words", "input_tokens"])]
    pub(crate) prompts: Option<PathBuf>,
    /// Pictures in each request: by default 1 if a size or files are given, else 0
    #[arg(long, value_name = "N", value_parser = pictures)]
    pub(crate) image_count: Option<usize>,
    /// Pixels of drawn pictures (noise), such as 1120x1120
    #[arg(long, value_name = "WxH")]
    pub(crate) image_size: Option<Size>,
    /// What drawn pictures are encoded as
    #[arg(long, value_enum, default_value_t)]
    pub(crate) image_format: ImageFormat,
    /// Picture to send instead of drawn ones; several take turns
    #[arg(long, value_name = "FILE", conflicts_with = "image_size")]
    pub(crate) image_file: Vec<PathBuf>,
    /// Different pictures that are drawn; requests beyond them repeat some, which a server may
    /// remember
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = pool)]
    pub(crate) image_pool: usize,
    /// Tokens of each answer, no more and no fewer: sets max_tokens, min_tokens and ignore_eos as
    /// NVIDIA's benchmarks do
    #[arg(long, value_name = "N", value_parser = positive)]
    pub(crate) output_tokens: Option<usize>,
    /// Field of the request, its value in JSON or else a string; null leaves a field out
    #[arg(long, value_name = "NAME:VALUE")]
    pub(crate) extra_inputs: Vec<String>,
    /// The same for the second endpoint, instead of --extra-inputs
    #[arg(long, value_name = "NAME:VALUE", requires = "vs")]
    pub(crate) vs_extra_inputs: Vec<String>,
    /// Ask for whole answers instead of streams: there is no time to a first token then
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Decides drawn prompts, pictures and arrivals; by default another one for each run, since a
    /// server that is asked the same again remembers it
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// What drawn pictures are encoded as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ImageFormat {
    /// Without loss: noise stays as large as its pixels
    #[default]
    Png,
    /// Quality 85
    Jpeg,
}

const AFTER_HELP: &str = "\
Times are measured as AIPerf and genai-perf do: to the first and to the last chunk with content; \
inter-token latency is the time between these two, over the tokens but one.

Examples:
  vlmd bench --concurrency 1,8,32 --output-tokens 128
  vlmd bench --image-size 448x448 --image-format jpeg --request-rate 2 --duration 60
  vlmd bench --vs https://integrate.api.nvidia.com --vs-model meta/llama-3.2-11b-vision-instruct";

/// Most requests under way at a time: each takes a connection, and systems have some thousands.
pub(crate) const MAX_CONCURRENCY: usize = 4096;

/// Most words or tokens of a drawn prompt: beyond any context.
const MAX_WORDS: usize = 1 << 20;

/// Most pictures in a request.
const MAX_PICTURES: usize = 64;

/// Most pictures that are drawn: they are held in memory.
const MAX_POOL: usize = 4096;

fn positive(text: &str) -> Result<usize, String> {
    within(text, usize::MAX).map_err(|_| "expected a whole number of at least 1".to_owned())
}

fn within(text: &str, most: usize) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("expected a whole number from 1 to {most}")),
    }
}

fn concurrency(text: &str) -> Result<usize, String> {
    within(text, MAX_CONCURRENCY)
}

fn words(text: &str) -> Result<usize, String> {
    within(text, MAX_WORDS)
}

fn pictures(text: &str) -> Result<usize, String> {
    match text {
        "0" => Ok(0),
        _ => within(text, MAX_PICTURES),
    }
}

fn pool(text: &str) -> Result<usize, String> {
    within(text, MAX_POOL)
}

fn rate(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(rate) if (0.001..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second from 0.001 to 100000".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    const MOST: f64 = 7.0 * 86400.0;
    match text.parse() {
        Ok(seconds) if seconds > 0.0 && seconds <= MOST => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("expected seconds above 0 and up to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(arguments: &[&str]) -> Result<BenchArgs, clap::Error> {
        let program = ["bench"];
        Cli::try_parse_from(program.iter().chain(arguments)).map(|cli| cli.bench)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert_eq!(parse(&[]).unwrap().concurrency, [1]);
        assert_eq!(
            parse(&["--concurrency", "1,8,32"]).unwrap().concurrency,
            [1, 8, 32]
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for arguments in [
            &["--concurrency", "0"][..],
            &["--concurrency", "5000"],
            &["--concurrency", "1", "--request-rate", "1"],
            &["--request-rate", "0"],
            &["--request-rate", "NaN"],
            &["--arrivals", "poisson"],
            &["--requests", "0"],
            &["--requests", "5", "--duration", "5"],
            &["--duration", "0"],
            &["--duration", "inf"],
            &["--rounds", "2"],
            &["--vs-model", "m"],
            &["--input-tokens", "5"],
            &["--prompts", "a", "--input-words", "5"],
            &["--image-file", "a", "--image-size", "1x1"],
            &["--image-size", "0x5"],
            &["--image-size", "5"],
            &["--output-tokens", "0"],
            &["--key-env", "A", "--key-file", "b"],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }
}
