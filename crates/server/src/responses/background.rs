//! Responses that nobody waits for.

use crate::generation::Generation;
use crate::state::AppState;

use super::{Run, Writer};

/// Writes a response to its end and keeps it, unless it is given up before.
pub(crate) async fn run(state: AppState, mut generation: Generation, mut writer: Writer, run: Run) {
    loop {
        let next = tokio::select! {
            biased;
            () = run.gone.cancelled() => return,
            next = generation.next() => next,
        };
        match next {
            None => break,
            Some(Ok((_, piece))) => {
                let usage = generation.usage();
                drop(writer.piece(piece, &usage));
            }
            Some(Err(refusal)) => {
                if refusal.status().is_server_error() {
                    tracing::error!(error = %refusal, "a response in the background broke off");
                }
                drop(writer.broken(&refusal));
            }
        }
    }
    state.responses().end(run, writer.response());
}
