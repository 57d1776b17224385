// Draws where the model looked, over the photo: the light and the night of captioner/figure.py.

const NIGHT = [14, 18, 38]; // what the photo fades into where the model did not look
const TINT = [0.92, 0.97, 1.15];
const GLOW = [96, 66, 20]; // light added where it did, so that it shows on black too
const BLUR = 0.62; // standard deviation of the light of a cell, in cells
const MOST_PIXELS = 400_000;
const FADE = 180; // milliseconds from one word's map to the next
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** A photo's canvas; show(map) lights it, show(null) gives the photo back. */
export class Light {
  constructor(canvas, image) {
    Object.assign(this, { canvas, image, map: null, weights: null, frame: 0, photo: null });
  }

  show(map) {
    cancelAnimationFrame(this.frame);
    this.canvas.classList.toggle("lit", Boolean(map));
    const from = this.map && map && this.map.weights.length === map.weights.length ? this.weights : null;
    this.map = map;
    if (!map || !this.image.naturalWidth) return;
    this.#measure();
    if (!from || still.matches) return this.#draw(map.weights);
    const begin = performance.now();
    const step = (now) => {
      const done = Math.min(1, Math.max(0, (now - begin) / FADE));
      this.#draw(map.weights.map((weight, n) => from[n] + (weight - from[n]) * done));
      if (done < 1) this.frame = requestAnimationFrame(step);
    };
    step(begin);
  }

  #measure() {
    const { width, height } = this.image.getBoundingClientRect();
    const scale = Math.min(devicePixelRatio, Math.sqrt(MOST_PIXELS / (width * height)));
    const size = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    if (this.photo && this.canvas.width === size[0] && this.canvas.height === size[1]) return;
    [this.canvas.width, this.canvas.height] = size;
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff"; // as the server lays transparent pictures on white
    context.fillRect(0, 0, ...size);
    context.drawImage(this.image, 0, 0, ...size);
    this.photo = context.getImageData(0, 0, ...size);
  }

  #draw(weights) {
    this.weights = weights;
    const context = this.canvas.getContext("2d");
    context.putImageData(lit(this.photo, { ...this.map, weights }), 0, 0);
  }
}

/** The photo (ImageData) warmly lit where the map is at its highest, a dim grey night where it is zero. */
export function lit(photo, { rows, columns, weights }) {
  const { width, height, data } = photo;
  const light = lightOf(weights, rows, columns, width, height);
  const out = new ImageData(width, height);
  for (let n = 0, at = 0; n < light.length; n++, at += 4) {
    const grey = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    for (let c = 0; c < 3; c++) {
      const dim = 0.78 * NIGHT[c] + 0.22 * grey * TINT[c];
      const bright = 255 - ((255 - data[at + c]) * (255 - GLOW[c] * light[n])) / 255;
      out.data[at + c] = dim + (bright - dim) * light[n];
    }
    out.data[at + 3] = 255;
  }
  return out;
}

function lightOf(weights, rows, columns, width, height) {
  const down = spread(rows, height);
  const across = spread(columns, width);
  const light = new Float32Array(width * height);
  const row = new Float32Array(columns);
  let most = 1e-12;
  for (let y = 0, n = 0; y < height; y++) {
    row.fill(0);
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) row[c] += down[y * rows + r] * weights[r * columns + c];
    for (let x = 0; x < width; x++, n++) {
      let sum = 0;
      for (let c = 0; c < columns; c++) sum += row[c] * across[x * columns + c];
      light[n] = sum;
      if (sum > most) most = sum;
    }
  }
  return light.map((value) => value / most);
}

/** How much of each cell's light reaches a pixel, [pixels, cells]: a Gaussian around the cell's middle. */
function spread(cells, pixels) {
  const share = new Float32Array(pixels * cells);
  for (let p = 0; p < pixels; p++) {
    let sum = 0;
    for (let c = 0; c < cells; c++) {
      const distance = ((p + 0.5) / pixels) * cells - (c + 0.5);
      sum += share[p * cells + c] = Math.exp(-0.5 * (distance / BLUR) ** 2);
    }
    for (let c = 0; c < cells; c++) share[p * cells + c] /= sum;
  }
  return share;
}
