//! The server over real HTTP: a scripted model behind the real engine, gate and tokenizer.

#[cfg(test)]
mod access;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod chat;
#[cfg(test)]
mod completions;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod images;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod responses;
#[cfg(test)]
mod root_path;
#[cfg(test)]
mod script;
#[cfg(test)]
mod served;
#[cfg(test)]
mod server;
#[cfg(test)]
mod service;
#[cfg(test)]
mod stream;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod tools;
#[cfg(test)]
mod words;
