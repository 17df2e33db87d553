//! The C interface: the machine inside another program, behind the functions of [`exports`].
//!
//! One machine a process. At most two calls are inside it at a time, as in the worker: one that may run long, and one
//! that is answered beside it.

mod arguments;
pub mod exports;
mod guard;
mod instance;
mod layout;
mod message;
mod start;
#[cfg(test)]
mod tests;
mod tiny;
mod tiny_file;
