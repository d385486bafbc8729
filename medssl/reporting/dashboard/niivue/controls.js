// The tool bar and the lines of text round the views. Every text from data is set as text, never as HTML.

const HELP = [
  ["click or drag", "move the crosshair"],
  ["wheel, ↑ ↓, Page ↑ ↓", "through the slices of the plane under the pointer, by 1 or 10"],
  ["drag with the right button, or Shift", "window: sideways its width, up and down its centre"],
  ["1 to 9", "a preset of the window"],
  ["Ctrl + wheel, + and −, 0", "zoom, and back to the whole"],
  ["Ctrl + drag, middle button", "move the picture"],
  ["P A C S V", "three planes, axial, coronal, sagittal, 3D"],
  ["O, R, L, F, ?", "outline of the reference, side convention, linked views, full screen, this list"],
];
const NEXT = { filled: "outlined", outlined: "hidden", hidden: "filled" };
const MARKS = { filled: "■", outlined: "□", hidden: "×" };

export function build(viewer, settings, layouts) {
  const kept = viewer.grid;
  viewer.root.replaceChildren();
  const bar = add(viewer.root, "div", "bar");
  viewer.controls = {};
  select(viewer, bar, "Layout", "layout", layouts, settings.layout, (name) => viewer.layout(name));
  const names = viewer.presets.map((preset) => preset.name);
  select(viewer, bar, "Window", "window", names, settings.window, (name) => viewer.preset(name));
  viewer.windowText = add(bar, "span", "quiet");
  const { low, high } = viewer.range;
  viewer.windowText.textContent = `${round((low + high) / 2)} / ${round(high - low)}${viewer.data.unit}`;
  frames(viewer, bar);
  if (viewer.data.structures.length) opacity(viewer, bar, settings);
  if (viewer.data.views.some((view) => view.outlined)) {
    viewer.outlineBox = box(bar, "Outline", settings.outline, "The outline of the reference over the predictions", (on) => {
      settings.outline = on;
      viewer.draw();
    });
  }
  viewer.sideBox = box(bar, "Radiological", settings.radiological, "", (on) => {
    settings.radiological = on;
    convention(viewer, settings);
    viewer.draw();
  });
  viewer.linkBox = box(bar, "Linked", settings.linked, "Crosshair and zoom of one view move the others", (on) => (settings.linked = on));
  for (const [text, title, act] of [["−", "Zoom out", () => viewer.zoom(0.8)], ["+", "Zoom in", () => viewer.zoom(1.25)],
    ["Full screen", "Full screen", () => viewer.full()], ["?", "Mouse and keys", () => viewer.help.toggleAttribute("open")]]) {
    const button = add(bar, "button");
    button.textContent = text;
    button.title = button.ariaLabel = title;
    button.onclick = act;
  }
  viewer.help = help(viewer.root);
  const shown = add(viewer.root, "div", "bar");
  views(viewer, shown);
  structures(viewer, shown, settings);
  viewer.grid = kept ?? document.createElement("div");
  viewer.root.appendChild(viewer.grid);
  viewer.status = add(viewer.root, "div", "status");
  viewer.status.setAttribute("role", "status");
  viewer.side = add(viewer.root, "div", "quiet");
  convention(viewer, settings);
}

// A line about the state of the viewer; kind: "alert" for what went wrong.
export function say(root, text, kind = "status") {
  const line = root.querySelector(":scope > .said") ?? add(root, "div", "said");
  line.setAttribute("role", kind);
  line.textContent = text;
}

export function heading(caption, about) {
  caption.textContent = about.name;
  if (about.note) add(caption, "span", "quiet").textContent = ` ${about.note}`;
}

function convention(viewer, settings) {
  viewer.side.textContent = settings.radiological
    ? "Radiological convention: the patient's right is on the left of axial and coronal pictures."
    : "Neurological convention: the patient's right is on the right of axial and coronal pictures.";
}

function select(viewer, bar, label, name, options, value, act) {
  const control = add(labelled(bar, label), "select");
  for (const option of options) add(control, "option").textContent = option;
  control.value = value;
  control.onchange = () => act(control.value);
  viewer.controls[name] = control;
}

function box(bar, label, on, title, act) {
  const line = labelled(bar, "");
  const control = add(line, "input");
  control.type = "checkbox";
  control.checked = on;
  control.onchange = () => act(control.checked);
  line.append(label);
  line.title = title;
  return control;
}

function opacity(viewer, bar, settings) {
  const control = add(labelled(bar, "Opacity"), "input");
  Object.assign(control, { type: "range", min: 0, max: 1, step: 0.05, value: settings.opacity });
  control.oninput = () => {
    settings.opacity = Number(control.value);
    viewer.mark();
  };
}

function frames(viewer, bar) {
  if (viewer.data.frames < 2) return;
  const line = labelled(bar, "Frame");
  const control = add(line, "input");
  Object.assign(control, { type: "range", min: 0, max: viewer.data.frames - 1, step: 1, value: viewer.image.frame4D });
  const text = add(line, "span", "quiet");
  const write = () => (text.textContent = `${Number(control.value) + 1} of ${viewer.data.frames}`);
  control.oninput = () => {
    viewer.frame(Number(control.value));
    write();
  };
  write();
}

function views(viewer, bar) {
  if (viewer.data.views.length < 2) return;
  viewer.data.views.forEach((view, place) =>
    box(bar, view.short, viewer.visible[place], view.name, (on) => viewer.toggleView(place, on)),
  );
}

function structures(viewer, bar, settings) {
  for (const { value, name, colour } of viewer.data.structures) {
    const button = add(bar, "button", "structure");
    const mark = add(button, "span");
    mark.style.color = colour;
    button.append(` ${name}`);
    const write = () => {
      const mode = settings.modes[value] ?? "filled";
      mark.textContent = MARKS[mode];
      button.title = `${name} is ${mode}: a click changes it`;
    };
    button.onclick = () => {
      settings.modes[value] = NEXT[settings.modes[value] ?? "filled"];
      write();
      viewer.mark();
    };
    write();
  }
  if (!viewer.data.views.some((view) => view.outlined)) return;
  const legend = add(bar, "span", "quiet");
  const mark = add(legend, "span", "mark");
  mark.style.borderColor = viewer.data.outline;
  legend.append(" outline of the reference");
}

function help(root) {
  const list = add(root, "details", "help");
  add(list, "summary").textContent = "Mouse and keys";
  const table = add(list, "dl");
  for (const [keys, text] of HELP) {
    add(table, "dt").textContent = keys;
    add(table, "dd").textContent = text;
  }
  return list;
}

function labelled(bar, text) {
  const line = add(bar, "label");
  line.append(text);
  return line;
}

function add(parent, tag, name = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  return parent.appendChild(element);
}

function round(value) {
  return Number(value.toPrecision(3));
}
