//! `vlmd serve`: from arguments to a server that answers.
//!
//! The port opens first, so that an orchestrator sees a live process while the weights load; the
//! model fills its slot when it is there. A model that cannot be loaded ends the process.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::net::TcpListener;
use vlmd_backend::KvDtype;
use vlmd_engine::{Engine, EngineConfig, Sampling};
use vlmd_media::{DecodeLimits, MediaConfig, MediaGate};
use vlmd_models::{Admit, LoadOptions, LoadedModel};
use vlmd_server::{
    ApiKeys, Listeners, ModelSlot, PictureMemory, PictureStore, ServedModel, ServerConfig,
};

use crate::args::{MediaArgs, ServeArgs};
use crate::checkpoint;
use crate::device::{self, describe};
use crate::logging;
use crate::plan::{MemoryPlan, Wishes, admit, admit_card, free_memory, kept_free, readable};
use crate::resolve::{ResolvedModel, Wanted, resolve};
use crate::settings::Notes;

/// Serves until a signal ends it. `notes` are logged first.
///
/// # Errors
/// When the port is taken, or the model cannot be loaded.
pub(crate) fn run(args: ServeArgs, notes: &Notes) -> Result<()> {
    let threads = usize::from(args.threads.unwrap_or(0));
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the model's threads")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let logging = logging::init(
        args.log_level,
        args.log_format,
        args.deployment.tracing,
        runtime.handle(),
    );
    notes.log();
    let outcome = runtime.block_on(serve(args));
    logging.finish();
    // A model that is still being loaded cannot be interrupted; the process ends without it.
    runtime.shutdown_background();
    outcome
}

async fn serve(args: ServeArgs) -> Result<()> {
    // Files that do not serve are told of before anybody can connect.
    let config = args.access.apply(server_config(&args)?)?;
    let config = args.deployment.apply(config)?;
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let listener = listen(&args, args.port).await?;
    let address = listener.local_addr().context("cannot tell the address")?;
    // A port of its own that is none is the same as none.
    let health_port = args.deployment.health_port;
    let health = match health_port.filter(|port| *port == 0 || *port != args.port) {
        Some(port) => Some(listen(&args, port).await?),
        None => None,
    };
    if let Some(health) = &health {
        let address = health.local_addr().context("cannot tell the address")?;
        say(&format!("probes on {address}"));
    }
    let listeners = Listeners {
        api: listener,
        health,
    };
    let slot = ModelSlot::default();
    let place = slot.clone();
    let loading = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        let model = load(&args)?;
        place.fill(model)?;
        tracing::info!(seconds = begin.elapsed().as_secs_f32(), "ready");
        say(&format!(
            "ready after {:.1} s",
            begin.elapsed().as_secs_f32()
        ));
        anyhow::Ok(())
    });
    say(&format!(
        "vlmd {} on {scheme}://{address}",
        env!("CARGO_PKG_VERSION")
    ));
    let serving = vlmd_server::serve(listeners, config, slot, shutdown_signal());
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => Ok(served?),
        loaded = loading => {
            loaded.context("loading the model panicked")??;
            Ok(serving.await?)
        }
    }
}

/// Opens a port.
async fn listen(args: &ServeArgs, port: u16) -> Result<TcpListener> {
    TcpListener::bind((args.host, port))
        .await
        .with_context(|| format!("cannot listen on {} port {port}", args.host))
}

/// Ends with the first SIGTERM or Ctrl-C; a second one ends the process at once.
async fn shutdown_signal() {
    signal().await;
    say("shutting down: running requests may finish");
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

async fn signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    interrupt.await.ok();
}

fn load(args: &ServeArgs) -> Result<ServedModel> {
    let device = device::open(args.device)?;
    let wanted = Wanted {
        model: &args.model,
        revision: args.revision.as_deref(),
        vision_tower: args.vision_tower.as_deref(),
        cache_path: args.deployment.cache_path.as_deref(),
        offline: args.deployment.offline,
    };
    let resolved = resolve(wanted, |card| {
        admit_card(card, args.dtype.dtype(), free_memory(&device)?)
    })?;
    let names = match args.served_model_name.as_slice() {
        [] => resolved.names.clone(),
        given => given.to_vec(),
    };
    say(&format!("loading {} on {}", names[0], describe(&device)));
    let kv_dtype = args.kv_cache_dtype.resolve(&device, args.dtype);
    let wishes = Wishes {
        memory: args.kv_cache_memory,
        max_model_len: args.max_model_len,
        max_num_seqs: args.max_num_seqs,
        cross_memory: args.cross_attention_memory,
        kept_free: match args.deployment.gpu_memory_utilization {
            Some(share) => Some(kept_free(share, free_memory(&device)?)),
            None => None,
        },
    };
    let options = LoadOptions {
        device: device.clone(),
        dtype: args.dtype.dtype(),
        transformers_quirks: args.transformers_quirks,
        admit: Some(room(device.clone(), kv_dtype, wishes)),
        on_progress: None,
    };
    let loaded = load_weights(&resolved, options)?;
    let spec = loaded.model.spec().clone();
    let plan = MemoryPlan::new(&spec, kv_dtype, free_memory(&device)?, wishes)?;
    say(&format!(
        "{} with {} of weights, {} of {} KV cache ({} blocks), contexts of {} tokens",
        loaded.architecture,
        readable(loaded.weight_bytes),
        readable(plan.kv_bytes),
        kv_dtype,
        plan.kv_blocks,
        plan.max_model_len,
    ));
    let engine = EngineConfig {
        max_num_seqs: args.max_num_seqs,
        max_num_batched_tokens: args.max_num_batched_tokens,
        max_prefill_chunk: args.max_prefill_chunk,
        max_queue: args.max_queue,
        max_queued_tokens: args.engine.max_queued_tokens,
        max_step_stretch: args.engine.max_step_stretch,
        prefix_cache: !args.engine.no_prefix_cache,
        encoder_cache_bytes: usize::try_from(args.engine.encoder_cache_memory.0)?,
        speculation: args.engine.speculation(),
        cross_bytes: usize::try_from(plan.cross_bytes)?,
        ..EngineConfig::new(plan.kv_blocks, kv_dtype, plan.max_model_len)
    };
    let checkpoint = checkpoint::describe(args, &resolved, &loaded);
    let LoadedModel {
        processor, model, ..
    } = loaded;
    let engine = Engine::start(model, engine)?;
    let default_sampling = Sampling {
        no_repeat_ngram_size: processor.no_repeat_ngram_size(),
        ..Sampling::default()
    };
    Ok(ServedModel {
        names,
        processor,
        default_max_tokens: args.default_max_tokens,
        engine,
        media: MediaGate::new(media_config(&args.media))?,
        pictures: PictureStore::new(picture_memory(&args.media)?),
        checkpoint,
        max_num_seqs: args.max_num_seqs,
        vocab_size: spec.vocab_size,
        max_images: args.media.max_images,
        default_sampling,
    })
}

/// Admits models that there is room for on `device`.
fn room(device: Device, kv_dtype: KvDtype, wishes: Wishes) -> Admit {
    Box::new(move |need| {
        let plan = free_memory(&device).and_then(|free| admit(need, kv_dtype, free, wishes));
        plan.map(drop).map_err(|error| format!("{error:#}"))
    })
}

/// Loads the model and shows how far it is.
fn load_weights(resolved: &ResolvedModel, options: LoadOptions) -> Result<LoadedModel> {
    // Hidden by itself where standard error is no terminal.
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}")?;
    let bar = ProgressBar::new(0).with_style(style);
    let shown = bar.clone();
    let options = LoadOptions {
        on_progress: Some(Box::new(move |done, total| {
            shown.set_length(total);
            shown.set_position(done);
        })),
        ..options
    };
    let loaded = vlmd_models::load(&resolved.files, &options);
    bar.finish_and_clear();
    Ok(loaded?)
}

fn server_config(args: &ServeArgs) -> Result<ServerConfig> {
    let defaults = ServerConfig::default();
    Ok(ServerConfig {
        api_keys: ApiKeys::new(&args.api_key),
        root_path: args.root_path.clone(),
        max_body_bytes: args.max_body_bytes,
        header_timeout: args.header_timeout,
        body_timeout: args.body_timeout,
        max_inflight: args.max_inflight,
        max_connections: args.max_connections,
        prepare_concurrency: args
            .prepare_concurrency
            .unwrap_or(defaults.prepare_concurrency),
        drain_timeout: args.drain_timeout,
        metrics_legacy_names: args.engine.metrics_legacy_names,
        prompt_tokens_details: args.engine.enable_prompt_tokens_details,
        queue_timeout: args.engine.queue_timeout,
        request_timeout: args.engine.request_timeout,
        assets: args.assets.limits(args.media.max_image_bytes)?,
        responses: args.responses.memory(),
        ..defaults
    })
}

fn media_config(args: &MediaArgs) -> MediaConfig {
    let defaults = MediaConfig::default();
    MediaConfig {
        image: DecodeLimits {
            max_bytes: args.max_image_bytes,
            max_pixels: args.max_image_pixels,
            max_side: args.max_image_side,
        },
        max_request_bytes: args.max_request_image_bytes,
        max_request_pixels: args.max_request_image_pixels,
        fetch_timeout: args.media_fetch_timeout,
        fetch_concurrency: args.media_fetch_concurrency,
        fetch_concurrency_per_host: args.media_fetch_concurrency_per_host,
        decode_concurrency: args
            .media_decode_concurrency
            .unwrap_or(defaults.decode_concurrency),
        allow_hosts: args.allow_media_host.clone(),
        fetch_urls: !args.no_media_urls,
        ..defaults
    }
}

/// Share of the machine's free memory that remembered pictures may take unless told otherwise.
const IMAGE_CACHE_SHARE: u64 = 8;

fn picture_memory(args: &MediaArgs) -> Result<PictureMemory> {
    let image_cache = match args.image_cache_memory {
        Some(size) => usize::try_from(size.0)?,
        None => {
            // Pictures wait in the machine's memory, whatever device the model is on.
            let share = free_memory(&Device::Cpu)? / IMAGE_CACHE_SHARE;
            usize::try_from(share)?.min(PictureMemory::DEFAULT_IMAGE_CACHE)
        }
    };
    Ok(PictureMemory {
        image_cache,
        named: usize::try_from(args.image_uuid_memory.0)?,
    })
}

/// A line for the person who started the server. Nobody reading is no reason to fail.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}
