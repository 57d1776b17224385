// Photos as files: their kind, size and orientation, and the same file without what a browser would act on by itself
// (orientation, colour profiles, animation). As captioner/images.py, whose limits and reasons these are.

export const LIMITS = { max_bytes: 16 * 2 ** 20, max_pixels: 40_000_000, min_side: 8, max_side: 20_000, max_aspect: 20, max_scans: 100 };

/** A photo that cannot be used; the reason is one of captioner.images.Reason. */
export class BadImage extends Error {
  constructor(reason, message = reason) {
    super(message);
    this.reason = reason;
  }
}

const HEIC = ["heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs"];
const text = (bytes, from, to) => String.fromCharCode(...bytes.subarray(from, to));
const damaged = (why) => new BadImage("CORRUPT_IMAGE", `the photo is damaged: ${why}`);

/** {kind, height, width, orientation, parts}: parts are the bytes for the browser's decoder. Raises BadImage. */
export function inspect(bytes, limits = LIMITS) {
  if (!bytes.length) throw new BadImage("EMPTY_IMAGE");
  if (bytes.length > limits.max_bytes) throw new BadImage("IMAGE_TOO_LARGE_BYTES");
  const kind = kindOf(bytes);
  let found;
  try {
    found = { "image/jpeg": jpeg, "image/png": png, "image/gif": gif, "image/webp": webp }[kind](bytes, limits);
  } catch (error) {
    throw error instanceof BadImage ? error : damaged("its header cannot be read");
  }
  check(found, limits);
  return { kind, orientation: 1, parts: [bytes], ...found };
}

function kindOf(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return "image/jpeg";
  if (text(bytes, 0, 8) === "\x89PNG\r\n\x1a\n") return "image/png";
  if (/^GIF8[79]a$/.test(text(bytes, 0, 6))) return "image/gif";
  if (text(bytes, 0, 4) === "RIFF" && text(bytes, 8, 12) === "WEBP") return "image/webp";
  const brands = [8, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60].map((at) => text(bytes, at, at + 4));
  const heic = text(bytes, 4, 8) === "ftyp" && brands.some((brand) => HEIC.includes(brand));
  throw new BadImage(heic ? "HEIC_UNSUPPORTED" : "UNSUPPORTED_FORMAT");
}

function check({ height, width }, limits) {
  const [long, short] = [Math.max(height, width), Math.min(height, width)];
  if (height * width > limits.max_pixels || long > limits.max_side) throw new BadImage("IMAGE_TOO_MANY_PIXELS");
  if (short < limits.min_side) throw new BadImage("IMAGE_TOO_SMALL");
  if (long > limits.max_aspect * short) throw new BadImage("IMAGE_BAD_ASPECT");
}

function jpeg(bytes, limits) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts = [bytes.subarray(0, 2)];
  let [size, exif, xmp, scans, at] = [null, null, null, 0, 2];
  for (;;) {
    let next = at; // markers that carry a length, and the end; what stands between them is kept
    while (next + 1 < bytes.length && !(bytes[next] === 0xff && marks(bytes[next + 1]))) next++;
    if (next + 1 >= bytes.length) throw damaged("it ends too early");
    const marker = bytes[next + 1];
    if (marker === 0xd9) {
      parts.push(bytes.subarray(at));
      break;
    }
    const end = next + 2 + view.getUint16(next + 2);
    const isSize = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isSize) size ??= { height: view.getUint16(next + 5), width: view.getUint16(next + 7) };
    scans += marker === 0xda;
    const content = bytes.subarray(next + 4, end);
    if (marker === 0xe1 && text(content, 0, 6) === "Exif\0\0") exif ??= content.subarray(6);
    else if (marker === 0xe1) xmp ??= content;
    if (marker === 0xe1 || marker === 0xe2) parts.push(bytes.subarray(at, next));
    else parts.push(bytes.subarray(at, end));
    at = end;
  }
  if (!size) throw damaged("it has no size");
  if (scans > limits.max_scans) throw damaged(`it has ${scans} scans`);
  return { ...size, parts, orientation: orientation(exif, xmp) };
}

const marks = (byte) => byte > 0x01 && byte !== 0xff && !(byte >= 0xd0 && byte <= 0xd7);

const PIXELS_OF_PNG = ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"];

function png(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts = [bytes.subarray(0, 8)];
  let [exif, xmp, name] = [null, null, ""];
  for (let at = 8; name !== "IEND"; ) {
    if (at + 12 > bytes.length) throw damaged("it ends too early");
    const end = at + 12 + view.getUint32(at);
    if (end > bytes.length) throw damaged("it ends too early");
    name = text(bytes, at + 4, at + 8);
    const content = bytes.subarray(at + 8, end - 4);
    if (name === "eXIf") exif = content;
    if (name === "iTXt" && text(content, 0, 17) === "XML:com.adobe.xmp") xmp = content;
    if (PIXELS_OF_PNG.includes(name)) parts.push(bytes.subarray(at, end));
    at = end;
  }
  return { height: view.getUint32(20), width: view.getUint32(16), parts, orientation: orientation(exif, xmp) };
}

function gif(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return { height: view.getUint16(8, true), width: view.getUint16(6, true) };
}

function webp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const chunks = [];
  let [exif, xmp, size] = [null, null, null];
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    const end = at + 8 + length + (length % 2);
    if (at + 8 + length > bytes.length) throw damaged("it ends too early");
    const [name, content] = [text(bytes, at, at + 4), bytes.slice(at + 8, at + 8 + length)];
    if (name === "EXIF") exif = text(content, 0, 6) === "Exif\0\0" ? content.subarray(6) : content;
    else if (name === "XMP ") xmp = content;
    else if (name !== "ICCP") {
      const chunk = bytes.slice(at, end);
      if (name === "VP8X") chunk[8] &= ~0x2c; // it no longer has a profile, EXIF or XMP
      chunks.push(chunk);
    }
    size ??= webpSize(name, content);
    at = end;
  }
  const header = bytes.slice(0, 12);
  new DataView(header.buffer).setUint32(4, 4 + chunks.reduce((sum, chunk) => sum + chunk.length, 0), true);
  return { ...size, parts: [header, ...chunks], orientation: orientation(exif, xmp) };
}

function webpSize(name, content) {
  const view = new DataView(content.buffer);
  if (name === "VP8X") return { height: 1 + (view.getUint32(6, true) >> 8), width: 1 + (view.getUint32(4, true) & 0xffffff) };
  if (name === "VP8 ") return { height: view.getUint16(8, true) & 0x3fff, width: view.getUint16(6, true) & 0x3fff };
  if (name !== "VP8L") return null;
  const bits = view.getUint32(1, true);
  return { height: 1 + ((bits >> 14) & 0x3fff), width: 1 + (bits & 0x3fff) };
}

/** EXIF orientation, else that of XMP, else 1; damaged EXIF is common in good photos and counts as 1. */
function orientation(exif, xmp) {
  try {
    const found = exif && ofExif(new DataView(exif.buffer, exif.byteOffset, exif.length));
    if (found !== null && found !== undefined) return found;
  } catch {
    return 1;
  }
  const written = xmp && /tiff:Orientation(?:="|>)([0-9])/.exec(new TextDecoder("latin1").decode(xmp));
  return written ? Number(written[1]) : 1;
}

function ofExif(view) {
  const little = view.getUint16(0) === 0x4949;
  const directory = view.getUint32(4, little);
  for (let n = view.getUint16(directory, little), at = directory + 2; n > 0; n--, at += 12) {
    if (view.getUint16(at, little) !== 0x0112) continue;
    return view.getUint16(at + 2, little) === 4 ? view.getUint32(at + 8, little) : view.getUint16(at + 8, little);
  }
  return null;
}
