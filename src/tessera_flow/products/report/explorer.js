"use strict";

// The explorer: click on a pixel, see the cosine similarity of its embedding to all others.
// The data are in the page (see explorer.py); nothing is requested.

function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

// Return the data with `index` (number of the embedding of each pixel, -1 without one), `codes` and
// `norms` (of each embedding) as arrays.
function readData(data) {
  const bits = bytesOf(data.valid);
  const codes = new Int8Array(bytesOf(data.codes).buffer);
  const index = new Int32Array(data.height * data.width).fill(-1);
  let count = 0;
  for (let pixel = 0; pixel < index.length; pixel++) {
    if ((bits[pixel >> 3] >> (7 - (pixel & 7))) & 1) index[pixel] = count++;
  }
  const norms = new Float64Array(count);
  for (let n = 0; n < count; n++) {
    let sum = 0;
    for (let k = 0; k < data.size; k++) sum += data.weights[k] * codes[n * data.size + k] ** 2;
    norms[n] = Math.sqrt(sum);
  }
  return { ...data, index, codes, norms };
}

// Return the cosine similarity of a pixel to every pixel of the grid; NaN without an embedding.
function similarities(data, pixel) {
  const result = new Float32Array(data.index.length).fill(NaN);
  const own = data.index[pixel];
  if (own < 0) return result;
  const size = data.size;
  const weighted = new Float64Array(size);
  for (let k = 0; k < size; k++) {
    weighted[k] = (data.weights[k] * data.codes[own * size + k]) / data.norms[own];
  }
  for (let other = 0; other < result.length; other++) {
    const n = data.index[other];
    if (n < 0) continue;
    let sum = 0;
    for (let k = 0; k < size; k++) sum += weighted[k] * data.codes[n * size + k];
    result[other] = sum / data.norms[n];
  }
  return result;
}

// Return row and column of a pixel in the region's grid, and its centre: x and y in the units of the
// CRS, degrees of longitude and latitude (if there are nodes).
function placeOf(data, pixel) {
  const [down, right] = [Math.floor(pixel / data.width), pixel % data.width];
  const panel = data.panels.find((p) => right < p.left + p.width) || data.panels[0];
  const row = (panel.row + down) * data.step;
  const column = (panel.column + right - panel.left) * data.step;
  const [a, b, c, d, e, f] = data.transform;
  const [u, v] = [column + 0.5, row + 0.5];
  const place = { row, column, x: a * u + b * v + c, y: d * u + e * v + f };
  if (!data.nodes) return place;
  const between = (grid) => {
    const last = grid.length - 1;
    const p = (v / data.shape[0]) * last;
    const q = (u / data.shape[1]) * last;
    const i = Math.min(Math.floor(p), last - 1);
    const j = Math.min(Math.floor(q), last - 1);
    const along = (k) => grid[k][j] * (1 - (q - j)) + grid[k][j + 1] * (q - j);
    return along(i) * (1 - (p - i)) + along(i + 1) * (p - i);
  };
  const lon = between(data.nodes.lon); // beyond 180 degrees east of the antimeridian
  return { ...place, lon: lon - 360 * Math.floor((lon + 180) / 360), lat: between(data.nodes.lat) };
}

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

// Return the values shown darkest and lightest: the 2nd percentile, and 1.
function rangeOf(values) {
  const known = values.filter((value) => !Number.isNaN(value)).sort();
  const low = known.length ? known[Math.floor(0.02 * (known.length - 1))] : 0;
  return [Math.min(low, 0.99), 1];
}

// Return the RGBA bytes of a map of similarities; transparent without an embedding.
function coloured(values, [low, high]) {
  const bytes = new Uint8ClampedArray(4 * values.length);
  for (let pixel = 0; pixel < values.length; pixel++) {
    if (Number.isNaN(values[pixel])) continue;
    const share = Math.min(Math.max((values[pixel] - low) / (high - low), 0), 1);
    const first = Math.min(Math.floor(share * (RAMP.length - 1)), RAMP.length - 2);
    const fraction = share * (RAMP.length - 1) - first;
    for (let band = 0; band < 3; band++) {
      bytes[4 * pixel + band] =
        RAMP[first][band] * (1 - fraction) + RAMP[first + 1][band] * fraction;
    }
    bytes[4 * pixel + 3] = 255;
  }
  return bytes;
}

// Return the pixel with an embedding that is nearest to the middle of the grid.
function middleOf(data) {
  let [best, distance] = [-1, Infinity];
  data.index.forEach((n, pixel) => {
    const row = Math.floor(pixel / data.width) - (data.height - 1) / 2;
    const column = (pixel % data.width) - (data.width - 1) / 2;
    if (n >= 0 && row * row + column * column < distance) {
      [best, distance] = [pixel, row * row + column * column];
    }
  });
  return best;
}

// Return the next pixel with an embedding in a direction, beyond gaps; -1 if there is none.
function neighbour(data, pixel, [down, right]) {
  let row = Math.floor(pixel / data.width) + down;
  let column = (pixel % data.width) + right;
  while (row >= 0 && column >= 0 && row < data.height && column < data.width) {
    if (data.index[row * data.width + column] >= 0) return row * data.width + column;
    row += down;
    column += right;
  }
  return -1;
}

// Return a similarity with `digits` decimals; never "-0.00".
function rounded(value, digits) {
  return (Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits);
}

function degrees(value, positive, negative) {
  return `${Math.abs(value).toFixed(5)}° ${value >= 0 ? positive : negative}`;
}

function textOf(data, pixel) {
  const place = placeOf(data, pixel);
  const centre = data.nodes
    ? `${degrees(place.lat, "N", "S")}, ${degrees(place.lon, "E", "W")}; `
    : "";
  return `${centre}x ${+place.x.toFixed(6)}, y ${+place.y.toFixed(6)} in ${data.crs}; ` +
    `row ${place.row}, column ${place.column}`;
}

function startExplorer(document) {
  const data = readData(JSON.parse(document.getElementById("explorer-data").textContent));
  const find = (name) => document.getElementById(`explorer-${name}`);
  const [map, base, selected, hovered] = ["map", "base", "selected", "hovered"].map(find);
  let current = middleOf(data);
  let pointed = null; // the pixel below the pointer; -1 outside the grid, null without a pointer
  let values = similarities(data, current);

  function markSelected() {
    for (const ring of document.querySelectorAll("#explorer .ring")) {
      ring.style.left = `${(((current % data.width) + 0.5) / data.width) * 100}%`;
      ring.style.top = `${((Math.floor(current / data.width) + 0.5) / data.height) * 100}%`;
    }
  }

  function drawBase() {
    const choice = document.querySelector("input[name=explorer-layer]:checked");
    const source = document.getElementById(choice ? choice.value : "preview-image");
    const image = new Image();
    image.onload = () => {
      const context = base.getContext("2d");
      context.clearRect(0, 0, base.width, base.height);
      const scale = [image.width / data.shape[1], image.height / data.shape[0]];
      for (const panel of data.panels) {
        // Of the last pixels, only a part may be in the image.
        const width = Math.min(panel.width * data.step, data.shape[1] - panel.column * data.step);
        const height = Math.min(panel.height * data.step, data.shape[0] - panel.row * data.step);
        context.drawImage(
          image,
          panel.column * data.step * scale[0], panel.row * data.step * scale[1],
          width * scale[0], height * scale[1],
          panel.left, 0, width / data.step, height / data.step,
        );
      }
    };
    image.src = source.getAttribute("href");
  }

  function draw() {
    const range = rangeOf(values);
    const image = new ImageData(coloured(values, range), data.width, data.height);
    map.getContext("2d").putImageData(image, 0, 0);
    markSelected();
    find("low").textContent = rounded(range[0], 2);
    selected.textContent = textOf(data, current);
    describePointed();
  }

  function describePointed() {
    const known = pointed !== null && pointed >= 0 && data.index[pointed] >= 0;
    const text = known
      ? `similarity ${rounded(values[pointed], 3)} at ${textOf(data, pointed)}`
      : "no embedding here";
    hovered.textContent = pointed === null ? "" : text;
  }

  function point(pixel) {
    pointed = pixel;
    describePointed();
  }

  function select(pixel) {
    if (pixel < 0 || data.index[pixel] < 0) return;
    current = pixel;
    values = similarities(data, current);
    draw();
  }

  function pixelAt(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * data.width);
    const row = Math.floor(((event.clientY - box.top) / box.height) * data.height);
    const inside = row >= 0 && column >= 0 && row < data.height && column < data.width;
    return inside ? row * data.width + column : -1;
  }

  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  for (const canvas of [map, base]) {
    canvas.width = data.width;
    canvas.height = data.height;
    canvas.addEventListener("click", (event) => select(pixelAt(event)));
    canvas.addEventListener("mousemove", (event) => point(pixelAt(event)));
    canvas.addEventListener("mouseleave", () => point(null));
    canvas.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      select(neighbour(data, current, step));
    });
  }
  for (const input of document.querySelectorAll("input[name=explorer-layer]")) {
    input.addEventListener("change", drawBase);
  }
  draw();
  drawBase();
}

if (typeof document !== "undefined" && document.getElementById("explorer-data")) {
  startExplorer(document);
}
