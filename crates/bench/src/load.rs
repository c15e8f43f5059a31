//! Loops that send requests: closed ones, where a new request follows an answer, and open ones,
//! where requests arrive by the clock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::MAX_CONCURRENCY;
use crate::arrivals::{Arrivals, Pattern};
use crate::endpoint::{Endpoint, Record};
use crate::error::BenchError;
use crate::workload::Workload;

/// Requests that are made ready before they are due, so that the clock waits for none.
const PREPARED: usize = 8;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Load {
    /// So many under way at a time.
    Closed {
        /// From 1 to `MAX_CONCURRENCY`.
        concurrency: usize,
    },
    /// So many a second.
    Open {
        /// Requests a second.
        rate: f64,
        /// How they are spaced.
        arrivals: Pattern,
    },
}

impl fmt::Display for Load {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { concurrency } => write!(formatter, "concurrency {concurrency}"),
            Self::Open { rate, arrivals } => {
                let arrivals = match arrivals {
                    Pattern::Poisson => "Poisson",
                    Pattern::Constant => "constant",
                };
                write!(formatter, "{rate} requests/s, {arrivals}")
            }
        }
    }
}

/// When a loop ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// So many requests.
    Requests(usize),
    /// So much time, and what is under way then.
    Elapsed(Duration),
}

/// One loop on one endpoint.
#[derive(Debug)]
pub(crate) struct Round {
    /// Who is asked.
    pub(crate) endpoint: Arc<Endpoint>,
    /// What is asked.
    pub(crate) workload: Arc<Workload>,
    /// How.
    pub(crate) load: Load,
    /// How long.
    pub(crate) until: Until,
    /// Number of the first request.
    pub(crate) first: u64,
    /// Decides arrivals.
    pub(crate) seed: u64,
}

/// What became of a round.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    /// Of each request that came to an end.
    pub(crate) records: Vec<Record>,
    /// Requests that were given up when the user ended the run.
    pub(crate) abandoned: u64,
    /// The open loop ended early, with `MAX_CONCURRENCY` requests under way.
    pub(crate) overrun: bool,
}

impl Finished {
    /// Requests that were taken from the workload.
    pub(crate) fn taken(&self) -> u64 {
        (self.records.len() as u64).saturating_add(self.abandoned)
    }

    fn join(&mut self, other: Self) {
        self.records.extend(other.records);
        self.abandoned = self.abandoned.saturating_add(other.abandoned);
        self.overrun |= other.overrun;
    }
}

impl Round {
    /// Runs until its end, or until `stop` abandons what is under way.
    ///
    /// # Errors
    /// [`BenchError::System`] if a task of the loop ends by itself.
    pub(crate) async fn run(self, stop: &CancellationToken) -> Result<Finished, BenchError> {
        let bodies = Arc::new(Mutex::new(self.prepare()));
        let deadline = match self.until {
            Until::Requests(_) => None,
            Until::Elapsed(duration) => Instant::now().checked_add(duration),
        };
        match self.load {
            Load::Closed { concurrency } => {
                let mut workers = JoinSet::new();
                for _ in 0..concurrency {
                    let endpoint = Arc::clone(&self.endpoint);
                    workers.spawn(work(endpoint, Arc::clone(&bodies), deadline, stop.clone()));
                }
                collect(workers).await
            }
            Load::Open { rate, arrivals } => {
                let arrivals = Arrivals::new(arrivals, rate, self.seed);
                open(&self.endpoint, &bodies, arrivals, deadline, stop).await
            }
        }
    }

    /// Writes requests ahead, on a thread of its own, until there are enough or nobody takes them.
    fn prepare(&self) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(PREPARED);
        let (endpoint, workload) = (Arc::clone(&self.endpoint), Arc::clone(&self.workload));
        let count = match self.until {
            Until::Requests(count) => count as u64,
            Until::Elapsed(_) => u64::MAX,
        };
        let first = self.first;
        tokio::task::spawn_blocking(move || {
            for number in (0..count).map(|number| first.wrapping_add(number)) {
                let body = workload.body(number, endpoint.model(), endpoint.fields());
                // What cannot be written as JSON was refused when the workload was made.
                let Ok(body) = body else { return };
                if sender.blocking_send(body).is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

type Bodies = Arc<Mutex<mpsc::Receiver<Vec<u8>>>>;

/// One place of a closed loop: a request, its answer, the next request.
async fn work(
    endpoint: Arc<Endpoint>,
    bodies: Bodies,
    deadline: Option<Instant>,
    stop: CancellationToken,
) -> Finished {
    let mut finished = Finished::default();
    loop {
        let ready = async {
            // A request first, a turn then: nobody waits for a turn who has nothing to send.
            let body = bodies.lock().await.recv().await?;
            endpoint.turn().await;
            Some(body)
        };
        let body = tokio::select! {
            body = ready => body,
            () = stop.cancelled() => None,
        };
        let in_time = deadline.is_none_or(|deadline| Instant::now() < deadline);
        let Some(body) = body.filter(|_| in_time) else {
            return finished;
        };
        tokio::select! {
            record = endpoint.measure(body, None) => finished.records.push(record),
            () = stop.cancelled() => {
                finished.abandoned = finished.abandoned.saturating_add(1);
                return finished;
            }
        }
    }
}

/// Requests by the clock, however long answers take.
async fn open(
    endpoint: &Arc<Endpoint>,
    bodies: &Bodies,
    arrivals: Arrivals,
    deadline: Option<Instant>,
    stop: &CancellationToken,
) -> Result<Finished, BenchError> {
    let mut requests = JoinSet::new();
    let mut finished = Finished::default();
    let begin = Instant::now();
    for arrival in arrivals {
        let Some(due) = begin.checked_add(arrival) else {
            break;
        };
        if deadline.is_some_and(|deadline| due >= deadline) {
            break;
        }
        let ready = async {
            let body = bodies.lock().await.recv().await;
            tokio::time::sleep_until(due.into()).await;
            endpoint.turn().await;
            body
        };
        let body = tokio::select! {
            body = ready => body,
            () = stop.cancelled() => None,
        };
        let Some(body) = body else { break };
        if requests.len() >= MAX_CONCURRENCY {
            finished.overrun = true;
            break;
        }
        let (endpoint, stop) = (Arc::clone(endpoint), stop.clone());
        requests.spawn(async move {
            let lag = Some(due.elapsed());
            let mut finished = Finished::default();
            tokio::select! {
                record = endpoint.measure(body, lag) => finished.records.push(record),
                () = stop.cancelled() => finished.abandoned = 1,
            }
            finished
        });
        while let Some(ended) = requests.try_join_next() {
            finished.join(ended.map_err(|error| BenchError::system("a request's task", &error))?);
        }
    }
    finished.join(collect(requests).await?);
    Ok(finished)
}

async fn collect(mut tasks: JoinSet<Finished>) -> Result<Finished, BenchError> {
    let mut finished = Finished::default();
    while let Some(ended) = tasks.join_next().await {
        finished.join(ended.map_err(|error| BenchError::system("a request's task", &error))?);
    }
    Ok(finished)
}
