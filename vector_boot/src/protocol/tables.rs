//! Methods, error codes and limits, generated from `spec/protocol.toml`.

include!(concat!(env!("OUT_DIR"), "/protocol.rs"));

/// Where a request runs, and what is answered meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// On the thread that serves the connection, at once.
    Inline,
    /// On a second thread; the requests behind it wait.
    Queued,
    /// Like `Inline` when it is small, else like `Queued`.
    Sized,
    /// On a second thread; methods that [pass](Method::passes) are answered meanwhile.
    Beside,
    /// Outside this process; requests behind it on its own connection wait, except methods that [pass](Method::passes).
    Apart,
}
