//! `vector_boot`: a GGUF model that is a machine.
//!
//! One library, two faces. With `ffi` (default) it is a C library for Python; with `standalone` it is the executable
//! that runs as PID 1 of the appliance, as its worker, and as `vector_boot check` and `--listen` on a workstation.
//! The modules here are pure (bytes and memory) and shared by both faces; `ffi` and `standalone` are thin.

pub mod container_file;
pub mod element;
pub mod gguf;
pub mod hw_mmio;
pub mod journal;
pub mod lineage;
pub mod machine;
pub mod model_file;
pub mod mutation;
pub mod neural;
pub mod pixel;
pub mod protocol;
pub mod rts;
pub mod sys;
pub mod tensor;
pub mod vitals;

#[cfg(feature = "ffi")]
pub mod ffi;
#[cfg(feature = "standalone")]
pub mod standalone;
