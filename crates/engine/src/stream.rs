//! The receiving end of a request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::request::Event;
use crate::stats::{Course, Timings};

/// The events of one request: tokens, then exactly one `Finished` or `Failed`, then the end.
///
/// Dropping it cancels the request, in whatever phase it is, and frees its blocks before the
/// engine's next step.
#[derive(Debug)]
pub struct EventStream {
    events: UnboundedReceiver<Event>,
    /// Of the answer, where it is that of a single sequence.
    course: Option<Arc<Course>>,
}

impl EventStream {
    pub(crate) fn new(events: UnboundedReceiver<Event>, course: Option<Arc<Course>>) -> Self {
        Self { events, course }
    }

    /// Takes what has come as the whole answer, because of something that only the reader sees: a
    /// stop string, say. Ends the request as dropping the stream does, but it counts as finished.
    /// Gives where its time went, as far as that is known.
    #[must_use]
    pub fn complete(self) -> Option<Timings> {
        self.course.as_deref().map(Course::satisfy)
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}
