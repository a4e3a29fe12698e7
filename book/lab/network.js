// The networks of the series, in the page: their weights, their logits, their gradients and their certificates.
//
// The layers are those of advutils/models.py. Images are arrays of grey levels in [0, 1], 784 for each image, one image
// after the other. TensorFlow.js differentiates; its kernels are WebAssembly, which runs on any processor.

import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-core/dist/register_all_gradients.js";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";

export const SIDE = 28, PIXELS = SIDE * SIDE, CLASSES = 10;

/** Start the WebAssembly kernels from their bytes: nothing is loaded, so the page may be a file. */
export async function start(kernels) {
  const address = URL.createObjectURL(new Blob([kernels], { type: "application/wasm" }));
  const names = ["tfjs-backend-wasm.wasm", "tfjs-backend-wasm-simd.wasm", "tfjs-backend-wasm-threaded-simd.wasm"];
  setWasmPaths(Object.fromEntries(names.map((name) => [name, address])));
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // threads need a server that says so
  if (!(await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT"))) throw new Error("this browser lacks WebAssembly SIMD");
  await tf.setBackend("wasm");
  URL.revokeObjectURL(address);
}

/** The largest of each 2x2 window. Of equal ones the first has the gradient: black ground is full of them. */
function pool(x) {
  const [n, high, wide, channels] = x.shape;
  const larger = (values) => {
    const [first, second] = tf.unstack(values, 1);
    return tf.maximum(first, second);
  };
  const columns = larger(tf.reshape(x, [(n * high * wide) / 2, 2, channels]));
  const rows = larger(tf.reshape(columns, [(n * high) / 2, 2, (wide / 2) * channels]));
  return tf.reshape(rows, [n, high / 2, wide / 2, channels]);
}

const flat = (x) => tf.reshape(x.rank === 4 ? tf.transpose(x, [0, 3, 1, 2]) : x, [x.shape[0], -1]); // channels first
const around = (x, [top, bottom, left, right]) => tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]]);
const convolve = (x, weight, layer) => tf.conv2d(x, weight, layer.stride, layer.padding);

const FORWARD = {
  pad: (x, layer) => around(x, layer.by),
  normalize: (x, layer) => tf.div(tf.sub(x, layer.mean), layer.std),
  contrast: (x, layer) => tf.tanh(tf.mul(tf.sub(x, 0.5), layer.slope)),
  conv: (x, layer) => tf.add(convolve(x, layer.weight, layer), layer.bias),
  linear: (x, layer) => tf.add(tf.matMul(x, layer.weight), layer.bias),
  relu: (x) => tf.relu(x),
  pool,
  flatten: flat,
};

/** A layer's rule for a box of inputs, given and returned as centre and radius: see advutils/certify.py. */
const INTERVAL = {
  pad: ([c, r], layer) => [around(c, layer.by), around(r, layer.by)],
  normalize: ([c, r], layer) => [FORWARD.normalize(c, layer), tf.div(r, layer.std)],
  contrast: (box, layer) => monotone((end) => FORWARD.contrast(end, layer), box),
  conv: ([c, r], layer) => [FORWARD.conv(c, layer), convolve(r, tf.abs(layer.weight), layer)],
  linear: ([c, r], layer) => [FORWARD.linear(c, layer), tf.matMul(r, tf.abs(layer.weight))],
  relu: (box) => monotone(tf.relu, box),
  pool: (box) => monotone(pool, box),
  flatten: ([c, r]) => [flat(c), flat(r)],
};

function monotone(layer, [c, r]) {
  const lower = layer(tf.sub(c, r)), upper = layer(tf.add(c, r));
  return [tf.div(tf.add(upper, lower), 2), tf.div(tf.sub(upper, lower), 2)];
}

export class Network {
  /** `about` is an entry of the manifest that book/lab.py writes; `take(kind, count)` the next of its numbers. */
  constructor(about, take) {
    Object.assign(this, { label: about.label, certified: about.certified });
    this.layers = about.layers.map((layer) => (layer.shape ? loaded(layer, take) : layer));
  }

  /** The logits of n images, as n * 10 numbers. */
  logits(x) {
    return tf.tidy(() => this.#forward(batch(x)).dataSync());
  }

  /**
   * Of each of n images, the direction of the gradient of a class's cross-entropy with respect to its pixels.
   *
   * With lead = logsumexp(all other logits) - (that class's logit), the cross-entropy is log(1 + exp(lead)): both rise
   * in the same direction. In single precision only that of lead is exact where the class has nearly all probability.
   */
  gradient(x, classes) {
    return tf.tidy(() => {
      const wanted = tf.cast(tf.oneHot(tf.tensor1d(classes, "int32"), CLASSES), "float32");
      const lead = (z) => tf.sub(tf.logSumExp(tf.sub(z, tf.mul(wanted, 1e9)), 1), tf.sum(tf.mul(wanted, z), 1));
      return tf.grad((images) => tf.sum(lead(this.#forward(images))))(batch(x)).dataSync();
    });
  }

  /** For each radius, a lower bound of the margin of class y over every image within that radius of x. */
  marginBounds(x, y, radii) {
    return tf.tidy(() => {
      const image = batch(x), eps = tf.reshape(tf.tensor1d(radii), [-1, 1, 1, 1]);
      const lower = tf.maximum(tf.sub(image, eps), 0), upper = tf.minimum(tf.add(image, eps), 1);
      let box = monotone((end) => end, [tf.div(tf.add(upper, lower), 2), tf.div(tf.sub(upper, lower), 2)]);
      for (const layer of this.layers.slice(0, -1)) box = INTERVAL[layer.kind](box, layer);
      return lead(box, this.layers.at(-1), y);
    });
  }

  /** The radius up to which every image is read as y, at most 1/4096 too small: two rounds of 64 radii. */
  certifiedRadius(x, y) {
    let radius = 0;
    for (const step of [1 / 64, 1 / 4096]) {
      const radii = Array.from({ length: 64 }, (_, k) => radius + (k + 1) * step);
      const bounds = this.marginBounds(x, y, radii), fails = [...bounds].findIndex((bound) => bound <= ROUNDING);
      radius += step * (fails < 0 ? 64 : fails);
    }
    return Math.min(radius, 1);
  }

  #forward(x) {
    return this.layers.reduce((values, layer) => FORWARD[layer.kind](values, layer), x);
  }
}

const ROUNDING = 1e-4; // of a bound, as a rule; certified_radius in the package allows for all that there can be
const batch = (x) => tf.tensor4d(x, [x.length / PIXELS, SIDE, SIDE, 1]);

/** The last layer, of the differences of logits: what raises both of two logits cancels before the bound is taken. */
function lead([c, r], last, y) {
  const own = tf.gather(last.weight, [y], 1), differences = tf.sub(own, last.weight);
  const middle = tf.add(tf.matMul(c, differences), tf.sub(tf.gather(last.bias, [y]), last.bias));
  const bounds = tf.sub(middle, tf.matMul(r, tf.abs(differences)));
  const others = tf.add(bounds, tf.mul(tf.oneHot(tf.scalar(y, "int32"), CLASSES), 1e9));
  return tf.min(others, 1).dataSync();
}

/** A layer with its weights, times a scale for each output; channels last. */
function loaded(layer, take) {
  const count = layer.shape.reduce((a, b) => a * b), out = layer.shape[0], each = count / out;
  const values = take(layer.packed ? "wholes" : "floats", count);
  const scale = take("floats", out), bias = take("floats", out);
  const weight = Float32Array.from(values, (value, at) => value * scale[Math.floor(at / each)]);
  const order = layer.kind === "conv" ? [2, 3, 1, 0] : [1, 0];
  const tensor = tf.tidy(() => tf.transpose(tf.tensor(weight, layer.shape), order));
  return { ...layer, weight: tensor, bias: tf.tensor1d(bias.slice()) };
}

/** The networks and digits that book/lab.py packed: a manifest, and its numbers one kind after the other. */
export function unpack(manifest, bytes) {
  const { wholes, floats } = manifest, middle = 2 * wholes, end = middle + 4 * floats;
  const numbers = {
    wholes: new Int16Array(bytes.buffer, 0, wholes),
    floats: new Float32Array(bytes.buffer, middle, floats),
  };
  const at = { wholes: 0, floats: 0 };
  const take = (kind, count) => numbers[kind].subarray(at[kind], (at[kind] += count));
  const networks = manifest.networks.map((about) => new Network(about, take));
  const digits = manifest.labels.map((y, i) => {
    const levels = bytes.subarray(end + i * PIXELS, end + (i + 1) * PIXELS);
    return { y, x: Float32Array.from(levels, (level) => level / 255) };
  });
  return { networks, digits };
}

/** Bytes that gzip made smaller. */
export async function unzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
