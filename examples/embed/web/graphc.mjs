// Calls a library that graphc has exported for wasm32: it describes itself, so nothing here knows its functions.

const TYPES = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, int64: BigInt64Array,
  uint32: Uint32Array, uint8: Uint8Array, bool: Uint8Array,
};
const PAGE = 65536, ALIGNMENT = 64;

export class Library {
  // The library in these bytes (or of this compiled module).
  static async instantiate(source) {
    const made = await WebAssembly.instantiate(source, {});
    return new Library(made.instance ?? made);
  }

  constructor(instance) {
    this.functions = instance.exports;
    this.memory = instance.exports.memory;
    const name = Object.keys(this.functions).find((key) => key.endsWith("_info"));
    const address = this.functions[name].value;
    const head = new DataView(this.memory.buffer, address + 16);
    const text = new Uint8Array(this.memory.buffer, address + 24, head.getInt32(4, true));
    this.info = JSON.parse(new TextDecoder().decode(text));
    this.free = this.end = this.memory.buffer.byteLength;
    this.workspace = this.allocate(Math.max(1, ...Object.values(this.info.entries).map((e) => e.workspace_bytes)));
  }

  // The address of fresh memory, at a multiple of 64 bytes; it is never given back.
  allocate(bytes) {
    const address = Math.ceil(this.free / ALIGNMENT) * ALIGNMENT;
    this.free = address + bytes;
    const pages = Math.ceil((this.free - this.end) / PAGE);
    if (pages > 0) {
      this.memory.grow(pages);
      this.end += pages * PAGE;
    }
    return address;
  }

  entry(name) {
    const entry = this.info.entries[name];
    if (!entry) throw new Error(`expected one of ${Object.keys(this.info.entries).join(", ")}, got ${name}`);
    return new Entry(this, entry);
  }

  strerror(status) {
    const bytes = new Uint8Array(this.memory.buffer, this.functions[`${this.info.name}_strerror`](status));
    return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
  }
}

// One function with memory for its arguments; an output with the name of a donated input is the same memory.
export class Entry {
  constructor(library, info) {
    this.library = library;
    this.info = info;
    this.places = new Map();
    for (const argument of [...info.inputs, ...info.outputs])
      if (!this.places.has(argument.name)) this.places.set(argument.name, { ...argument, address: 0 });
    this.pointers = library.allocate(4 * (info.inputs.length + info.outputs.length));
  }

  // Uses the memory of another entry for all arguments of the same name.
  use(other) {
    for (const [name, place] of this.places) {
      const theirs = other.places.get(name);
      if (theirs && theirs.dtype === place.dtype && String(theirs.shape) === String(place.shape)) place.address = other.address(name);
    }
    return this;
  }

  address(name) {
    const place = this.places.get(name);
    if (!place) throw new Error(`${this.info.name}: expected one of ${[...this.places.keys()].join(", ")}, got ${name}`);
    const count = place.shape.reduce((a, b) => a * b, 1);
    place.address ||= this.library.allocate(Math.max(1, count * TYPES[place.dtype].BYTES_PER_ELEMENT));
    return place.address;
  }

  // An argument's elements. A view of the memory: take it anew after anything that allocates.
  array(name) {
    const address = this.address(name), { dtype, shape } = this.places.get(name);
    return new TYPES[dtype](this.library.memory.buffer, address, shape.reduce((a, b) => a * b, 1));
  }

  set(name, values) {
    this.array(name).set(values);
    return this;
  }

  // Runs it, after setting these inputs; gives the entry.
  call(inputs = {}) {
    for (const [name, values] of Object.entries(inputs)) this.set(name, values);
    const { info, library } = this;
    const addresses = [...info.inputs, ...info.outputs].map((argument) => this.address(argument.name));
    new Uint32Array(library.memory.buffer, this.pointers, addresses.length).set(addresses);
    const status = library.functions[`${info.name}_run`](this.pointers, this.pointers + 4 * info.inputs.length, library.workspace, 0);
    if (status) throw new Error(`${info.name}: ${library.strerror(status)}`);
    return this;
  }
}
