//! `NIM_SSL_MODE` and the files that go with it.

use anyhow::{Result, bail};

use super::super::{Environment, Wish};
use super::value;

const MODE: &str = "NIM_SSL_MODE";
/// In the order in which modes need them: the variable, the argument, what it names.
const FILES: [(&str, &str, &str); 3] = [
    (
        "NIM_SSL_CERTS_PATH",
        "ssl_certfile",
        "the server's certificate",
    ),
    ("NIM_SSL_KEY_PATH", "ssl_keyfile", "its private key"),
    (
        "NIM_SSL_CA_CERTS_PATH",
        "ssl_ca_certs",
        "the authorities of clients",
    ),
];

/// The files that the mode needs. Without a mode there is no TLS, whatever files are named.
///
/// # Errors
/// When the mode is none, or a file that it needs is named neither here nor by a flag.
pub(super) fn wishes(
    environment: &Environment,
    is_given: impl Fn(&str) -> bool,
) -> Result<Vec<Wish>> {
    let mode = value(environment, MODE).unwrap_or("DISABLED");
    let needed = match mode.to_ascii_uppercase().as_str() {
        "DISABLED" => 0,
        "TLS" => 2,
        "MTLS" => 3,
        _ => bail!("{MODE} is `{mode}`: expected DISABLED, TLS or MTLS"),
    };
    let mut wishes = Vec::new();
    for (variable, argument, what) in FILES.into_iter().take(needed) {
        match value(environment, variable) {
            Some(path) => wishes.push(Wish {
                variable,
                argument: argument.to_owned(),
                said: path.to_owned(),
                values: vec![path.to_owned()],
            }),
            None if is_given(argument) => {}
            None => bail!("{MODE} is `{mode}`, which needs {variable}: the file of {what}"),
        }
    }
    Ok(wishes)
}
