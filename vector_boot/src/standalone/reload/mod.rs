//! What a reload of the worker needs beside supervisor and worker: the judgement of an executable, its probe run, and the
//! state that one worker hands over to the next.

pub mod elf;
pub mod handover;
pub mod probe;
pub mod verify;
