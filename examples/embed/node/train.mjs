// Trains the digits model in WebAssembly: node train.mjs FOLDER, where digits_library.py --target wasm32 has written.
import { readFile } from "node:fs/promises";
import { Library } from "../web/graphc.mjs";

const FEATURES = 64, CLASSES = 10, BATCH = 32;
const folder = process.argv[2] ?? "../out";
const library = await Library.instantiate(await readFile(`${folder}/digits.wasm`));
const file = await readFile(`${folder}/digits.bin`);
const bytes = file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength);
const [rows, train, epochs, seed] = new Int32Array(bytes, 0, 4);
const x = new Float32Array(bytes, 16, rows * FEATURES);
const labels = new Int32Array(bytes, 16 + 4 * x.length, rows);
const order = new Int32Array(bytes, 16 + 4 * (x.length + rows), epochs * train);

const init = library.entry("init"), step = library.entry("train_step"), predict = library.entry("predict");
init.call({ seed: [BigInt(seed)] });
step.use(init);      // the same weights and momentum
predict.use(init);
step.set("learning_rate", [0.05]);
for (let epoch = 0; epoch < epochs; epoch++) {
  let total = 0;
  for (let start = 0; start < train; start += BATCH) {
    for (let i = 0; i < BATCH; i++) {
      const row = order[epoch * train + start + i];
      step.array("x").set(x.subarray(row * FEATURES, (row + 1) * FEATURES), i * FEATURES);
      step.array("y")[i] = labels[row];
    }
    step.call();
    total += step.array("loss")[0];
  }
  console.log(`epoch ${epoch + 1}: loss ${(total / (train / BATCH)).toPrecision(9)}`);
}

let right = 0;
for (let start = train; start < rows; start += BATCH) {
  const count = Math.min(BATCH, rows - start);
  predict.array("x").set(x.subarray(start * FEATURES, (start + count) * FEATURES));
  predict.call();
  for (let i = 0; i < count; i++) {
    const scores = predict.array("prediction").subarray(i * CLASSES, (i + 1) * CLASSES);
    right += scores.indexOf(Math.max(...scores)) === labels[start + i];
  }
}
console.log(`test accuracy: ${(right / (rows - train)).toFixed(4)}`);
