//! The server over real HTTP: a scripted model behind the real engine, gate and tokenizer.

#[cfg(test)]
mod access;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod images;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod script;
#[cfg(test)]
mod server;
#[cfg(test)]
mod service;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod words;
