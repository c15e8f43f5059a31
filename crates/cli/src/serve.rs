//! `vlmd serve`: from arguments to a server that answers.
//!
//! The port opens first, so that an orchestrator sees a live process while the weights load; the
//! model fills its slot when it is there. A model that cannot be loaded ends the process.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Device;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::net::TcpListener;
use vlmd_engine::{Engine, EngineConfig, Sampling};
use vlmd_kernels::Place;
use vlmd_media::{DecodeLimits, MediaConfig, MediaGate};
use vlmd_models::{Admit, LoadOptions, LoadedModel, Need};
use vlmd_server::{
    ApiKeys, Listeners, ModelSlot, PictureMemory, PictureStore, ServedModel, ServerConfig,
};

use crate::args::{MediaArgs, ServeArgs};
use crate::checkpoint;
use crate::device::{self, describe};
use crate::logging;
use crate::plan::{
    self, Known, Machine, MemoryPlan, PartKind, Profile, Subject, Wishes, free_memory, readable,
};
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
    // Before the model is there: all that it takes is part of the plan.
    let machine = Machine::of(&device)?;
    let wishes = Wishes::of(args, machine.place);
    let resolved = resolve(Wanted::of(args), |card| {
        plan::admit_card(card, args.dtype.dtype(), machine, &wishes)
    })?;
    let names = match args.served_model_name.as_slice() {
        [] => resolved.names.clone(),
        given => given.to_vec(),
    };
    say(&format!("loading {} on {}", names[0], describe(&device)));
    let asked = Arc::default();
    let options = LoadOptions {
        device: device.clone(),
        dtype: args.dtype.dtype(),
        transformers_quirks: args.transformers_quirks,
        admit: Some(room(machine, wishes, Arc::clone(&asked))),
        on_progress: None,
    };
    let loaded = load_weights(&resolved, options)?;
    let spec = loaded.model.spec().clone();
    let need = taken(&asked)?;
    let plan = plan_loaded(args, &loaded, need, machine, &wishes)?;
    say(&format!(
        "{} with {} of weights, {} of {} KV cache ({} blocks), contexts of {} tokens",
        loaded.architecture,
        readable(loaded.weight_bytes),
        readable(plan.bytes(PartKind::KvCache)),
        plan.kv_dtype,
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
        cross_bytes: usize::try_from(plan.bytes(PartKind::Cross))?,
        ..EngineConfig::new(plan.kv_blocks, plan.kv_dtype, plan.max_model_len)
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

/// What a checkpoint said that it needs when it asked for room.
type Asked = Arc<Mutex<Option<Need>>>;

/// Admits models that there is room for, and notes what they need.
fn room(machine: Machine, wishes: Wishes, asked: Asked) -> Admit {
    Box::new(move |need| {
        let subject = Subject {
            need,
            weights: Known::Headers,
            profile: None,
        };
        plan::solve(subject, machine, &wishes).map_err(|refusal| refusal.to_string())?;
        if let Ok(mut asked) = asked.lock() {
            *asked = Some(need.clone());
        }
        Ok(())
    })
}

/// What the model that was loaded had asked for.
fn taken(asked: &Asked) -> Result<Need> {
    let need = asked.lock().ok().and_then(|mut need| need.take());
    need.context("the model was loaded without asking for room")
}

/// The plan for a model whose weights are there: with what they took, and with what the largest
/// step and the largest pictures take, where the device tells.
fn plan_loaded(
    args: &ServeArgs,
    loaded: &LoadedModel,
    mut need: Need,
    machine: Machine,
    wishes: &Wishes,
) -> Result<MemoryPlan> {
    let mut weights = Known::Headers;
    let mut profile = None;
    if machine.place == Place::Cuda {
        let device = loaded.model.device();
        device.synchronize()?;
        let took = machine.free.saturating_sub(free_memory(device)?);
        if took > need.weight_bytes {
            (need.weight_bytes, weights) = (took, Known::Measured);
        }
        if !args.plan.no_memory_profile {
            let planned = solved(&need, weights, None, machine, wishes)?;
            let bound = wishes.step(planned.max_model_len);
            profile = plan::profile(
                &*loaded.model,
                &*loaded.processor,
                &need.footprint,
                &bound,
                wishes.kv_dtype,
            )?;
        }
    }
    let plan = solved(&need, weights, profile.as_ref(), machine, wishes)?;
    plan::log(&plan);
    Ok(plan)
}

fn solved(
    need: &Need,
    weights: Known,
    profile: Option<&Profile>,
    machine: Machine,
    wishes: &Wishes,
) -> Result<MemoryPlan> {
    let subject = Subject {
        need,
        weights,
        profile,
    };
    Ok(plan::solve(subject, machine, wishes)?)
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
