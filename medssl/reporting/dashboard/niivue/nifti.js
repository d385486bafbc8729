// The voxels of a NIfTI that the dashboard made: int16 or uint8, little-endian, x fastest.

const HEADER_BYTES = 352;
const INT16 = 4;
const SAMPLED = 200000;
const SHARES = [[0.005, 0.995], [0.02, 0.98], [0.05, 0.95], [0.25, 0.995]];

export function voxelsOf(buffer) {
  const header = new DataView(buffer);
  const shape = [1, 2, 3].map((axis) => header.getInt16(40 + 2 * axis, true));
  const spacing = [1, 2, 3].map((axis) => header.getFloat32(76 + 4 * axis, true)); // mm
  const slope = header.getFloat32(112, true) || 1;
  const count = shape[0] * shape[1] * shape[2];
  const values = header.getInt16(70, true) === INT16 ? new Int16Array(buffer, HEADER_BYTES) : new Uint8Array(buffer, HEADER_BYTES);
  const index = (x, y, z) => x + shape[0] * (y + shape[1] * z);
  const at = (x, y, z, frame = 0) => values[index(x, y, z) + frame * count] * slope;
  return { shape, spacing, count, slope, values, index, at };
}

// Windows from percentiles of the voxels above zero, from a regular sample of them; the full range of the scale first.
export function percentiles({ values, slope }) {
  const step = Math.max(1, Math.floor(values.length / SAMPLED));
  const sample = [];
  for (let place = 0; place < values.length; place += step) if (values[place] > 0) sample.push(values[place]);
  if (!sample.length) return [{ name: "scale 0 to 1", low: 0, high: 1 }];
  const sorted = Int16Array.from(sample).sort();
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] * slope;
  const named = SHARES.map(([low, high]) => ({ name: `${100 * low} to ${100 * high}%`, low: at(low), high: at(high) }));
  return [{ name: "scale 0 to 1", low: 0, high: 1 }, ...named.filter(({ low, high }) => high > low)];
}
