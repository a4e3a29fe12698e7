// The networks and digits that book/lab.py put beside this script, ready to compute.

import { start, unpack, unzip } from "./network.js";
import kernels from "./kernels.gz";
import manifest from "./manifest.json";
import numbers from "./numbers.gz";

export async function load() {
  await start(await unzip(kernels));
  return unpack(manifest, await unzip(numbers));
}
