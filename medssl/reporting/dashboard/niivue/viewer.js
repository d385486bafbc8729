// The viewer of volumes: niivue in up to three linked views of one scan, each with a mask of its own.
//
// Streamlit calls the default export with the data of medssl/reporting/volume_viewer.py, again whenever they change. Scrolling,
// windows, opacity, outlines and linking stay here; Python hears of the voxel in view and of a missing WebGL alone.

import "./niivue.umd.js"; // sets globalThis.niivue
import { build, heading, say } from "./controls.js";
import { lookup, outlines, placed, scale } from "./masks.js";
import { percentiles, voxelsOf } from "./nifti.js";

const { Niivue, NVImage, SLICE_TYPE, MULTIPLANAR_TYPE, SHOW_RENDER, DRAG_MODE } = globalThis.niivue;
const LAYOUTS = {
  planes: SLICE_TYPE.MULTIPLANAR,
  axial: SLICE_TYPE.AXIAL,
  coronal: SLICE_TYPE.CORONAL,
  sagittal: SLICE_TYPE.SAGITTAL,
  "3D": SLICE_TYPE.RENDER,
};
const AXES = { axial: 2, coronal: 1, sagittal: 0 }; // through which a plane's slices are counted
const MOST_VOXELS = 32e6; // up to which all views open at once: each holds four bytes a voxel on the graphics card
const MOST_BYTES = 600e6; // of volumes that are kept, so that the last cases open again at once
const SETTLE_MS = 400; // after which a voxel in view is reported
const buffers = new Map(); // address -> promise of an ArrayBuffer, the one used last at the end
const viewers = new WeakMap(); // parent -> Viewer
// What a reader has set, for every case of this browser tab.
const settings = { layout: "planes", window: null, opacity: 0.35, outline: true, radiological: true, linked: true, modes: {} };

export default function (component) {
  const parent = component.parentElement;
  if (!document.createElement("canvas").getContext("webgl2")) {
    component.setStateValue("webgl", false);
    return;
  }
  let viewer = viewers.get(parent);
  if (!viewer) viewers.set(parent, (viewer = new Viewer(parent)));
  viewer.report = (voxel) => component.setStateValue("voxel", voxel);
  viewer.show(component.data).catch((error) => say(viewer.root, `The scan cannot be shown: ${error.message}`, "alert"));
  return () => {
    viewer.close();
    viewers.delete(parent);
  };
}

class Viewer {
  constructor(parent) {
    this.root = document.createElement("div");
    this.root.className = "viewer";
    this.root.tabIndex = 0;
    parent.appendChild(this.root);
    this.views = [];
    this.data = null;
    this.reported = null;
    this.root.addEventListener("keydown", (event) => this.key(event), true);
    this.root.addEventListener("pointerenter", () => {
      if (document.activeElement === document.body) this.root.focus({ preventScroll: true }); // never out of another control
    });
    this.opened = 0;
  }

  // Show a scan, or move to the voxel that the address states (after Back, or by a link).
  async show(data) {
    const same = this.data && this.data.image === data.image && JSON.stringify(this.data.views) === JSON.stringify(data.views);
    if (same) {
      if (String(data.voxel) !== String(this.data.voxel) && String(data.voxel) !== String(this.reported)) this.go(data.voxel);
      this.data.voxel = data.voxel;
      return;
    }
    const opened = ++this.opened;
    const started = performance.now();
    const image = await this.fetch(data.image, "scan");
    const masks = await Promise.all([data.reference, ...data.views.map((view) => view.mask)].map((at) => at && this.fetch(at, "mask")));
    if (opened !== this.opened) return; // another case was chosen in the meantime
    this.data = data;
    await this.keep();
    this.image = await NVImage.new(image, "scan.nii", "gray", 1);
    this.voxels = voxelsOf(image);
    this.reference = masks[0] && voxelsOf(masks[0]).values;
    this.masks = masks.slice(1);
    this.presets = data.presets.length ? data.presets : percentiles(this.voxels);
    if (!this.presets.some((preset) => preset.name === settings.window)) settings.window = this.presets[0].name;
    this.range = this.presets.find((preset) => preset.name === settings.window);
    const many = this.voxels.count > MOST_VOXELS;
    this.visible = data.views.map((_, place) => !many || place === 0);
    for (const view of this.views) view.shown = false;
    build(this, settings, Object.keys(LAYOUTS));
    await this.arrange();
    this.go(data.voxel);
    this.root.dataset.openedOf = data.image; // for tests and the benchmark, as is the next
    this.root.dataset.opened = String(Math.round(performance.now() - started)); // milliseconds
    say(this.root, many ? "A large scan: the other views open when you tick them." : "");
  }

  // Fetch a volume once; it is kept under its address, which is a digest.
  fetch(address, what) {
    const kept = buffers.get(address) ?? this.load(address, what);
    kept.catch(() => buffers.delete(address));
    buffers.delete(address);
    buffers.set(address, kept);
    return kept;
  }

  async load(address, what) {
    const answer = await fetch(new URL(address, this.base()), { credentials: "same-origin" });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const size = Number(answer.headers.get("x-volume-bytes"));
    const whole = new Uint8Array(size);
    let got = 0;
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      whole.set(value, got);
      got += value.length;
      say(this.root, `Loading the ${what}: ${Math.round((100 * got) / size)}%`);
    }
    if (got !== size) throw new Error(`${got} of ${size} bytes of the ${what} arrived: load the page again`);
    return whole.buffer;
  }

  // The address of the dashboard itself, also where it runs below a prefix.
  base() {
    return new URL(import.meta.url.split("_stcore/")[0]);
  }

  // Forget the volumes that were used longest ago.
  async keep() {
    let bytes = 0;
    for (const [address, kept] of [...buffers].reverse()) {
      bytes += (await kept).byteLength;
      if (bytes > MOST_BYTES && !this.shows(address)) buffers.delete(address);
    }
  }

  shows(address) {
    return [this.data.image, this.data.reference, ...this.data.views.map((view) => view.mask)].includes(address);
  }

  // Open and close views, and lay them out: three planes of a view in a row, or one plane of all views beside each other.
  async arrange() {
    this.grid.className = `grid ${settings.layout === "planes" ? "rows" : "columns"}`;
    for (const [place, about] of this.data.views.entries()) {
      if (this.views[place]) this.views[place].figure.hidden = !this.visible[place];
      if (!this.visible[place]) continue;
      const view = (this.views[place] ??= await this.open(place));
      heading(view.caption, about);
      view.nv.resizeListener();
      if (!view.shown) await this.fill(view, place);
    }
    this.views.slice(this.data.views.length).forEach((view) => (view.figure.hidden = true));
    this.draw();
  }

  async open(place) {
    const figure = document.createElement("figure");
    figure.style.order = place;
    const frame = figure.appendChild(document.createElement("div"));
    frame.className = "frame";
    const canvas = frame.appendChild(document.createElement("canvas"));
    const lines = frame.appendChild(document.createElement("canvas"));
    lines.className = "lines";
    const caption = figure.appendChild(document.createElement("figcaption"));
    this.grid.appendChild(figure);
    const nv = new Niivue({
      logLevel: "error",
      loadingText: "",
      isRadiologicalConvention: settings.radiological,
      multiplanarLayout: MULTIPLANAR_TYPE.ROW,
      multiplanarShowRender: SHOW_RENDER.NEVER,
      multiplanarPadPixels: 4,
      crosshairWidth: 0.5,
      showAllOrientationMarkers: true,
      crosshairWidthUnit: "percent",
      crosshairColor: [0.34, 0.71, 0.91, 0.8],
      fontColor: [0.95, 0.95, 0.95, 1],
      fontMinPx: 12,
      invertScrollDirection: true, // the wheel upwards goes to the head, as the key does
      isForceMouseClickToVoxelCenters: true, // so that value and place are those of one voxel
      dragAndDropEnabled: false,
      isAntiAlias: false,
      dragMode: DRAG_MODE.none,
      clipPlaneHotKey: "",
      cycleClipPlaneHotKey: "",
      viewModeHotKey: "",
    });
    nv.setMouseEventConfig({
      leftButton: { primary: DRAG_MODE.crosshair, withShift: DRAG_MODE.none, withCtrl: DRAG_MODE.pan },
      rightButton: DRAG_MODE.none,
      centerButton: DRAG_MODE.pan,
    });
    const view = { nv, figure, canvas, lines, caption, shown: false, drawn: {} };
    const scene = nv.drawScene.bind(nv);
    nv.drawScene = () => {
      scene();
      this.annotate(view);
    };
    nv.onLocationChange = (location) => this.located(view, location);
    this.pointer(view);
    await nv.attachToCanvas(canvas, false);
    withoutGradients(nv);
    return view;
  }

  // Give a view the scan and its mask.
  async fill(view, place) {
    const { nv } = view;
    nv.volumes = [this.image];
    view.mask = null;
    if (this.masks[place]) {
      view.labels = voxelsOf(this.masks[place]).values;
      view.mask = await NVImage.new(this.masks[place], "mask.nii", "gray", 1);
      nv.volumes.push(view.mask);
    }
    view.place = place;
    view.drawn = {};
    this.label(view);
    this.image.cal_min = this.range.low;
    this.image.cal_max = this.range.high;
    nv.back = nv.volumes[0];
    nv.overlays = nv.volumes.slice(1);
    nv.opts.sliceType = LAYOUTS[settings.layout];
    nv.opts.isRadiologicalConvention = settings.radiological;
    nv.scene.pan2Dxyzmm = Float32Array.from([0, 0, 0, 1]);
    nv.updateGLVolume();
    view.shown = true;
  }

  label(view) {
    if (!view.mask) return;
    view.mask.setColormapLabel(lookup(this.data.structures, settings.modes));
    view.mask.opacity = settings.opacity;
  }

  // Over a view that was drawn: a scale, structures that are not filled, and the outline of the reference over a prediction.
  annotate(view) {
    const { lines, nv, canvas } = view;
    if (lines.width !== canvas.width || lines.height !== canvas.height) Object.assign(lines, { width: canvas.width, height: canvas.height });
    const pen = lines.getContext("2d");
    pen.clearRect(0, 0, lines.width, lines.height);
    if (!view.shown) return;
    for (const [tile, { axCorSag, leftTopWidthHeight }] of nv.screenSlices.entries()) {
      if (axCorSag > SLICE_TYPE.SAGITTAL) continue;
      const axis = [2, 1, 0][axCorSag];
      const matrix = placed(nv, tile, this.voxels.shape, axis);
      pen.save();
      pen.beginPath();
      pen.rect(...leftTopWidthHeight);
      pen.clip();
      pen.lineWidth = 1.5 * nv.uiData.dpr;
      for (const [colour, path] of Object.entries(view.mask ? this.paths(view, axis) : {})) {
        const there = new Path2D();
        there.addPath(path, matrix);
        pen.strokeStyle = colour;
        pen.stroke(there);
      }
      scale(pen, leftTopWidthHeight, Math.abs(matrix.a) / this.voxels.spacing[axis === 0 ? 1 : 0], nv.uiData.dpr);
      pen.restore();
    }
  }

  // The outlines of the slice in view, kept until it changes.
  paths(view, axis) {
    const index = Math.round(view.nv.frac2vox(view.nv.scene.crosshairPos)[axis]);
    const reference = this.data.views[view.place].outlined && settings.outline;
    const state = [index, reference, JSON.stringify(settings.modes)].join();
    if (view.drawn[axis]?.state === state) return view.drawn[axis].paths;
    const own = {};
    for (const { value, colour } of this.data.structures) if (settings.modes[value] === "outlined") own[value] = colour;
    const cut = (labels, colours) => outlines(labels, this.voxels.shape, axis, index, colours);
    const paths = Object.keys(own).length ? cut(view.labels, own) : {};
    const visible = this.data.structures.filter(({ value }) => settings.modes[value] !== "hidden");
    if (reference) Object.assign(paths, cut(this.reference, Object.fromEntries(visible.map(({ value }) => [value, this.data.outline]))));
    view.drawn[axis] = { state, paths };
    return paths;
  }

  shown() {
    return this.views.filter((view, place) => view.shown && this.visible[place]);
  }

  draw() {
    for (const { nv } of this.shown()) {
      nv.opts.sliceType = LAYOUTS[settings.layout];
      nv.opts.isRadiologicalConvention = settings.radiological;
      nv.drawScene();
    }
  }

  // Masks anew: another opacity, or structures filled, outlined or hidden.
  mark() {
    for (const view of this.shown().filter((view) => view.mask)) {
      this.label(view);
      view.nv.refreshLayers(view.mask, 1);
      view.nv.drawScene();
    }
  }

  // Grey values anew, in all views.
  window(low, high) {
    this.range = { ...this.range, low, high };
    this.image.cal_min = low;
    this.image.cal_max = high;
    for (const { nv } of this.shown()) {
      nv.refreshLayers(this.image, 0);
      nv.drawScene();
    }
    this.windowText.textContent = `${number((low + high) / 2)} / ${number(high - low)}${this.data.unit}`;
  }

  preset(name) {
    const preset = this.presets.find((each) => each.name === name);
    settings.window = name;
    this.range = preset;
    this.window(preset.low, preset.high);
  }

  layout(name) {
    settings.layout = name;
    this.arrange();
  }

  toggleView(place, on) {
    this.visible[place] = on;
    this.arrange().then(() => this.go(this.at));
  }

  frame(number_) {
    for (const { nv } of this.shown()) {
      nv.setFrame4D(this.image.id, number_);
      nv.updateGLVolume();
    }
  }

  zoom(factor) {
    for (const view of settings.linked ? this.shown() : [this.active ?? this.shown()[0]]) {
      const { nv } = view;
      if (settings.layout === "3D") {
        nv.setScale(Math.min(10, Math.max(0.2, nv.scene.volScaleMultiplier * factor)));
        continue;
      }
      const pan = nv.scene.pan2Dxyzmm;
      const zoom = factor ? Math.min(20, Math.max(0.2, pan[3] * factor)) : 1;
      const mm = nv.frac2mm(nv.scene.crosshairPos);
      const moved = factor ? [0, 1, 2].map((axis) => pan[axis] - (zoom - pan[3]) * mm[axis]) : [0, 0, 0];
      nv.setPan2Dxyzmm(Float32Array.from([...moved, zoom]));
    }
  }

  go(voxel) {
    for (const { nv } of this.shown()) {
      nv.scene.crosshairPos = nv.vox2frac(voxel);
      nv.drawScene();
    }
    this.shown()[0]?.nv.createOnLocationChange();
  }

  // Through the slices of the plane under the pointer, or of the plane that is shown.
  scroll(steps) {
    const view = this.active ?? this.shown()[0];
    const move = [0, 0, 0];
    move[AXES[settings.layout] ?? this.axis ?? 2] = steps;
    view.nv.moveCrosshairInVox(...move);
  }

  // The crosshair of a view has moved: the others follow, and the values stand below.
  located(view, location) {
    if (this.following || !this.data) return;
    this.at = Array.from(location.vox, Math.round);
    if (settings.linked) {
      this.following = true;
      for (const other of this.shown()) {
        if (other === view) continue;
        view.nv.doSync2d(other.nv);
        view.nv.doSync3d(other.nv);
        other.nv.drawScene();
      }
      this.following = false;
    }
    const [x, y, z] = location.mm;
    const value = this.voxels.at(...this.at, this.image.frame4D);
    const named = this.data.structures;
    const marks = this.shown().map((each) => {
      const label = each.labels && each.mask ? each.labels[this.voxels.index(...this.at)] : null;
      const name = label === null ? "no mask" : label ? (named.find((s) => s.value === label)?.name ?? label) : "–";
      return `${this.data.views[each.place].short}: ${name}`;
    });
    const side = (mm, low, high) => `${mm < 0 ? low : high} ${Math.abs(mm).toFixed(1)}`;
    const place = `${side(x, "L", "R")} ${side(y, "P", "A")} ${side(z, "I", "S")} mm`;
    this.status.textContent = `${number(value)}${this.data.unit} at ${place} · voxel ${this.at.join(", ")} · ${marks.join(" · ")}`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.tell(), SETTLE_MS);
  }

  tell() {
    if (String(this.at) === String(this.reported ?? this.data.voxel)) return;
    this.reported = this.at;
    this.report(this.at);
  }

  // The wheel with Ctrl zooms; a drag with the right button, or with Shift, sets the window.
  pointer(view) {
    const frame = view.canvas.parentElement;
    let drag = null;
    let due = false;
    frame.addEventListener("pointermove", (event) => {
      this.active = view;
      const [x, y] = [event.offsetX * view.nv.uiData.dpr, event.offsetY * view.nv.uiData.dpr];
      const tile = view.nv.screenSlices[view.nv.tileIndex(x, y)];
      this.axis = tile ? [2, 1, 0][tile.axCorSag] : this.axis;
      if (!drag) return;
      const width = Math.max(drag.unit, drag.width * (1 + (event.clientX - drag.x) / 200));
      const centre = drag.centre + ((event.clientY - drag.y) / 200) * drag.width;
      drag.next = [centre - width / 2, centre + width / 2];
      if (due) return;
      due = true;
      requestAnimationFrame(() => {
        due = false;
        if (drag) this.window(...drag.next);
      });
    });
    frame.addEventListener(
      "pointerdown",
      (event) => {
        if (event.button !== 2 && !(event.button === 0 && event.shiftKey)) return;
        const { low, high } = this.range;
        drag = { x: event.clientX, y: event.clientY, centre: (low + high) / 2, width: high - low, unit: this.data.unit ? 1 : 0.001 };
        frame.setPointerCapture(event.pointerId);
      },
      true,
    );
    for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => (drag = null));
    frame.addEventListener("contextmenu", (event) => event.preventDefault());
    frame.addEventListener(
      "wheel",
      (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        event.stopPropagation();
        this.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
      },
      { capture: true, passive: false },
    );
  }

  key(event) {
    const presets = this.presets ?? [];
    const keys = {
      ArrowUp: () => this.scroll(1),
      ArrowDown: () => this.scroll(-1),
      PageUp: () => this.scroll(10),
      PageDown: () => this.scroll(-10),
      "+": () => this.zoom(1.25),
      "-": () => this.zoom(0.8),
      0: () => this.zoom(0),
      p: () => this.choose("layout", "planes"),
      a: () => this.choose("layout", "axial"),
      c: () => this.choose("layout", "coronal"),
      s: () => this.choose("layout", "sagittal"),
      v: () => this.choose("layout", "3D"),
      o: () => this.outlineBox?.click(),
      r: () => this.sideBox.click(),
      l: () => this.linkBox.click(),
      f: () => this.full(),
      "?": () => this.help.toggleAttribute("open"),
    };
    presets.slice(0, 9).forEach((preset, place) => (keys[place + 1] = () => this.choose("window", preset.name)));
    const control = event.composedPath()[0];
    const act = !event.ctrlKey && !event.metaKey && !event.altKey && keys[event.key];
    if (!this.data || !act || (["INPUT", "SELECT"].includes(control.tagName) && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  choose(name, value) {
    const control = this.controls[name];
    control.value = value;
    control.dispatchEvent(new Event("change"));
  }

  full() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.root.requestFullscreen().catch((error) => say(this.root, `No full screen: ${error.message}`, "alert"));
  }

  close() {
    clearTimeout(this.timer);
    this.opened++;
    for (const { nv } of this.views) {
      nv.cleanup();
      nv.gl.getExtension("WEBGL_lose_context")?.loseContext();
    }
    this.root.remove();
  }
}

// With every change of the window niivue computes gradients of the whole volume, at some thirty reads a voxel against the one of
// the window itself; only its illuminated rendering uses them, which is not offered here. Their drawing is left out.
function withoutGradients(nv) {
  const { gl, blurShader } = nv;
  const [draw, status] = [gl.drawArrays.bind(gl), gl.checkFramebufferStatus.bind(gl)];
  const [texture, refresh, use] = [nv.rgbaTex.bind(nv), nv.refreshLayers.bind(nv), blurShader.use.bind(blurShader)];
  const units = [gl.TEXTURE6, gl.TEXTURE8]; // of the gradients, and of the blurred volume that they are taken from
  let leftOut = false;
  blurShader.use = (context) => {
    leftOut = true;
    use(context);
  };
  gl.drawArrays = (...given) => leftOut || draw(...given);
  gl.checkFramebufferStatus = (target) => (leftOut ? gl.FRAMEBUFFER_COMPLETE : status(target));
  nv.rgbaTex = (old, unit, dims, ...more) => texture(old, unit, units.includes(unit) ? [2, 2, 2, 2] : dims, ...more);
  nv.refreshLayers = (image, layer) => {
    try {
      refresh(image, layer);
    } finally {
      leftOut = false;
    }
  };
}

function number(value) {
  return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 10 ? 3 : 1);
}
