//! The instruction set, generated from `spec/pixels.toml`.

include!(concat!(env!("OUT_DIR"), "/pixels.rs"));

use std::fmt;

/// StackValue of r that makes a pixel an instruction.
pub const INSTRUCTION: u8 = 250;

/// A slot: a tensor that holds a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// One of the built-in programs, `kernel.0` to `kernel.7`.
    Kernel(u8),
    /// One of `evolved.0` to `evolved.7`.
    Evolved(u8),
}

impl Slot {
    fn decode(immediate: u8) -> Option<Self> {
        match immediate {
            0..=7 => Some(Slot::Kernel(immediate)),
            128..=135 => Some(Slot::Evolved(immediate - 128)),
            _ => None,
        }
    }
}

impl fmt::Display for Slot {
    /// The name of its tensor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Kernel(number) => write!(f, "kernel.{number}"),
            Slot::Evolved(number) => write!(f, "evolved.{number}"),
        }
    }
}

/// A neural interrupt, 1 to 255.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector(pub u8);

impl Vector {
    fn decode(immediate: u8) -> Option<Self> {
        Some(Vector(if immediate == 0 { 255 } else { immediate }))
    }
}

/// Why a pixel with r = 250 is not an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The table has no such opcode.
    Opcode(u8),
    /// The opcode has no such immediate.
    Immediate(u8, u8),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Opcode(opcode) => write!(f, "there is no opcode {opcode}"),
            DecodeError::Immediate(opcode, immediate) => write!(f, "opcode {opcode} has no immediate {immediate}"),
        }
    }
}
