// What `petiole export` and `OnnxPool` write, in the browser: onnxruntime-web computes, this reads the files around it.

import * as ort from "onnxruntime-web";

const bytesOf = async (address) => {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
};
const jsonOf = async (address) => JSON.parse(new TextDecoder().decode(await bytesOf(address)));

/** An image as the model takes it: (1, height, width, 3) in uint8, for a graph that was exported with --preprocess. */
export function imageTensor({ data, width, height }) {
  const rgb = new Uint8Array(width * height * 3);
  for (let i = 0; i < width * height; i++) rgb.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  return new ort.Tensor("uint8", rgb, [1, height, width, 3]);
}

/** The folder of `petiole export --format onnx --preprocess`. */
export class Classifier {
  static async open(folder) {
    const about = await jsonOf(`${folder}/export.json`);
    if (about.reads !== "images") throw new Error("Export it with --preprocess.");
    const session = await ort.InferenceSession.create(await bytesOf(`${folder}/model.onnx`));
    return Object.assign(new Classifier(), { about, session });
  }

  /** Label, probability and probabilities of ImageData; whether it looks out of distribution, null where that is not known. */
  async predict(image) {
    const { logits, vector } = await this.session.run({ images: imageTensor(image) });
    const known = this.about.calibration;
    const p = softmax(logits.data, known?.temperature ?? 1);
    const order = [...p.keys()].sort((a, b) => p[b] - p[a]);
    const names = order.map((i) => [this.about.classes[i], p[i]]);
    return {
      label: names[0][0],
      probability: names[0][1],
      probabilities: Object.fromEntries(names),
      outside: known && outside(logits.data, vector.data, known),
    };
  }
}

function softmax(z, temperature) {
  const top = Math.max(...z);
  const e = Array.from(z, (value) => Math.exp((value - top) / temperature));
  const sum = e.reduce((a, b) => a + b);
  return e.map((value) => value / sum);
}

/** By the cosine to the nearest class mean; where there are none, by the largest logit. */
function outside(logits, vector, { novelty, ood_threshold: least }) {
  if (!novelty) return least === null ? null : Math.max(...logits) < least;
  const raw = Uint8Array.from(atob(novelty.means), (c) => c.charCodeAt(0));
  const halves = new DataView(raw.buffer);
  const length = Math.hypot(...vector);
  let nearest = -1;
  for (let row = 0; row < raw.length / 2; row += novelty.width) {
    let cosine = 0;
    for (let i = 0; i < novelty.width; i++) {
      cosine += half(halves.getUint16(2 * (row + i), true)) * (vector[i] / length);
    }
    nearest = Math.max(nearest, cosine);
  }
  return nearest < novelty.threshold;
}

/** A 16-bit float; class means have no infinities. */
function half(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  return bits >> 15 ? -size : size;
}

/** The folder of `OnnxPool.create`: one session, and an adapter put into it from call to call. */
export class Pool {
  static async open(folder) {
    const about = await jsonOf(`${folder}/backbone.json`);
    const [graph, defaults] = openInputs(await bytesOf(`${folder}/backbone.onnx`));
    const session = await ort.InferenceSession.create(graph);
    return Object.assign(new Pool(), { folder, about, session, defaults, adapters: {} });
  }

  async add(name) {
    const entry = await jsonOf(`${this.folder}/adapters/${name}.json`);
    if (entry.fingerprint !== this.about.fingerprint) throw new Error(`${name} is for another backbone.`);
    const values = readAdapter(await bytesOf(`${this.folder}/adapters/${name}.onnx_adapter`));
    const head = `${name}.head.onnx` in entry.files
      ? await ort.InferenceSession.create(await bytesOf(`${this.folder}/adapters/${name}.head.onnx`))
      : null;
    this.adapters[name] = { entry, values, head };
  }

  /** Logits and vector of pixels (B, 3, H, W) in fp32, prepared as backbone.json says. */
  async run(pixels, dims, name) {
    const { values, head } = this.adapters[name];
    const given = { pixels: new ort.Tensor("float32", pixels, dims), ...this.defaults, ...values };
    const { logits, vector } = await this.session.run(given);
    return { vector, logits: head ? (await head.run({ vector })).logits : logits };
  }
}

// onnxruntime-web takes no value for an input that has a default. So the defaults are taken out of the graph, and given
// by hand. An ONNX file is a protobuf: ModelProto.graph is field 7, GraphProto.initializer 5 and .input 11; a TensorProto has
// dims 1, name 8 and raw_data 9.

/** A graph without the defaults of its inputs, and these as tensors. */
function openInputs(model) {
  const graph = fields(model).find(({ field }) => field === 7);
  const parts = fields(graph.value);
  const text = (value) => new TextDecoder().decode(value);
  const nameIn = (message, field) => text(fields(message).find((one) => one.field === field).value);
  const inputs = new Set(parts.filter((one) => one.field === 11).map((one) => nameIn(one.value, 1)));
  const defaults = {};
  const kept = parts.filter(({ field, value }) => {
    if (field !== 5 || !inputs.has(nameIn(value, 8))) return true;
    const tensor = fields(value);
    const dims = tensor.filter((one) => one.field === 1).flatMap(({ value: v }) => (typeof v === "number" ? [v] : varints(v)));
    const size = dims.reduce((a, b) => a * b, 1);
    defaults[nameIn(value, 8)] = new ort.Tensor("float32", new Float32Array(size), dims);
    return false;
  });
  const body = joined(kept.map(({ start, end }) => graph.value.subarray(start, end)));
  const head = Uint8Array.from([(7 << 3) | 2, ...varint(body.length)]);
  return [joined([model.subarray(0, graph.start), head, body, model.subarray(graph.end)]), defaults];
}

/** Fields of a protobuf message: number, value (bytes, or a number), and where each begins and ends. */
function fields(message) {
  const found = [];
  for (let at = 0; at < message.length; ) {
    const start = at;
    let key, value;
    [key, at] = readVarint(message, at);
    if ((key & 7) === 0) [value, at] = readVarint(message, at);
    else {
      let length = { 1: 8, 5: 4 }[key & 7];
      if (!length) [length, at] = readVarint(message, at);
      value = message.subarray(at, (at += length));
    }
    found.push({ field: key >>> 3, value, start, end: at });
  }
  return found;
}

function readVarint(bytes, at) {
  let value = 0, place = 1, byte;
  do {
    byte = bytes[at++];
    value += (byte & 127) * place;
    place *= 128;
  } while (byte & 128);
  return [value, at];
}

function varints(bytes) {
  const found = [];
  for (let at = 0, value; at < bytes.length; ) {
    [value, at] = readVarint(bytes, at);
    found.push(value);
  }
  return found;
}

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return [...bytes, value];
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/**
 * Values by name of an .onnx_adapter, ONNX Runtime's own format. It is a flatbuffer: table Adapter {format_version, adapter_version,
 * model_version, parameters}, table Parameter {name, dims, data_type, raw_data}.
 */
export function readAdapter(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const follow = (at) => at + view.getUint32(at, true);
  const field = (table, index) => {
    const vtable = table - view.getInt32(table, true);
    const place = 4 + 2 * index;
    const offset = place < view.getUint16(vtable, true) ? view.getUint16(vtable + place, true) : 0;
    return offset ? table + offset : null;
  };
  const vector = (at) => [follow(at) + 4, view.getUint32(follow(at), true)];
  if (new TextDecoder().decode(bytes.subarray(4, 8)) !== "TORT") throw new Error("This is no .onnx_adapter.");
  const [first, count] = vector(field(follow(0), 3));
  const found = {};
  for (let i = 0; i < count; i++) {
    const one = follow(first + 4 * i);
    const [nameAt, nameLength] = vector(field(one, 0));
    const [dimsAt, dimsCount] = vector(field(one, 1));
    const [rawAt, rawLength] = vector(field(one, 3));
    if (view.getInt32(field(one, 2), true) !== 1) throw new Error("Only fp32 is read.");
    const dims = Array.from({ length: dimsCount }, (_, d) => Number(view.getBigInt64(dimsAt + 8 * d, true)));
    const name = new TextDecoder().decode(bytes.subarray(nameAt, nameAt + nameLength));
    found[name] = new ort.Tensor("float32", new Float32Array(bytes.slice(rawAt, rawAt + rawLength).buffer), dims);
  }
  return found;
}
