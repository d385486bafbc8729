// What is drawn over a scan: the colours of filled structures, outlines as lines along the borders of voxels, and a scale.

const LENGTHS_MM = [200, 100, 50, 20, 10, 5, 2, 1];

// The colours of the structures, as niivue takes them: those that are not filled cannot be seen.
export function lookup(structures, modes) {
  const colours = structures.map(({ colour }) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16)));
  const channel = (place) => [0, ...colours.map((colour) => colour[place])];
  const shown = structures.map(({ value }) => ((modes[value] ?? "filled") === "filled" ? 255 : 0));
  return { R: channel(0), G: channel(1), B: channel(2), A: [0, ...shown], I: [0, ...structures.map(({ value }) => value)] };
}

// The outlines in one slice: colour -> Path2D, in voxels along the two axes of the slice, from the corner of its first one.
//
// labels: voxels, x fastest; axis and index: the slice; colours: structure -> colour of its outline.
export function outlines(labels, shape, axis, index, colours) {
  const strides = [1, shape[0], shape[0] * shape[1]];
  const [across, up] = [0, 1, 2].filter((each) => each !== axis);
  const paths = {};
  const at = (u, v) =>
    u < 0 || v < 0 || u >= shape[across] || v >= shape[up] ? 0 : labels[index * strides[axis] + u * strides[across] + v * strides[up]];
  const line = (one, other, ...ends) => {
    if (one === other) return;
    for (const label of [one, other]) {
      if (!colours[label]) continue;
      const path = (paths[colours[label]] ??= new Path2D());
      path.moveTo(ends[0], ends[1]);
      path.lineTo(ends[2], ends[3]);
    }
  };
  for (let v = 0; v <= shape[up]; v++) {
    for (let u = 0; u <= shape[across]; u++) {
      line(at(u - 1, v), at(u, v), u, v, u, v + 1);
      line(at(u, v - 1), at(u, v), u, v, u + 1, v);
    }
  }
  return paths;
}

// The matrix from voxels of a slice, as `outlines` counts them, to pixels of the canvas.
export function placed(nv, tile, shape, axis) {
  const [left, top, width, height] = nv.screenSlices[tile].leftTopWidthHeight;
  const [across, up] = [0, 1, 2].filter((each) => each !== axis);
  const voxel = (x, y) => {
    const share = nv.screenXY2TextureFrac(x, y, tile, false);
    return [share[across] * shape[across], share[up] * shape[up]];
  };
  const [x, y] = [left + width / 4, top + height / 4]; // inside: niivue knows no place beyond the edge of a tile
  const [first, right, below] = [voxel(x, y), voxel(x + width / 2, y), voxel(x, y + height / 2)];
  const columns = [0, 1].map((place) => (2 * (right[place] - first[place])) / width);
  const rows = [0, 1].map((place) => (2 * (below[place] - first[place])) / height);
  const pixels = new DOMMatrix([...columns, ...rows, ...[0, 1].map((n) => first[n] - columns[n] * x - rows[n] * y)]);
  return pixels.inverse();
}

// A bar of a round length at the foot of a tile; pixels: of one mm.
export function scale(pen, [left, top, width, height], pixels, dpr) {
  const length = LENGTHS_MM.find((mm) => mm * pixels < Math.abs(width) / 3);
  if (!length) return;
  const [x, y] = [Math.min(left, left + width) + 10 * dpr, top + height - 10 * dpr];
  pen.fillStyle = pen.strokeStyle = "#f2f2f2";
  pen.lineWidth = 2 * dpr;
  pen.beginPath();
  pen.moveTo(x, y - 3 * dpr);
  pen.lineTo(x, y);
  pen.lineTo(x + length * pixels, y);
  pen.lineTo(x + length * pixels, y - 3 * dpr);
  pen.stroke();
  pen.font = `${11 * dpr}px sans-serif`;
  pen.fillText(`${length} mm`, x + 3 * dpr, y - 5 * dpr);
}
