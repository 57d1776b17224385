// Pillow's bilinear resize of 8-bit pictures, to the byte: weights of 22 bits, two passes, rounded after each.
// Pillow 13, src/libImaging/Resample.c: precompute_coeffs, normalize_coeffs_8bpc, ImagingResample*_8bpc.

const BITS = 32 - 8 - 2;
const HALF = 1 << (BITS - 1);

/** For each of `to` pixels: the first pixel of `from` that it covers, how many, and their weights [to, most]. */
function coefficients(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1); // half the width of the triangle; a larger picture is interpolated
  const most = 2 * Math.ceil(reach) + 1;
  const [first, count, weights] = [new Int32Array(to), new Int32Array(to), new Int32Array(to * most)];
  for (let n = 0; n < to; n++) {
    const centre = (n + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const shares = [];
    let sum = 0;
    for (let at = begin; at < end; at++) {
      const share = Math.max(0, 1 - Math.abs((at - centre + 0.5) * (1 / reach)));
      shares.push(share);
      sum += share;
    }
    [first[n], count[n]] = [begin, end - begin];
    shares.forEach((share, k) => (weights[n * most + k] = Math.trunc((share / (sum || 1)) * (1 << BITS) + 0.5)));
  }
  return { most, first, count, weights };
}

/** RGB of {height, width, data: bytes [height, width, 3]} squashed to another height and width. */
export function resize(picture, height, width) {
  const [shorter, narrower] = [picture.height - height, picture.width - width];
  const downFirst = shorter > 0 && shorter > 2 * narrower; // since Pillow 13; before, never
  if (downFirst) picture = down(picture, height);
  if (narrower) picture = across(picture, width);
  return shorter && !downFirst ? down(picture, height) : picture;
}

function across({ height, width: from, data }, width) {
  const { most, first, count, weights } = coefficients(from, width);
  const out = new Uint8ClampedArray(height * width * 3);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let at = 3 * (y * from + first[x]);
      for (let k = x * most, end = k + count[x]; k < end; k++) {
        red += data[at++] * weights[k];
        green += data[at++] * weights[k];
        blue += data[at++] * weights[k];
      }
      out[to++] = red >> BITS;
      out[to++] = green >> BITS;
      out[to++] = blue >> BITS;
    }
  }
  return { height, width, data: out };
}

function down({ height: from, width, data }, height) {
  const { most, first, count, weights } = coefficients(from, height);
  const row = 3 * width;
  const out = new Uint8ClampedArray(height * row);
  const sums = new Int32Array(row);
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let k = 0; k < count[y]; k++) {
      const weight = weights[y * most + k];
      for (let x = 0, at = (first[y] + k) * row; x < row; x++, at++) sums[x] += data[at] * weight;
    }
    for (let x = 0; x < row; x++) out[y * row + x] = sums[x] >> BITS;
  }
  return { height, width, data: out };
}
