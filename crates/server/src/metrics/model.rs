//! What the engine has to tell, under the names that others made known.
//!
//! vLLM's names, so that dashboards, autoscalers and Kubernetes' inference gateway find what they
//! look for; those of NIM 1.x, which have no prefix; and, on request, names that vLLM has given
//! up and some dashboards still ask for. What only this server has begins with `vlmd:`.

use vlmd_backend::BLOCK_TOKENS;
use vlmd_engine::{Distributions, Stats};

use super::page::{Labels, Page};
use crate::state::ServedModel;

/// Everything that is read once for a page.
struct Reading<'a> {
    model: &'a ServedModel,
    stats: Stats,
    times: Distributions,
    labels: Labels,
    usage: f64,
}

/// Writes all families of a model.
pub(super) fn render(page: &mut Page, model: &ServedModel, legacy_names: bool) {
    let name = model.names.first().map_or("", String::as_str);
    let stats = model.engine.stats();
    let total = stats.blocks_total.max(1) as f64;
    let reading = Reading {
        model,
        usage: stats.blocks_used as f64 / total,
        stats,
        times: model.engine.distributions(),
        labels: Labels::new([("model_name", name), ("engine", "0")]),
    };
    gauges(page, &reading);
    counters(page, &reading);
    histograms(page, &reading);
    nim(page, &reading);
    own(page, &reading);
    if legacy_names {
        legacy(page, &reading);
    }
}

fn gauges(page: &mut Page, reading: &Reading<'_>) {
    let Reading { stats, labels, .. } = reading;
    let running = stats.running as f64;
    let waiting = stats.waiting as f64;
    page.gauge(
        "vllm:num_requests_running",
        labels,
        running,
        "Answers that are being generated.",
    );
    page.gauge(
        "vllm:num_requests_waiting",
        labels,
        waiting,
        "Answers that wait for their turn.",
    );
    let mut reasons = page.family(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Answers that wait, by what they wait for.",
    );
    reasons.line_with(labels, ("reason", "capacity"), waiting);
    reasons.line_with(labels, ("reason", "deferred"), 0);
    page.gauge(
        "vllm:kv_cache_usage_perc",
        labels,
        reading.usage,
        "Share of the KV cache in use, 0 to 1.",
    );
    let mut sleep = page.family(
        "vllm:engine_sleep_state",
        "gauge",
        "Whether the engine sleeps; this one never does.",
    );
    sleep.line_with(labels, ("sleep_state", "awake"), 1);
    let blocks = stats.blocks_total.to_string();
    let block_size = BLOCK_TOKENS.to_string();
    let name = reading.model.names.first().map_or("", String::as_str);
    let config = Labels::new([
        ("model_name", name),
        ("engine", "0"),
        ("block_size", &block_size),
        ("num_gpu_blocks", &blocks),
    ]);
    page.gauge(
        "vllm:cache_config_info",
        &config,
        1.0,
        "How the KV cache is laid out.",
    );
}

fn counters(page: &mut Page, reading: &Reading<'_>) {
    let Reading { stats, labels, .. } = reading;
    let pictures = reading.model.pictures.cache_stats();
    for (name, value, help) in [
        (
            "vllm:prompt_tokens_total",
            stats.prompt_tokens,
            "Tokens of prompts, whether computed or found in the KV cache.",
        ),
        (
            "vllm:prompt_tokens_cached_total",
            stats.prefix_hits,
            "Tokens of prompts that were found in the KV cache.",
        ),
        (
            "vllm:generation_tokens_total",
            stats.tokens_generated,
            "Tokens that were generated.",
        ),
        (
            "vllm:prefix_cache_queries_total",
            stats.prefix_queries,
            "Tokens of prompts that were looked up among cached prefixes.",
        ),
        (
            "vllm:prefix_cache_hits_total",
            stats.prefix_hits,
            "Those of them that were found.",
        ),
        (
            "vllm:mm_cache_queries_total",
            pictures.queries,
            "Pictures that were looked for among those resampled before.",
        ),
        (
            "vllm:mm_cache_hits_total",
            pictures.hits,
            "Pictures that were found among those resampled before.",
        ),
        (
            "vllm:num_preemptions_total",
            stats.preemptions,
            "How often a running request had to step back for lack of blocks.",
        ),
        (
            "vllm:corrupted_requests_total",
            stats.corrupted,
            "Requests whose logits were no numbers.",
        ),
        (
            "vllm:spec_decode_num_drafts_total",
            stats.spec_drafts,
            "Steps of single requests that computed guesses.",
        ),
        (
            "vllm:spec_decode_num_draft_tokens_total",
            stats.spec_draft_tokens,
            "Tokens that were guessed.",
        ),
        (
            "vllm:spec_decode_num_accepted_tokens_total",
            stats.spec_accepted_tokens,
            "Guesses that were right.",
        ),
    ] {
        page.counter(name, labels, value, help);
    }
    let mut positions = page.family(
        "vllm:spec_decode_num_accepted_tokens_per_pos_total",
        "counter",
        "Guesses that were right, by their place in a step.",
    );
    for (position, count) in stats.spec_accepted_per_position.iter().enumerate() {
        positions.line_with(labels, ("position", &position.to_string()), count);
    }
    let mut rejections = page.family(
        "vllm:admission_rejections_total",
        "counter",
        "Requests that were refused because too many waited.",
    );
    let refused = [
        ("queued_requests", stats.rejected_requests),
        ("queued_tokens", stats.rejected_tokens),
    ];
    for (reason, count) in refused {
        rejections.line_with(labels, ("reason", reason), count);
    }
}

fn histograms(page: &mut Page, reading: &Reading<'_>) {
    let Reading { times, labels, .. } = reading;
    for (name, values, help) in [
        (
            "vllm:time_to_first_token_seconds",
            &times.first_token,
            "From submission to the first token.",
        ),
        (
            "vllm:inter_token_latency_seconds",
            &times.between_tokens,
            "From one token to the next.",
        ),
        (
            "vllm:request_time_per_output_token_seconds",
            &times.per_token,
            "Of each answer, the mean time from one token to the next.",
        ),
        (
            "vllm:e2e_request_latency_seconds",
            &times.whole,
            "From submission to the end.",
        ),
        (
            "vllm:request_queue_time_seconds",
            &times.queue,
            "From submission to the begin of computation.",
        ),
        (
            "vllm:request_inference_time_seconds",
            &times.inference,
            "From the begin of computation to the end.",
        ),
        (
            "vllm:request_prefill_time_seconds",
            &times.prefill,
            "From the begin of computation to the first token.",
        ),
        (
            "vllm:request_decode_time_seconds",
            &times.decode,
            "From the first token to the end.",
        ),
        (
            "vllm:iteration_tokens_total",
            &times.step_tokens,
            "Tokens that a step computed.",
        ),
        (
            "vllm:request_prompt_tokens",
            &times.prompt_tokens,
            "Tokens of a prompt.",
        ),
        (
            "vllm:request_generation_tokens",
            &times.answer_tokens,
            "Tokens of an answer.",
        ),
        (
            "vllm:request_params_max_tokens",
            &times.max_tokens,
            "Most tokens that an answer might have had.",
        ),
        (
            "vllm:request_params_n",
            &times.choices,
            "Answers to a request.",
        ),
    ] {
        page.histogram(name, labels, values, help);
    }
}

/// NIM 1.x.
fn nim(page: &mut Page, reading: &Reading<'_>) {
    let Reading {
        stats,
        times,
        labels,
        ..
    } = reading;
    page.gauge(
        "gpu_cache_usage_perc",
        labels,
        reading.usage,
        "As vllm:kv_cache_usage_perc.",
    );
    page.gauge(
        "num_requests_running",
        labels,
        stats.running as f64,
        "As vllm:num_requests_running.",
    );
    page.gauge(
        "num_requests_waiting",
        labels,
        stats.waiting as f64,
        "As vllm:num_requests_waiting.",
    );
    page.gauge(
        "num_request_max",
        labels,
        reading.model.max_num_seqs as f64,
        "Most answers that are generated side by side.",
    );
    page.counter(
        "prompt_tokens_total",
        labels,
        stats.prompt_tokens,
        "As vllm:prompt_tokens_total.",
    );
    page.counter(
        "generation_tokens_total",
        labels,
        stats.tokens_generated,
        "As vllm:generation_tokens_total.",
    );
    for (name, values, help) in [
        (
            "time_to_first_token_seconds",
            &times.first_token,
            "As vllm:time_to_first_token_seconds.",
        ),
        (
            "time_per_output_token_seconds",
            &times.between_tokens,
            "As vllm:inter_token_latency_seconds.",
        ),
        (
            "e2e_request_latency_seconds",
            &times.whole,
            "As vllm:e2e_request_latency_seconds.",
        ),
        (
            "vision_encoder_latency_seconds",
            &times.encode,
            "Of a turn of the vision encoder, which takes large pictures in several.",
        ),
        (
            "request_prompt_tokens",
            &times.prompt_tokens,
            "As vllm:request_prompt_tokens.",
        ),
        (
            "request_generation_tokens",
            &times.answer_tokens,
            "As vllm:request_generation_tokens.",
        ),
    ] {
        page.histogram(name, labels, values, help);
    }
}

fn own(page: &mut Page, reading: &Reading<'_>) {
    let Reading { stats, labels, .. } = reading;
    let pictures = &reading.model.pictures;
    for (name, value, help) in [
        (
            "vlmd:kv_blocks_used",
            stats.blocks_used as u64,
            "Blocks of the KV cache in use.",
        ),
        (
            "vlmd:kv_blocks_total",
            stats.blocks_total as u64,
            "Blocks of the KV cache.",
        ),
        (
            "vlmd:waiting_tokens",
            stats.waiting_tokens as u64,
            "Tokens of the prompts that wait.",
        ),
        (
            "vlmd:encoder_cache_bytes",
            stats.encoder_cache_bytes,
            "Bytes of features that are kept for pictures that come again.",
        ),
        (
            "vlmd:mm_cache_bytes",
            pictures.cache_stats().bytes as u64,
            "Bytes of pictures that were resampled before.",
        ),
        (
            "vlmd:named_image_bytes",
            pictures.named_bytes() as u64,
            "Bytes of picture files that clients gave a name (`uuid`).",
        ),
    ] {
        page.gauge(name, labels, value as f64, help);
    }
    let submitted = stats.finished_stop
        + stats.finished_length
        + stats.cancelled
        + stats.failed
        + (stats.waiting + stats.running) as u64;
    for (name, value, help) in [
        (
            "vlmd:prompt_tokens_computed_total",
            stats.tokens_prefilled,
            "Tokens of prompts that were computed, again where a request had to step back.",
        ),
        (
            "vlmd:answers_submitted_total",
            submitted,
            "Answers that the engine has taken on.",
        ),
        (
            "vlmd:images_encoded_total",
            stats.images_encoded,
            "Pictures that were encoded.",
        ),
        (
            "vlmd:encoder_cache_queries_total",
            stats.encoder_queries,
            "Pictures that were looked for among those encoded before.",
        ),
        (
            "vlmd:encoder_cache_hits_total",
            stats.encoder_hits,
            "Pictures that were found among those encoded before.",
        ),
        (
            "vlmd:requests_cancelled_total",
            stats.cancelled,
            "Answers given up before they ended: clients gone.",
        ),
        (
            "vlmd:requests_timed_out_total",
            stats.timed_out,
            "Answers whose time was over before they were complete.",
        ),
        (
            "vlmd:engine_steps_total",
            stats.steps,
            "Forward passes that succeeded.",
        ),
        (
            "vlmd:engine_steps_failed_total",
            stats.steps_failed,
            "Forward passes that failed.",
        ),
    ] {
        page.counter(name, labels, value, help);
    }
}

/// Names that vLLM has given up.
fn legacy(page: &mut Page, reading: &Reading<'_>) {
    let Reading { stats, labels, .. } = reading;
    let help = "As vllm:kv_cache_usage_perc.";
    page.gauge("vllm:gpu_cache_usage_perc", labels, reading.usage, help);
    let (queries, hits) = (stats.prefix_queries, stats.prefix_hits);
    let help = "As vllm:prefix_cache_queries_total.";
    page.counter("vllm:gpu_prefix_cache_queries_total", labels, queries, help);
    let help = "As vllm:prefix_cache_hits_total.";
    page.counter("vllm:gpu_prefix_cache_hits_total", labels, hits, help);
    let rate = hits as f64 / queries.max(1) as f64;
    let help = "Hits among queries of cached prefixes.";
    page.gauge("vllm:gpu_prefix_cache_hit_rate", labels, rate, help);
}
