//! Trains the digits model and prints what losses.txt of the same training in Python has.
use digits::{Model, Status, BATCH, FEATURES};
use std::{env, fs, io, process};

struct Data {
    x: Vec<[f32; FEATURES]>,
    labels: Vec<i32>,
    order: Vec<i32>,
    train: usize,
    epochs: usize,
    seed: i64,
}

fn read(path: &str) -> io::Result<Data> {
    let bytes = fs::read(path)?;
    let word = |i: usize| bytes.get(4 * i..4 * i + 4).map(|b| [b[0], b[1], b[2], b[3]]).ok_or(io::ErrorKind::UnexpectedEof);
    let whole = |i: usize| word(i).map(i32::from_le_bytes);
    let (rows, train, epochs, seed) = (whole(0)? as usize, whole(1)? as usize, whole(2)? as usize, whole(3)? as i64);
    let mut x = vec![[0.0; FEATURES]; rows];
    for (i, value) in x.iter_mut().flatten().enumerate() {
        *value = f32::from_le_bytes(word(4 + i)?);
    }
    let labels = (0..rows).map(|i| whole(4 + rows * FEATURES + i)).collect::<Result<_, _>>()?;
    let order = (0..epochs * train).map(|i| whole(4 + rows * (FEATURES + 1) + i)).collect::<Result<_, _>>()?;
    Ok(Data { x, labels, order, train, epochs, seed })
}

fn fit(data: &Data) -> Result<(), Status> {
    let mut model = Box::new(Model::zero());
    model.init(data.seed)?;
    let (mut x, mut labels) = ([[0.0; FEATURES]; BATCH], [0; BATCH]);
    for epoch in 0..data.epochs {
        let mut total = 0.0f64;
        for rows in data.order[epoch * data.train..(epoch + 1) * data.train].chunks_exact(BATCH) {
            for (i, &row) in rows.iter().enumerate() {
                x[i] = data.x[row as usize];
                labels[i] = data.labels[row as usize];
            }
            total += f64::from(model.train(&x, &labels, 0.05)?);
        }
        println!("epoch {}: loss {:.6}", epoch + 1, total / (data.train / BATCH) as f64);
    }
    let mut right = 0;
    for start in (data.train..data.x.len()).step_by(BATCH) {
        let count = BATCH.min(data.x.len() - start);
        x[..count].copy_from_slice(&data.x[start..start + count]);
        let found = model.predict(&x)?;
        right += (0..count).filter(|&i| found[i] == data.labels[start + i]).count();
    }
    println!("test accuracy: {:.4}", right as f64 / (data.x.len() - data.train) as f64);
    Ok(())
}

fn main() {
    let folder = env::args().nth(1).unwrap_or_else(|| "../out".into());
    let data = read(&format!("{folder}/digits.bin")).unwrap_or_else(|error| {
        eprintln!("{folder}/digits.bin: {error}");
        process::exit(1)
    });
    if let Err(status) = fit(&data) {
        eprintln!("digits: {}", status.text());
        process::exit(1)
    }
}
