// Runs entries of a WebAssembly module, each on a painted stack, and prints what they made.
// In: the module, and a JSON file of cases: {run, inputs: [hex], outputs: [{bytes} or {input}], workspace}.
// Out: as harness.c prints it.
import { readFileSync } from "node:fs";

const [moduleFile, casesFile] = process.argv.slice(2);
const { instance } = await WebAssembly.instantiate(readFileSync(moduleFile), {});
const { memory, __stack_pointer, __heap_base, ...functions } = instance.exports;
const PAINT = 0xa5, PAINTED = 16384;
let top = memory.buffer.byteLength;
memory.grow(16);

function place(size) {
    const at = Math.ceil(top / 64) * 64;
    top = at + size;
    return at;
}

for (const one of JSON.parse(readFileSync(casesFile, "utf8"))) {
    const inputs = one.inputs.map((hex) => {
        const bytes = Buffer.from(hex, "hex"), at = place(bytes.length);
        new Uint8Array(memory.buffer).set(bytes, at);
        return at;
    });
    const outputs = one.outputs.map((o) => ("input" in o ? inputs[o.input] : place(o.bytes)));
    const table = (addresses) => {
        const at = place(4 * addresses.length);
        new Uint32Array(memory.buffer, at, addresses.length).set(addresses);
        return at;
    };
    const [ins, outs, workspace] = [table(inputs), table(outputs), place(one.workspace)];
    const bytes = new Uint8Array(memory.buffer);
    const pointer = __stack_pointer.value;
    bytes.fill(PAINT, pointer - PAINTED, pointer);
    const status = functions[one.run](ins, outs, workspace, 0);
    let deepest = PAINTED;
    while (deepest && bytes[pointer - deepest] === PAINT) deepest -= 1;
    console.log(`${one.name} ${status} ${deepest}`);
    one.outputs.forEach((o, j) => console.log(Buffer.from(bytes.slice(outputs[j], outputs[j] + o.bytes)).toString("hex")));
}
