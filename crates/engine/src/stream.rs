//! The receiving end of a request.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::request::Event;

/// The events of one request: tokens, then exactly one `Finished` or `Failed`, then the end.
///
/// Dropping it cancels the request, in whatever phase it is, and frees its blocks before the
/// engine's next step.
#[derive(Debug)]
pub struct EventStream {
    events: UnboundedReceiver<Event>,
}

impl EventStream {
    pub(crate) fn new(events: UnboundedReceiver<Event>) -> Self {
        Self { events }
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}
