// A photo as the encoder wants it: decoded by the browser, then reduced, turned and resized as the runtime does it
// (captioner/images.py and captioner/preprocess.py).

import { BadImage, inspect } from "./files.js";
import { BLOCK, Reduced, kept } from "./reduce.js";
import { resize } from "./resize.js";

const TILE = { rows: 256, columns: 4096 }; // canvases have limits that photos may exceed; multiples of 8

/** RGB {height, width, data} of a file (a Blob), `needed` high and wide; raises BadImage. */
export async function pixels(file, needed) {
  const photo = inspect(new Uint8Array(await file.arrayBuffer()));
  const onItsSide = photo.orientation >= 5 && photo.orientation <= 8;
  const stored = onItsSide ? { height: needed.width, width: needed.height } : needed;
  const n = photo.kind === "image/jpeg" ? kept(photo.height, photo.width, stored) : BLOCK;
  const reduced = await decode(photo, n);
  return resize(upright(reduced, photo.orientation), needed.height, needed.width);
}

async function decode({ kind, parts, height, width }, n) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(new Blob(parts, { type: kind }), { colorSpaceConversion: "none" });
  } catch (error) {
    throw new BadImage("CORRUPT_IMAGE", error.message);
  }
  if (bitmap.height !== height || bitmap.width !== width) throw new BadImage("CORRUPT_IMAGE", "it is not as large as it says");
  const picture = new Reduced(height, width, n);
  const canvas = new OffscreenCanvas(Math.min(width, TILE.columns), Math.min(height, TILE.rows));
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  for (let top = 0; top < height; top += TILE.rows) {
    for (let left = 0; left < width; left += TILE.columns) {
      const [rows, columns] = [Math.min(TILE.rows, height - top), Math.min(TILE.columns, width - left)];
      context.fillStyle = "#fff"; // transparency lies on white
      context.fillRect(0, 0, columns, rows);
      context.drawImage(bitmap, left, top, columns, rows, 0, 0, columns, rows);
      picture.add(context.getImageData(0, 0, columns, rows).data, top, left, rows, columns);
    }
  }
  bitmap.close();
  return picture;
}

/** Turned and mirrored to how it is to be seen, by EXIF's orientation. */
export function upright(picture, orientation) {
  if (!(orientation > 1 && orientation <= 8)) return picture;
  const onItsSide = orientation >= 5;
  const height = onItsSide ? picture.width : picture.height;
  const width = onItsSide ? picture.height : picture.width;
  const [upsideDown, mirrored] = [[3, 4, 7, 8].includes(orientation), [2, 3, 6, 7].includes(orientation)];
  const data = new Uint8ClampedArray(picture.data.length);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const row = upsideDown ? height - 1 - y : y;
      const column = mirrored ? width - 1 - x : x;
      let from = 3 * (onItsSide ? column * picture.width + row : row * picture.width + column);
      for (let colour = 0; colour < 3; colour++) data[to++] = picture.data[from++];
    }
  }
  return { height, width, data };
}
