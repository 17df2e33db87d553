//! Runs programs.

use super::instruction::{Input, Instruction, Slot, Vector};
use super::memory::StackMemory;
use super::program::{check, pixels_of_slot, steps, ErrorAt, Step};
use super::value::{Shape, StackValue};
use super::{operations, refuse, Host, PixelError, PixelErrorKind, ProgramError, ProgramLimits, ProgramOutcome};

/// Greatest depth of calls.
const DEPTH: usize = 4;

/// Runs a program of 3 bytes a pixel to its end.
///
/// All pixels are checked before the first one runs, and those of a called program when it is called. An empty program
/// succeeds. The caller raises the interrupts in [`ProgramOutcome`], so that a program that fails raises none.
///
/// # Errors
/// [`ProgramError`].
pub fn run(program: &[u8], host: &mut dyn Host, limits: ProgramLimits) -> Result<ProgramOutcome, ProgramError> {
    let (stack, buffer, memory) = (Vec::new(), Vec::new(), StackMemory::new(limits.stack_bytes));
    let mut interpreter =
        Interpreter { host, limits, stack, buffer, memory, outcome: ProgramOutcome::default(), depth: 0 };
    match interpreter.program(program) {
        Ok(()) => Ok(interpreter.outcome),
        Err(ErrorAt { pixel, error: PixelError { kind, text } }) => {
            Err(ProgramError { pixel, kind, text: format!("pixel {pixel}: {text}") })
        }
    }
}

struct Interpreter<'a> {
    host: &'a mut dyn Host,
    limits: ProgramLimits,
    stack: Vec<StackValue>,
    buffer: Vec<u8>,
    memory: StackMemory,
    outcome: ProgramOutcome,
    depth: usize,
}

impl Interpreter<'_> {
    /// Runs a whole program.
    fn program(&mut self, program: &[u8]) -> Result<(), ErrorAt> {
        check(program)?;
        for (pixel, step) in steps(program)? {
            step.and_then(|step| self.step(step)).map_err(|error| ErrorAt { pixel, error })?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), PixelError> {
        self.outcome.pixels += 1;
        match step {
            Step::Data(bytes) => self.append(bytes),
            Step::Literal(bytes) => {
                self.outcome.pixels += 1;
                self.count_instruction()?;
                self.append(bytes)
            }
            Step::Execute(instruction) => {
                self.count_instruction()?;
                self.host.proceed()?;
                self.execute(instruction).map_err(|refusal| match instruction {
                    Instruction::Call(_) => refusal,
                    _ => PixelError { text: format!("{}: {}", instruction.name(), refusal.text), ..refusal },
                })
            }
        }
    }

    fn count_instruction(&mut self) -> Result<(), PixelError> {
        if self.outcome.steps >= self.limits.instructions {
            return refuse(
                PixelErrorKind::Mismatch,
                format!("the program executes more than {} instructions", self.limits.instructions),
            );
        }
        self.outcome.steps += 1;
        Ok(())
    }

    fn append(&mut self, bytes: [u8; 3]) -> Result<(), PixelError> {
        self.memory.take(bytes.len())?;
        self.buffer.extend_from_slice(&bytes);
        Ok(())
    }

    fn execute(&mut self, instruction: Instruction) -> Result<(), PixelError> {
        let pops = instruction.pops();
        if self.stack.len() < pops {
            return refuse(
                PixelErrorKind::Mismatch,
                format!("it needs {pops} values, but the stack holds {}", self.stack.len()),
            );
        }
        match instruction {
            // `Steps` has joined it with the pixel after it.
            Instruction::Lit => return refuse(PixelErrorKind::Malformed, "LIT without a pixel after it"),
            Instruction::Tensor => self.tensor()?,
            Instruction::Input(input) => self.input(input)?,
            Instruction::Matmul => {
                let (w, x) = self.pop_two()?;
                let product = operations::matmul(&w, &x, &mut self.memory, self.host)?;
                self.memory.drop(w);
                self.memory.drop(x);
                self.stack.push(product);
            }
            Instruction::Add => self.combine(|a, b| a + b)?,
            Instruction::Mul => self.combine(|a, b| a * b)?,
            Instruction::Act(act) => operations::activate(self.top()?, act),
            Instruction::Norm(norm) => operations::normalise(self.top()?, norm),
            Instruction::Reduce(reduce) => {
                let value = self.pop()?;
                let numbers = operations::reduce(&value, reduce, &mut self.memory)?;
                self.memory.drop(value);
                self.stack.push(numbers);
            }
            Instruction::Call(slot) => self.call(slot)?,
            Instruction::Dup => {
                let value = self.pop()?;
                let copy = self.memory.copy(&value)?;
                self.stack.extend([value, copy]);
            }
            Instruction::Drop => {
                let value = self.pop()?;
                self.memory.drop(value);
            }
            Instruction::Swap => {
                let (below, top) = self.pop_two()?;
                self.stack.extend([top, below]);
            }
            Instruction::Out => {
                let value = self.pop()?;
                self.out(&value.data)?;
                self.memory.drop(value);
            }
            Instruction::NeuralExec(vector) => self.neural_exec(vector)?,
        }
        Ok(())
    }

    fn tensor(&mut self) -> Result<(), PixelError> {
        let buffer = self.take_buffer();
        let Some(name) = text_of(&buffer) else {
            return refuse(PixelErrorKind::UnknownTensor, "the name in the buffer is not UTF-8");
        };
        let shape = self.host.shape(name)?;
        let mut value = self.memory.value(shape)?;
        self.host.tensor(name, &mut value.data)?;
        self.stack.push(value);
        Ok(())
    }

    fn input(&mut self, input: Input) -> Result<(), PixelError> {
        if self.buffer.is_empty() {
            return refuse(PixelErrorKind::Mismatch, "the buffer is empty");
        }
        if input == Input::F32 && !self.buffer.len().is_multiple_of(4) {
            return refuse(
                PixelErrorKind::Mismatch,
                format!("the buffer holds {} bytes, which is not a multiple of 4", self.buffer.len()),
            );
        }
        let buffer = self.take_buffer();
        let elements = if input == Input::F32 { buffer.len() / 4 } else { buffer.len() };
        let mut value = self.memory.value(Shape::vector(elements))?;
        match input {
            Input::Bytes => value.data.iter_mut().zip(&buffer).for_each(|(x, byte)| *x = f32::from(*byte)),
            Input::F32 => {
                for (x, bytes) in value.data.iter_mut().zip(buffer.as_chunks::<4>().0) {
                    *x = f32::from_le_bytes(*bytes);
                }
            }
        }
        self.stack.push(value);
        Ok(())
    }

    fn call(&mut self, slot: Slot) -> Result<(), PixelError> {
        if self.depth == DEPTH {
            return refuse(PixelErrorKind::Mismatch, format!("CALL {slot}: calls are nested more than {DEPTH} deep"));
        }
        let bytes = self.host.program(slot);
        let in_slot = |refusal: PixelError| PixelError { text: format!("CALL {slot}: {}", refusal.text), ..refusal };
        let program = pixels_of_slot(&bytes).map_err(in_slot)?;
        self.depth += 1;
        let result = self.program(program);
        self.depth -= 1;
        result.map_err(|ErrorAt { pixel, error }| PixelError {
            text: format!("CALL {slot}: pixel {pixel}: {}", error.text),
            ..error
        })
    }

    fn neural_exec(&mut self, Vector(vector): Vector) -> Result<(), PixelError> {
        let buffer = self.take_buffer();
        let Some(text) = text_of(&buffer) else {
            return refuse(PixelErrorKind::Mismatch, "the text in the buffer is not UTF-8");
        };
        let embedding = self.host.network(text)?;
        self.out(&embedding)?;
        self.outcome.interrupts.push(vector);
        Ok(())
    }

    /// Appends to the result.
    fn out(&mut self, values: &[f32]) -> Result<(), PixelError> {
        let limit = self.limits.output_bytes;
        let room = limit.saturating_sub(self.outcome.output.len());
        if values.len() > room / 4 {
            return refuse(PixelErrorKind::Mismatch, format!("the result would exceed {limit} bytes"));
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let what = if values[index].is_nan() { "not a number" } else { "infinite" };
            return refuse(PixelErrorKind::NotFinite, format!("element {index} is {what}"));
        }
        self.outcome.output.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        Ok(())
    }

    fn combine(&mut self, function: fn(f32, f32) -> f32) -> Result<(), PixelError> {
        let (a, b) = self.pop_two()?;
        let combined = operations::combine(a, b, function)?;
        self.memory.drop(combined.unused);
        self.stack.push(combined.result);
        Ok(())
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        self.memory.give_back(self.buffer.len());
        std::mem::take(&mut self.buffer)
    }

    fn top(&mut self) -> Result<&mut StackValue, PixelError> {
        self.stack.last_mut().map_or_else(|| refuse(PixelErrorKind::Mismatch, "the stack is empty"), Ok)
    }

    fn pop(&mut self) -> Result<StackValue, PixelError> {
        self.stack.pop().map_or_else(|| refuse(PixelErrorKind::Mismatch, "the stack is empty"), Ok)
    }

    /// The second value from the top, and the top.
    fn pop_two(&mut self) -> Result<(StackValue, StackValue), PixelError> {
        let top = self.pop()?;
        Ok((self.pop()?, top))
    }
}

/// The text in a buffer, without the zero bytes that pad its last pixel.
fn text_of(buffer: &[u8]) -> Option<&str> {
    let end = buffer.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    std::str::from_utf8(&buffer[..end]).ok()
}
