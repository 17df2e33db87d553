//! The C interface: the machine inside another program, behind the functions of [`exports`].
//!
//! A process has one machine. It handles at most two calls at a time, as the worker does: one that may take long, and one
//! that is answered while that one runs.

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
