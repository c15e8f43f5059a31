//! Server-sent events out of bytes, however the network cuts them.
//!
//! Follows the WHATWG HTML standard (section 9.2.6): lines end with LF, CR or CRLF, a colon begins
//! a comment, several `data` lines are one event joined by LF, an empty line ends it, and an event
//! without data is none. One thing is kinder: what stands at the end of a stream without its empty
//! line is given out by [`SseReader::finish`], since some servers end with `data: [DONE]` at once.

/// Bytes of one event: far above any chunk of an answer, far below what would hurt.
pub(crate) const MAX_EVENT_BYTES: usize = 16 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// Its `event` field; empty where it has none.
    pub(crate) name: String,
    /// Its `data` lines, joined by LF.
    pub(crate) data: String,
}

/// An event of more than [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {MAX_EVENT_BYTES} bytes")]
pub(crate) struct EventTooLong;

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    /// The line that has not ended.
    line: Vec<u8>,
    /// The data lines of the event that has not ended, each with an LF.
    data: Vec<u8>,
    name: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The first line, which may begin with a byte order mark, is over.
    begun: bool,
}

impl SseReader {
    /// Adds bytes to the stream and the events that they complete to `events`.
    ///
    /// # Errors
    /// [`EventTooLong`]; the stream cannot be read on.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        events: &mut Vec<SseEvent>,
    ) -> Result<(), EventTooLong> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, rest) = bytes.split_at(end);
            self.extend(line)?;
            let (ending, mut rest) = rest.split_at(1);
            if ending == b"\r" {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            events.extend(self.end_line());
            bytes = rest;
        }
        self.extend(bytes)
    }

    /// What the end of the stream completes.
    pub(crate) fn finish(mut self) -> Option<SseEvent> {
        let completed = self.end_line();
        completed.or_else(|| self.end_event())
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), EventTooLong> {
        let length = self.line.len() + self.data.len() + bytes.len();
        if length > MAX_EVENT_BYTES {
            return Err(EventTooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Option<SseEvent> {
        let line = std::mem::take(&mut self.line);
        let mut line = line.as_slice();
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line);
        }
        if line.is_empty() {
            return self.end_event();
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = line.split_at(colon.unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.name = value.to_vec(),
            // Comments have an empty name; `id`, `retry` and what nobody knows say nothing here.
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<SseEvent> {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        // Every data line has left its LF: without any there is no event.
        data.pop()?;
        Some(SseEvent {
            name: String::from_utf8_lossy(&name).into_owned(),
            data: String::from_utf8_lossy(&data).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<SseEvent> {
        let mut reader = SseReader::default();
        let mut events = Vec::new();
        for piece in pieces {
            reader.push(piece, &mut events).unwrap();
        }
        events.extend(reader.finish());
        events
    }

    fn data(events: &[SseEvent]) -> Vec<&str> {
        events.iter().map(|event| event.data.as_str()).collect()
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
        let cases: [(&str, &[&str]); 8] = [
            ("data: a\n\ndata: b\n\n", &["a", "b"]),
            ("data:a\r\rdata:  b\r\r", &["a", " b"]),
            (": ping\n\ndata: a\r\n\r\n: more\n", &["a"]),
            ("data: a\ndata: b\ndata\n\n", &["a\nb\n"]),
            ("\u{feff}data: a\n\n", &["a"]),
            ("id: 1\nretry: 3\nevent: x\n\ndata: a\n\n", &["a"]),
            ("data: {\"a\": \"b: c\"}\n\n", &["{\"a\": \"b: c\"}"]),
            ("data: a\n\ndata: [DONE]", &["a", "[DONE]"]),
        ];
        for (text, expected) in cases {
            assert_eq!(data(&read([text.as_bytes()])), expected, "{text:?}");
        }
    }

    #[test]
    fn an_event_has_its_own_name_only() {
        let events = read([b"event: error\ndata: a\n\ndata: b\n\n".as_slice()]);
        let names: Vec<_> = events.iter().map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["error", ""]);
    }

    #[test]
    fn an_endless_event_is_an_error() {
        let mut reader = SseReader::default();
        let mut events = Vec::new();
        let piece = vec![b'x'; 1 << 20];
        let failed = (0..20).any(|_| reader.push(&piece, &mut events).is_err());
        assert!(failed && reader.line.len() <= MAX_EVENT_BYTES);
    }

    proptest! {
        /// However the bytes arrive, the events are the same.
        #[test]
        fn cuts_change_nothing(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "data: ", "data", "event: e", ":", "x", "ü", "\u{feff}", "\n", "\r", "\r\n", "\n\n", " ",
                    "[DONE]",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = parts.concat().into_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let mut pieces = Vec::new();
            for cut in cuts {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(read(pieces), read([bytes.as_slice()]));
        }
    }
}
