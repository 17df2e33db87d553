//! Embeds token ids with a bert GGUF: `embed MODEL.gguf OUTPUT [THREADS] [VARIANT]`, where VARIANT is `avx512`,
//! `avx2` or `portable`.
//!
//! Each line of stdin is a JSON array with a text's token ids, or an array of such arrays, which is one batch. OUTPUT
//! gets the embeddings of all texts in order, little-endian f32; stdout gets, for each line, the nanoseconds its pass
//! took.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::Value;
use vector_boot::gguf::Gguf;
use vector_boot::neural::weights::{Matrix, Weights};
use vector_boot::neural::{architecture, ThreadPool, Variant, Workspace};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        [model, output] => embed(model, output, "1", ""),
        [model, output, threads] => embed(model, output, threads, ""),
        [model, output, threads, variant] => embed(model, output, threads, variant),
        _ => Err("usage: embed MODEL.gguf OUTPUT [THREADS] [VARIANT]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn embed(model: &str, output: &str, threads: &str, variant: &str) -> Result<(), Failure> {
    let file = std::fs::read(model)?;
    let gguf = Gguf::parse(&file).map_err(|error| error.to_string())?;
    let config = architecture::check(&gguf)?.config();
    let weights = Weights::by_name(&config, &|name| matrix(&gguf, &file, name))?;
    let variant = match variant {
        "avx512" => Variant::Avx512,
        "avx2" => Variant::Avx2,
        "portable" => Variant::Portable,
        _ => Variant::fastest(),
    };
    let mut workspace = Workspace::new(variant).ok_or("this CPU lacks the instructions")?;
    let pool = ThreadPool::new(threads.parse::<usize>()?.saturating_sub(1))?;
    let mut vectors = io::BufWriter::new(std::fs::File::create(output)?);
    let mut times = io::stdout().lock();
    for line in io::stdin().lines() {
        let batch = batch(&serde_json::from_str(&line?)?).ok_or("a line is no array of token ids")?;
        let texts: Vec<&[u32]> = batch.iter().map(Vec::as_slice).collect();
        let start = Instant::now();
        let embeddings = workspace
            .forward(&config, &weights, &texts, &pool, &AtomicBool::new(false))
            .map_err(|error| error.to_string())?;
        writeln!(times, "{}", start.elapsed().as_nanos())?;
        for value in embeddings {
            vectors.write_all(&value.to_le_bytes())?;
        }
    }
    Ok(vectors.flush()?)
}

/// The texts of a line.
fn batch(line: &Value) -> Option<Vec<Vec<u32>>> {
    let items = line.as_array()?;
    if items.iter().any(Value::is_array) {
        return items.iter().map(ids).collect();
    }
    Some(vec![ids(line)?])
}

fn ids(text: &Value) -> Option<Vec<u32>> {
    text.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// The tensor of this name as rows of its first dimension.
fn matrix<'a>(gguf: &Gguf<'a>, file: &'a [u8], name: &str) -> Option<Matrix<'a>> {
    let tensor = gguf.tensors.iter().find(|tensor| tensor.name == name)?;
    let (columns, rows) = match *tensor.shape() {
        [columns] => (columns, 1),
        [columns, rows] => (columns, rows),
        _ => return None,
    };
    let start = usize::try_from(gguf.data_offset + tensor.offset).ok()?;
    let bytes = file.get(start..)?.get(..usize::try_from(tensor.bytes).ok()?)?;
    Matrix::new(tensor.tensor_type, usize::try_from(rows).ok()?, usize::try_from(columns).ok()?, bytes)
}
