//! `vector_boot`: a GGUF model that runs as a machine.
//!
//! With the feature `ffi` (default) this crate is a C library for Python and C. With `standalone` it is also the executable
//! that runs as PID 1 of the appliance, as its worker, and as `vector_boot check` and `vector_boot --listen` on a
//! workstation. Both share the other modules, which work on bytes and memory alone; `ffi` and `standalone` are thin.

pub mod container_file;
pub mod crc;
pub mod element;
pub mod esp;
pub mod gguf;
pub mod hw_mmio;
pub mod journal;
pub mod lineage;
pub mod machine;
pub mod model_file;
pub mod mutation;
pub mod neural;
pub mod partition_table;
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
