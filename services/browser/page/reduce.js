// What libjpeg-turbo's reduced decoding gives, from a picture that was decoded in full.
//
// A block of 8 x 8 pixels becomes n x n, n of 1, 2, 3, 4 or 8. For 1, 2 and 4 its inverse DCT is the full one with the
// mean of neighbours taken inside (jidctred.c); for 3 it is the DCT of three points on the lowest 3 x 3 frequencies
// (jidctint.c). Both are linear, M block M^T, and so hold for RGB as for its own colours. What is lost is their rounding
// and that stored half-size colour is smoothed here before it is reduced.

export const BLOCK = 8;

/** How many pixels a block of 8 keeps so that the photo stays as large as needed: the least of 1, 2, 3, 4; else 8. */
export function kept(height, width, needed) {
  const large = (n) => Math.ceil((height * n) / BLOCK) >= needed.height && Math.ceil((width * n) / BLOCK) >= needed.width;
  return [1, 2, 3, 4].find(large) ?? BLOCK;
}

/** M [n, 8]. */
export function matrix(n) {
  return Float32Array.from({ length: n * BLOCK }, (_, at) => {
    const [to, from] = [Math.floor(at / BLOCK), at % BLOCK];
    if (n !== 3) return Math.floor((from * n) / BLOCK) === to ? n / BLOCK : 0;
    const wave = (k) => Math.cos(((2 * to + 1) * k * Math.PI) / 6) * Math.cos(((2 * from + 1) * k * Math.PI) / 16);
    return (1 + 2 * (wave(1) + wave(2))) / BLOCK;
  });
}

/** A picture of height x width, n pixels kept of each block; tiles of RGBA are added in any order. */
export class Reduced {
  constructor(height, width, n) {
    this.size = { height, width };
    this.height = Math.ceil((height * n) / BLOCK);
    this.width = Math.ceil((width * n) / BLOCK);
    this.n = n;
    this.data = new Uint8ClampedArray(this.height * this.width * 3);
    this.weights = matrix(n);
  }

  /** rgba [rows, columns, 4] whose corner lies at top, left, both multiples of 8; so are rows and columns but at the end. */
  add(rgba, top, left, rows, columns) {
    if (this.n === BLOCK) return this.#copy(rgba, top, left, rows, columns);
    const { n, weights } = this;
    const half = new Float32Array(n * columns * 3); // the block row, reduced from above to below
    for (let y = 0; y < rows; y += BLOCK) {
      half.fill(0);
      for (let j = 0; j < BLOCK; j++) {
        const line = Math.min(y + j, rows - 1) * columns * 4; // an encoder repeats the last row to fill its block
        for (let i = 0; i < n; i++) {
          const weight = weights[i * BLOCK + j];
          if (weight === 0) continue;
          for (let x = 0, from = line, to = i * columns * 3; x < columns; x++, from += 4, to += 3) {
            half[to] += weight * rgba[from];
            half[to + 1] += weight * rgba[from + 1];
            half[to + 2] += weight * rgba[from + 2];
          }
        }
      }
      for (let i = 0; i < n; i++) this.#line(half, i, ((top + y) / BLOCK) * n + i, left, columns);
    }
  }

  #line(half, i, y, left, columns) {
    const { n, weights, data } = this;
    if (y >= this.height) return;
    for (let x = 0; x < columns; x += BLOCK) {
      for (let k = 0; k < n; k++) {
        const column = ((left + x) / BLOCK) * n + k;
        if (column >= this.width) break;
        for (let colour = 0; colour < 3; colour++) {
          let sum = 0;
          for (let j = 0; j < BLOCK; j++) {
            sum += weights[k * BLOCK + j] * half[(i * columns + Math.min(x + j, columns - 1)) * 3 + colour];
          }
          data[(y * this.width + column) * 3 + colour] = sum; // rounded and cut to a byte by the array
        }
      }
    }
  }

  #copy(rgba, top, left, rows, columns) {
    for (let y = 0; y < rows; y++) {
      for (let x = 0, from = y * columns * 4, to = ((top + y) * this.width + left) * 3; x < columns; x++, from += 4) {
        this.data[to++] = rgba[from];
        this.data[to++] = rgba[from + 1];
        this.data[to++] = rgba[from + 2];
      }
    }
  }
}
