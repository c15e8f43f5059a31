//! A run from its arguments to its report.

use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use crate::args::BenchArgs;
use crate::endpoint::{self, Endpoint};
use crate::error::BenchError;
use crate::hosted::{self, Pace};
use crate::load::{Finished, Load, Round, Until};
use crate::report::{self, EndpointReport, Ratios, Report};
use crate::summary::{Summary, refusal};
use crate::target::Target;
use crate::workload::{self, Workload};

/// Requests of a loop for each that is under way, where nothing else is asked for.
const REQUESTS_EACH: usize = 8;

/// Fewest requests of a loop, where nothing else is asked for.
const MIN_REQUESTS: usize = 20;

/// Rounds of a comparison, where nothing else is asked for.
const ROUNDS: usize = 4;

/// Seconds' worth of an open loop's requests, where nothing else is asked for.
const OPEN_SECONDS: f64 = 30.0;

/// How a run came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Complete,
    /// By Ctrl-C: the report is about what there was until then.
    Interrupted,
}

/// Runs the benchmark and writes its report to `out`, and to the files that `args` name.
///
/// Ctrl-C ends the run and reports what there is; a second one ends the program.
///
/// # Errors
/// [`BenchError`] where the run cannot begin, and where not one request was answered; in that case
/// the report is written first.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<Ending, BenchError> {
    let targets = Target::all(args)?;
    let workload = Arc::new(Workload::new(&args.workload)?);
    let plan = Plan::new(args, &targets, &workload)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| BenchError::system("starting threads", &error))?;
    let report = runtime.block_on(async {
        let stop = CancellationToken::new();
        tokio::spawn(watch(stop.clone()));
        measure(args, targets, workload, &plan, &stop).await
    })?;
    // Threads that are still writing requests nobody takes end by themselves.
    runtime.shutdown_background();
    report::table(&report, out)
        .map_err(|error| BenchError::system("writing the report", &error))?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)
            .map_err(|error| BenchError::system("writing JSON", &error))?;
        crate::files::write("--json", path, &(json + "\n"))?;
    }
    if let Some(path) = &args.html {
        crate::files::write("--html", path, &report::page(&report))?;
    }
    if report.interrupted {
        return Ok(Ending::Interrupted);
    }
    nothing_answered(&report).map_or(Ok(Ending::Complete), Err)
}

/// Ends the run at the first Ctrl-C, and the program at the second.
async fn watch(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            // 128 and the signal's number, as shells have it.
            std::process::exit(130);
        }
    }
}

/// What is run, resolved.
#[derive(Debug)]
struct Plan {
    loads: Vec<Load>,
    /// Whether and how all endpoints are held to the hosted one's rate.
    held: bool,
}

impl Plan {
    fn new(args: &BenchArgs, targets: &[Target], workload: &Workload) -> Result<Self, BenchError> {
        let hosted = targets.iter().any(|target| target.hosted) && !args.ignore_limits;
        let loads: Vec<_> = if args.request_rate.is_empty() {
            let closed = |&concurrency| Load::Closed { concurrency };
            args.concurrency.iter().map(closed).collect()
        } else {
            let arrivals = args.arrivals;
            let open = |&rate| Load::Open { rate, arrivals };
            args.request_rate.iter().map(open).collect()
        };
        if hosted {
            let largest = workload.largest_picture();
            if largest > hosted::PICTURE_CHARS {
                return Err(BenchError::HostedLimit(format!(
                    "NVIDIA's hosted endpoint takes inline pictures of up to {} characters of \
                     base64, and one here has {largest}: make them smaller (--image-size, \
                     --image-format jpeg)",
                    hosted::PICTURE_CHARS
                )));
            }
            let limit = hosted::REQUESTS_A_MINUTE / 60.0;
            if let Some(rate) = args.request_rate.iter().find(|rate| **rate > limit) {
                return Err(BenchError::HostedLimit(format!(
                    "NVIDIA's hosted endpoint takes {} requests a minute, and --request-rate \
                     {rate} makes {}",
                    hosted::REQUESTS_A_MINUTE,
                    rate * 60.0
                )));
            }
        }
        if let Some(rounds) = args.rounds
            && args.requests.is_some_and(|requests| requests < rounds)
        {
            let reason = format!("{rounds} is more than --requests");
            return Err(BenchError::flag("--rounds", reason));
        }
        Ok(Self {
            loads,
            held: hosted,
        })
    }

    /// The rounds of a load, each of them for every endpoint.
    fn rounds(args: &BenchArgs, load: Load) -> Vec<Until> {
        let compared = args.vs.is_some();
        if let Some(duration) = args.duration {
            let rounds = args.rounds.unwrap_or(if compared { ROUNDS } else { 1 });
            let share = duration.div_f64(rounds as f64);
            return vec![Until::Elapsed(share); rounds];
        }
        let (at_a_time, usual) = match load {
            Load::Closed { concurrency } => {
                (concurrency, concurrency.saturating_mul(REQUESTS_EACH))
            }
            Load::Open { rate, .. } => (1, (rate * OPEN_SECONDS).ceil() as usize),
        };
        let requests = args.requests.unwrap_or(usual.max(MIN_REQUESTS));
        let full = (requests / at_a_time.max(1)).clamp(1, ROUNDS);
        let rounds = args.rounds.unwrap_or(if compared { full } else { 1 });
        let (share, more) = (requests / rounds.max(1), requests % rounds.max(1));
        (0..rounds)
            .map(|round| Until::Requests(share + usize::from(round < more)))
            .collect()
    }
}

async fn measure(
    args: &BenchArgs,
    targets: Vec<Target>,
    workload: Arc<Workload>,
    plan: &Plan,
    stop: &CancellationToken,
) -> Result<Report, BenchError> {
    let progress = Progress { quiet: args.quiet };
    let started = SystemTime::now().duration_since(UNIX_EPOCH);
    let endpoints = tokio::select! {
        found = find(args, targets, plan, &progress) => found?,
        () = stop.cancelled() => Vec::new(),
    };
    let mut course = Course {
        endpoints,
        next: 0,
        seed: workload.description().seed,
        workload,
        stop,
        progress,
    };
    course.warm_up(args.warmup_requests).await?;
    let (mut results, mut ratios) = (Vec::new(), Vec::new());
    for load in &plan.loads {
        if stop.is_cancelled() {
            break;
        }
        let finished = course.run(*load, &Plan::rounds(args, *load)).await?;
        let summaries: Vec<_> = finished
            .iter()
            .enumerate()
            .map(|(endpoint, rounds)| Summary::of(endpoint, *load, rounds))
            .collect();
        if let [first, second] = summaries.as_slice() {
            ratios.push(Ratios::of(first, second));
        }
        results.extend(summaries);
    }
    let described = |endpoint: &Arc<Endpoint>| EndpointReport {
        url: endpoint.name().to_owned(),
        model: crate::failure::printable(endpoint.model()),
        fields: endpoint.fields().clone(),
    };
    Ok(Report {
        schema: report::SCHEMA,
        version: env!("CARGO_PKG_VERSION"),
        started_at: started.map_or(0, |since| since.as_secs()),
        interrupted: stop.is_cancelled(),
        held_to_per_minute: plan.held.then_some(hosted::REQUESTS_A_MINUTE),
        endpoints: course.endpoints.iter().map(described).collect(),
        workload: course.workload.description().clone(),
        results,
        ratios,
    })
}

/// Finds each endpoint's model.
async fn find(
    args: &BenchArgs,
    targets: Vec<Target>,
    plan: &Plan,
    progress: &Progress,
) -> Result<Vec<Arc<Endpoint>>, BenchError> {
    let own = ("--extra-inputs", &args.workload.extra_inputs);
    let others = match args.workload.vs_extra_inputs.as_slice() {
        [] => own,
        _ => ("--vs-extra-inputs", &args.workload.vs_extra_inputs),
    };
    let mut endpoints = Vec::new();
    for (target, (flag, extra)) in targets.into_iter().zip([own, others]) {
        if target.exposes_key() {
            progress.say(&format!(
                "warning: the key for {} travels unencrypted",
                target.name
            ));
        }
        let fields = workload::fields(flag, &args.workload, extra)?;
        let client = endpoint::client(args.proxy.as_deref())?;
        // Each its own: that of the faster one waits no longer than its limit says.
        let pace = plan.held.then(|| Arc::new(Pace::hosted()));
        let endpoint = Endpoint::find(target, client, args.timeout, fields, pace).await?;
        endpoints.push(Arc::new(endpoint));
    }
    Ok(endpoints)
}

/// What goes on from one loop to the next.
struct Course<'a> {
    endpoints: Vec<Arc<Endpoint>>,
    workload: Arc<Workload>,
    /// Number of the next request: none is asked twice, for servers remember.
    next: u64,
    seed: u64,
    stop: &'a CancellationToken,
    progress: Progress,
}

impl Course<'_> {
    /// Sends requests that do not count, and ends the run where they show that it is pointless.
    async fn warm_up(&mut self, requests: usize) -> Result<(), BenchError> {
        if requests == 0 {
            return Ok(());
        }
        let load = Load::Closed { concurrency: 1 };
        let finished = self.run(load, &[Until::Requests(requests)]).await?;
        for (endpoint, rounds) in self.endpoints.iter().zip(&finished) {
            let refused = rounds.iter().find_map(|round| refusal(&round.records));
            if let Some((failure, status)) = refused.and_then(|f| Some((f, f.status()?))) {
                let message = failure.message();
                let message = message
                    .split_once(": ")
                    .map_or(message.as_str(), |parts| parts.1);
                return Err(BenchError::Refused {
                    url: endpoint.name().to_owned(),
                    status,
                    message: format!(
                        "{message} (model `{}`; --extra-inputs NAME:null leaves a field out)",
                        crate::failure::printable(endpoint.model())
                    ),
                });
            }
        }
        Ok(())
    }

    /// Runs a load in rounds; gives what became of each round, for each endpoint.
    async fn run(
        &mut self,
        load: Load,
        rounds: &[Until],
    ) -> Result<Vec<Vec<Finished>>, BenchError> {
        let mut finished: Vec<Vec<Finished>> = self.endpoints.iter().map(|_| Vec::new()).collect();
        for (number, until) in rounds.iter().enumerate() {
            let mut taken = 0;
            let mut turns: Vec<_> = self.endpoints.iter().zip(&mut finished).collect();
            // Who goes first has the cooler machine, and what caches lie between finds nothing.
            if number % 2 == 1 {
                turns.reverse();
            }
            for (endpoint, results) in turns {
                if self.stop.is_cancelled() {
                    break;
                }
                self.progress.say(&format!(
                    "{load}, round {} of {}: {}",
                    number.saturating_add(1),
                    rounds.len(),
                    endpoint.name()
                ));
                let round = Round {
                    endpoint: Arc::clone(endpoint),
                    workload: Arc::clone(&self.workload),
                    load,
                    until: *until,
                    first: self.next,
                    seed: self.seed.wrapping_add(self.next),
                };
                let result = round.run(self.stop).await?;
                taken = taken.max(result.taken());
                results.push(result);
            }
            self.next = self.next.wrapping_add(taken);
        }
        Ok(finished)
    }
}

/// Lines on stderr.
#[derive(Debug)]
struct Progress {
    quiet: bool,
}

impl Progress {
    fn say(&self, line: &str) {
        if !self.quiet {
            writeln!(std::io::stderr(), "vlmd bench: {line}").ok();
        }
    }
}

/// The error for an endpoint that has not answered a single one of its requests.
fn nothing_answered(report: &Report) -> Option<BenchError> {
    report
        .endpoints
        .iter()
        .enumerate()
        .find_map(|(index, endpoint)| {
            let own = || {
                report
                    .results
                    .iter()
                    .filter(|summary| summary.endpoint == index)
            };
            let requests = own().map(|summary| summary.requests.sent).sum();
            let answered: u64 = own().map(|summary| summary.requests.answered).sum();
            let message = own()
                .find_map(|summary| summary.errors.first())?
                .message
                .clone();
            (answered == 0).then(|| BenchError::NothingAnswered {
                url: endpoint.url.clone(),
                requests,
                message,
            })
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn args(arguments: &[&str]) -> BenchArgs {
        Cli::try_parse_from(["bench"].iter().chain(arguments))
            .unwrap()
            .bench
    }

    fn plan(arguments: &[&str]) -> Result<Plan, BenchError> {
        let args = args(arguments);
        let workload = Workload::new(&args.workload).unwrap();
        // The key of the hosted endpoint need not be there for its limits.
        let keyless = BenchArgs { vs: None, ..args };
        let mut targets = Target::all(&keyless).unwrap();
        targets[0].hosted = true;
        Plan::new(&keyless, &targets, &workload)
    }

    #[test]
    fn requests_are_dealt_out_to_rounds() {
        let rounds = |arguments: &[&str]| -> Vec<usize> {
            let args = args(arguments);
            let load = Load::Closed {
                concurrency: args.concurrency[0],
            };
            let requests = |until: &Until| match until {
                Until::Requests(count) => *count,
                Until::Elapsed(_) => panic!("requests were asked for"),
            };
            Plan::rounds(&args, load).iter().map(requests).collect()
        };
        let vs = "--vs=http://b";
        assert_eq!(rounds(&[]), [20]);
        assert_eq!(rounds(&["--concurrency", "32"]), [256]);
        assert_eq!(rounds(&[vs]), [5, 5, 5, 5]);
        assert_eq!(
            rounds(&[vs, "--requests", "10", "--rounds", "3"]),
            [4, 3, 3]
        );
        // No round with fewer requests than are under way.
        assert_eq!(
            rounds(&[vs, "--requests", "10", "--concurrency", "5"]),
            [5, 5]
        );
        assert_eq!(rounds(&[vs, "--requests", "3", "--concurrency", "5"]), [3]);
        let args = args(&[vs, "--duration", "10", "--rounds", "2"]);
        let five = Until::Elapsed(Duration::from_secs(5));
        assert_eq!(
            Plan::rounds(&args, Load::Closed { concurrency: 1 }),
            [five, five]
        );
    }

    #[test]
    fn the_hosted_endpoints_limits_are_kept() {
        assert!(plan(&["--image-size", "100x100"]).unwrap().held);
        assert!(!plan(&["--ignore-limits"]).unwrap().held);
        let size = ["--image-size", "300x300", "--image-pool", "1"];
        let error = plan(&size).unwrap_err().to_string();
        assert!(
            error.contains("180000") && error.contains("--ignore-limits"),
            "{error}"
        );
        let error = plan(&["--request-rate", "1"]).unwrap_err().to_string();
        assert!(
            error.contains("40 requests a minute") && error.contains("makes 60"),
            "{error}"
        );
        assert!(plan(&["--request-rate", "0.5"]).is_ok());
        let ignored: Vec<_> = size.into_iter().chain(["--ignore-limits"]).collect();
        assert!(plan(&ignored).is_ok());
    }

    #[test]
    fn more_rounds_than_requests_are_refused() {
        let error = plan(&["--vs=http://b", "--requests", "2", "--rounds", "3"]).unwrap_err();
        assert!(
            error.to_string().starts_with("--rounds: 3 is more"),
            "{error}"
        );
    }
}
