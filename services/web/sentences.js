// What the page says: numbers in words, and a sentence for everything that can go wrong.

const MEBIBYTE = 2 ** 20;

/** 0.834 is "83%"; less than one in a hundred is "1 in 240". */
export function chance(probability) {
  if (probability >= 0.995) return probability >= 1 ? "100%" : "over 99%";
  if (probability >= 0.1) return `${Math.round(100 * probability)}%`;
  if (probability >= 0.01) return `${(100 * probability).toFixed(1)}%`;
  if (!(probability >= 1e-9)) return "less than 1 in a billion";
  const times = Number((1 / probability).toPrecision(2));
  return times < 1e6 ? `1 in ${times.toLocaleString("en")}` : `1 in ${(times / 1e6).toLocaleString("en")} million`;
}

/** 0.834 is "83%", and what is less than that of a hundredth "<1%". */
export function percent(probability) {
  return probability >= 0.01 || probability === 0 ? `${Math.round(100 * probability)}%` : "<1%";
}

/** A google.protobuf.Duration as "4.1 ms" or "1.2 s". */
function duration({ seconds, nanos }) {
  const value = 1000 * seconds + nanos / 1e6;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** Which model made it, and how long each stage took. */
export function provenance({ model, model_version: version, stage_durations: stages }) {
  const parts = [`${model} ${version}`]; // each on one line
  for (const stage of ["queue", "decode", "encode", "search"]) {
    if (stages?.[stage]) parts.push(`${stage} ${duration(stages[stage])}`);
  }
  return parts.map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
}

/** Where the weight of a map lies: "at the top left". */
export function place({ rows, columns, weights }) {
  let [total, y, x] = [0, 0, 0];
  weights.forEach((weight, n) => {
    total += weight;
    y += weight * (Math.floor(n / columns) + 0.5);
    x += weight * ((n % columns) + 0.5);
  });
  const third = (value, names) => names[Math.min(2, Math.floor(3 * value))];
  const vertical = third(y / (total || 1) / rows, ["top", "", "bottom"]);
  const horizontal = third(x / (total || 1) / columns, ["left", "", "right"]);
  return vertical || horizontal ? `at the ${[vertical, horizontal].filter(Boolean).join(" ")}` : "in the middle";
}

/** "a", "a and b", "a, b and c". */
export function list(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}

export const mebibytes = (bytes) => `${Number((bytes / MEBIBYTE).toFixed(1))} MiB`;

const REASONS = {
  EMPTY_IMAGE: () => "This file is empty.",
  IMAGE_TOO_LARGE_BYTES: ({ max_bytes: most }) => `This file is too large: it may have ${mebibytes(most)}.`,
  IMAGE_TOO_MANY_PIXELS: ({ max_pixels: most }) => `This picture has too many pixels: it may have ${most / 1e6} megapixels.`,
  IMAGE_TOO_SMALL: ({ min_side: least }) => `This picture is too small: each side needs ${least} pixels at least.`,
  IMAGE_BAD_ASPECT: ({ max_aspect: most }) => `This picture is too long and thin: one side may be ${most} times the other.`,
  UNSUPPORTED_FORMAT: () => "This is not a picture of a kind that can be read. JPEG, PNG, WebP and GIF can.",
  HEIC_UNSUPPORTED: () => "This is a HEIC photo, which cannot be read here. Save it as a JPEG and try again.",
  CORRUPT_IMAGE: () => "This picture is damaged and cannot be read.",
  CAPTIONS_UNAVAILABLE: () => "This model answers questions and writes no captions.",
  ANSWERS_UNAVAILABLE: () => "This model writes captions and answers no questions.",
  ATTENTION_UNAVAILABLE: () => "This model cannot show where it looked.",
  HISTORY_UNAVAILABLE: () => "This model cannot take earlier questions into account.",
  UNKNOWN_MODEL: () => "This model is no longer served. Reload the page to see which ones are.",
  QUEUE_FULL: () => "The server is busy. Try again in a moment.",
  LOADING: () => "The server is starting. Try again in a moment.",
  DRAINING: () => "The server is shutting down. Try again in a moment.",
  EMPTY_QUESTION: () => "There are no words in this question.",
  TOKEN_MISSING: () => "This server asks for a token.",
  TOKEN_INVALID: () => "The server does not accept this token.",
};
const CODES = {
  unreachable: "The server cannot be reached. Is it running, and are you connected?",
  deadline_exceeded: "This took too long, and the server gave up. Try again.",
  resource_exhausted: "The server is busy. Try again in a moment.",
  unavailable: "The server is not available. Try again in a moment.",
};

/** A sentence for a CallError; limits are the model's ImageLimits. */
export function sentence(error, limits) {
  if (error.reason in REASONS) return REASONS[error.reason](limits ?? {});
  if (error.reason === "INTERNAL") return `Something went wrong on the server. Its log has the details under ${error.id}.`;
  if (error.reason) return capital(error.message); // the caller's options or question: the server names limit and value
  return CODES[error.code] ?? "Something went wrong on the server.";
}

function capital(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
