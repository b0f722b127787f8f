// Draws the map, shows what Python computed, and says what was chosen. Nothing is loaded from anywhere.
const PALE_TO_STRONG = [[244, 247, 250], [140, 190, 222], [0, 114, 178], [3, 35, 74]];
const BLUE_TO_ORANGE = [[0, 90, 160], [244, 246, 248], [205, 84, 0]];
const LEFT = 40, TOP = 12, BOTTOM = 34, RIGHT = 8;

function colour(level, anchors) {
  const at = (level / 255) * (anchors.length - 1), low = Math.min(Math.floor(at), anchors.length - 2);
  return anchors[low].map((value, index) => Math.round(value + (at - low) * (anchors[low + 1][index] - value)));
}

function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function choice(model, name, options, label) {
  const frame = element("label", {}, `${label} `), select = element("select", { name });
  for (const option of model.get(options)) select.append(element("option", { value: option }, option));
  const show = () => { select.value = model.get(name); };
  select.addEventListener("change", () => { model.set(name, select.value); model.save_changes(); });
  model.on(`change:${name}`, show);
  show();
  frame.append(select);
  return frame;
}

function numberBox(model, name, largest, label) {
  const frame = element("label", {}, `${label} `);
  const box = element("input", { type: "number", name, min: 0, max: largest, step: 1 });
  const show = () => { box.value = model.get(name); };
  box.addEventListener("change", () => {
    const value = Math.round(Number(box.value));
    if (box.value !== "" && value >= 0 && value <= largest) { model.set(name, value); model.save_changes(); }
    show();
  });
  model.on(`change:${name}`, show);
  show();
  frame.append(box);
  return frame;
}

// A pixel column of a wide model stands for several dimensions: it shows, and picks, the one furthest from pale.
function strongest(levels, row, from, to, centre) {
  let best = from;
  for (let d = from; d < to; d++) {
    if (Math.abs(levels[row + d] - centre) > Math.abs(levels[row + best] - centre)) best = d;
  }
  return best;
}

function bytes(view) {
  return new Uint8Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function dimensionMap(model) {
  const nLayers = model.get("n_layers"), width = model.get("d_model");
  const canvas = element("canvas", { tabindex: 0, role: "img", class: "map" });
  const hint = element("p", { class: "hint", "aria-live": "polite" });
  const rowHeight = Math.max(4, Math.min(26, Math.floor(300 / nLayers)));
  const height = TOP + rowHeight * nLayers + BOTTOM;
  canvas.style.height = `${height}px`;
  const inner = () => Math.max(50, canvas.clientWidth - LEFT - RIGHT);

  function dimensionAt(x, layer) {
    const levels = bytes(model.get("levels")), centre = model.get("is_diverging") ? 128 : 0;
    const column = Math.max(0, Math.min(inner() - 1, x - LEFT));
    const from = Math.min(width - 1, Math.floor((column / inner()) * width));
    const to = Math.max(from + 1, Math.min(width, Math.floor(((column + 1) / inner()) * width)));
    return strongest(levels, layer * width, from, to, centre);
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top - TOP) / rowHeight);
    const layer = Math.max(0, Math.min(nLayers - 1, nLayers - 1 - row));
    return { layer, dimension: dimensionAt(event.clientX - box.left, layer) };
  }

  function say(layer, dimension) {
    const values = new Float32Array(bytes(model.get("values")).buffer);
    const value = Number(values[layer * width + dimension].toPrecision(3));
    hint.textContent = `layer ${layer}, dimension ${dimension}: ${value} ${model.get("unit")}`;
  }

  function choose(layer, dimension) {
    model.set({ layer, dimension });
    model.save_changes();
  }

  function drawCells(context, scale) {
    const levels = bytes(model.get("levels")), centre = model.get("is_diverging") ? 128 : 0;
    const anchors = model.get("is_diverging") ? BLUE_TO_ORANGE : PALE_TO_STRONG;
    const table = Array.from({ length: 256 }, (_, level) => colour(level, anchors));
    const columns = Math.round(inner() * scale), rows = Math.round(rowHeight * scale);
    const image = context.createImageData(columns, rows * nLayers);
    for (let layer = 0; layer < nLayers; layer++) {
      for (let x = 0; x < columns; x++) {
        const from = Math.floor((x / columns) * width);
        const to = Math.max(from + 1, Math.floor(((x + 1) / columns) * width));
        const level = levels[layer * width + strongest(levels, layer * width, from, to, centre)];
        for (let y = 0; y < rows - 1; y++) {
          image.data.set([...table[level], 255], 4 * (((nLayers - 1 - layer) * rows + y) * columns + x));
        }
      }
    }
    context.putImageData(image, Math.round(LEFT * scale), Math.round(TOP * scale));
  }

  function drawLabels(context) {
    context.fillStyle = getComputedStyle(canvas).color;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    const every = Math.max(1, Math.ceil(12 / rowHeight));
    for (let layer = 0; layer < nLayers; layer += every) {
      context.fillText(layer, LEFT - 6, TOP + (nLayers - 1 - layer + 0.5) * rowHeight + 4);
    }
    context.textAlign = "center";
    const step = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048].find((each) => width / each <= 17) ?? 4096;
    for (let d = 0; d < width; d += step) context.fillText(d, LEFT + ((d + 0.5) / width) * inner(), height - 20);
    context.fillText("dimension", LEFT + inner() / 2, height - 5);
    for (const d of model.get("marked")) {
      const x = LEFT + ((d + 0.5) / width) * inner();
      context.beginPath();
      context.moveTo(x - 4, 1); context.lineTo(x + 4, 1); context.lineTo(x, 9);
      context.fill();
    }
    context.save();
    context.translate(11, TOP + (rowHeight * nLayers) / 2);
    context.rotate(-Math.PI / 2);
    context.fillText("layer", 0, 0);
    context.restore();
  }

  function drawChosen(context) {
    const cell = inner() / width, layer = model.get("layer");
    const x = LEFT + model.get("dimension") * cell, y = TOP + (nLayers - 1 - layer) * rowHeight;
    context.strokeStyle = "#D55E00";
    context.lineWidth = 2.5;
    context.strokeRect(x - 3, y - 3, Math.max(cell, 3) + 6, rowHeight + 5);
  }

  function draw() {
    if (!canvas.clientWidth) return;
    const scale = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(height * scale);
    const context = canvas.getContext("2d");
    drawCells(context, scale);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    drawLabels(context);
    drawChosen(context);
    const chosen = `layer ${model.get("layer")}, dimension ${model.get("dimension")}`;
    canvas.setAttribute("aria-label", `${model.get("caption")}. Chosen: ${chosen}. Arrow keys choose another.`);
    say(model.get("layer"), model.get("dimension"));
  }

  canvas.addEventListener("click", (event) => {
    const { layer, dimension } = place(event);
    choose(layer, dimension);
  });
  canvas.addEventListener("mousemove", (event) => {
    const { layer, dimension } = place(event);
    say(layer, dimension);
  });
  canvas.addEventListener("mouseleave", () => say(model.get("layer"), model.get("dimension")));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const layer = Math.max(0, Math.min(nLayers - 1, model.get("layer") + step[0]));
    choose(layer, Math.max(0, Math.min(width - 1, model.get("dimension") + step[1])));
  });
  const caption = element("p", { class: "caption" });
  const write = () => { caption.textContent = `${model.get("caption")}. Triangles: dimensions of the domain (DCDs).`; };
  for (const name of ["levels", "layer", "dimension", "marked", "caption"]) model.on(`change:${name}`, draw);
  model.on("change:caption", write);
  write();
  const observer = new ResizeObserver(draw);
  observer.observe(canvas);
  return { parts: [caption, canvas, hint], stop: () => observer.disconnect() };
}

function steeringBench(model) {
  const bench = element("div", { class: "bench" });
  const prompt = element("input", { type: "text", name: "prompt" });
  prompt.value = model.get("prompt");
  prompt.addEventListener("change", () => { model.set("prompt", prompt.value); model.save_changes(); });
  const ask = element("label", { class: "wide" }, "prompt ");
  ask.append(prompt);
  const slider = element("input", { type: "range", name: "strength", min: -6, max: 6, step: 0.25 });
  const shown = element("output");
  const label = element("label", { class: "wide" }, "strength ");
  const show = () => { slider.value = model.get("strength"); shown.value = slider.value; };
  slider.addEventListener("input", () => { shown.value = slider.value; });
  slider.addEventListener("change", () => { model.set("strength", Number(slider.value)); model.save_changes(); });
  model.on("change:strength", show);
  show();
  label.append(slider, shown);
  const status = element("p", { class: "hint", "aria-live": "polite" });
  const texts = element("div", { class: "texts" });
  const update = () => { status.textContent = model.get("status"); texts.innerHTML = model.get("texts"); };
  model.on("change:status", update);
  model.on("change:texts", update);
  update();
  const tools = element("div", { class: "tools" });
  tools.append(choice(model, "edit", "edits", "steer with"), label);
  if (model.get("is_live")) bench.append(tools, ask);
  bench.append(status, texts);
  return bench;
}

function render({ model, el }) {
  if (model.comm_live === false) return;  // no kernel: the static card before this stands alone
  const still = document.getElementById(model.get("static_id"));
  if (still) (still.closest(".jp-OutputArea-child") ?? still).style.display = "none";
  el.classList.add("dimension-explorer");
  const tools = element("div", { class: "tools" });
  tools.append(
    choice(model, "domain", "domains", "domain"),
    choice(model, "measure", "measures", "map shows"),
    numberBox(model, "layer", model.get("n_layers") - 1, "layer"),
    numberBox(model, "dimension", model.get("d_model") - 1, "dimension"),
  );
  const map = dimensionMap(model);
  const card = element("div", { class: "card" });
  const show = () => { card.innerHTML = model.get("card"); };
  model.on("change:card", show);
  show();
  el.append(tools, ...map.parts, steeringBench(model), card);
  return map.stop;
}

export default { render };
