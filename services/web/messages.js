// Messages of proto/captioner/v1 in protobuf's wire format: field -> [number, kind], "[]" for a repeated one.

export const MESSAGES = {
  CaptionImageRequest: {
    image: [1, "bytes"], model: [2, "string"], beam_size: [3, "int32"], captions: [5, "int32"],
    include_attention: [7, "bool"],
  },
  CaptionImageResponse: {
    captions: [1, "Caption[]"], model: [2, "string"], model_version: [3, "string"],
    stage_durations: [4, "StageDurations"],
  },
  Caption: { text: [1, "string"], log_prob: [2, "double"], words: [4, "Word[]"] },
  Word: { text: [1, "string"], log_prob: [2, "double"], attention: [3, "AttentionMap"] },
  AttentionMap: { rows: [1, "int32"], columns: [2, "int32"], weights: [3, "float[]"] },
  StageDurations: {
    decode: [1, "Duration"], encode: [2, "Duration"], search: [3, "Duration"], queue: [4, "Duration"],
  },
  AnswerQuestionRequest: {
    image: [1, "bytes"], model: [2, "string"], question: [3, "string"], history: [5, "Exchange[]"],
    include_attention: [7, "bool"],
  },
  Exchange: { question: [1, "string"], answer: [2, "string"] },
  AnswerQuestionResponse: {
    answers: [1, "Answer[]"], unknown_words: [2, "string[]"], attention: [4, "AttentionMap"], model: [5, "string"],
    model_version: [6, "string"], stage_durations: [7, "StageDurations"],
  },
  Answer: { text: [1, "string"], probability: [2, "double"] },
  ListModelsRequest: {},
  ListModelsResponse: { models: [1, "Model[]"] },
  Model: {
    name: [1, "string"], version: [2, "string"], precision: [3, "string"], provider: [4, "string"],
    vocabulary_size: [5, "int32"], has_attention: [6, "bool"], search_defaults: [7, "SearchOptions"],
    search_maxima: [8, "SearchOptions"], image_limits: [9, "ImageLimits"], writes_captions: [10, "bool"],
    answers_questions: [11, "bool"], answer_count: [12, "int32"], has_answer_attention: [13, "bool"],
    accepts_history: [14, "bool"], question_limits: [15, "QuestionLimits"],
  },
  QuestionLimits: { max_characters: [1, "int32"], max_words: [2, "int32"], max_history: [4, "int32"] },
  SearchOptions: { beam_size: [1, "int32"], captions: [3, "int32"] },
  ImageLimits: {
    max_bytes: [1, "int64"], max_pixels: [2, "int64"], min_side: [3, "int32"], max_side: [4, "int32"],
    max_aspect: [5, "double"],
    max_scans: [6, "int32"],
  },
};

// What errors carry: google.rpc's details, and google.protobuf.Duration.
const DETAILS = {
  ErrorInfo: { reason: [1, "string"], metadata: [3, "Entry[]"] },
  Entry: { key: [1, "string"], value: [2, "string"] },
  RetryInfo: { retry_delay: [1, "Duration"] },
  Duration: { seconds: [1, "int64"], nanos: [2, "int32"] },
};
const KNOWN = { ...MESSAGES, ...DETAILS };
const UTF8 = new TextEncoder();
const EMPTY = { string: "", bool: false, int32: 0, int64: 0, double: 0, float: 0 };

/** The parts of a Blob that is the message; a field of bytes is given as a Blob, and is not copied. */
export function encode(type, message) {
  const parts = [];
  for (const [name, [number, kind]] of Object.entries(KNOWN[type])) {
    const value = message[name];
    if (value === undefined) continue;
    for (const each of kind.endsWith("[]") ? value : [value]) parts.push(...field(number, kind.replace("[]", ""), each));
  }
  return parts;
}

function field(number, kind, value) {
  if (kind === "bool" || kind.startsWith("int")) return [varint(number * 8), varint(Number(value))];
  if (kind === "bytes") return [varint(number * 8 + 2), varint(value.size), value];
  const parts = kind === "string" ? [UTF8.encode(value)] : encode(kind, value);
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  return [varint(number * 8 + 2), varint(size), ...parts];
}

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return new Uint8Array([...bytes, value]);
}

/** The message in an ArrayBuffer or a view of one. Unknown fields are passed over; a message that is not there is undefined. */
export function decode(type, buffer) {
  const view = ArrayBuffer.isView(buffer) ? new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength) : new DataView(buffer);
  const message = {};
  const byNumber = new Map();
  for (const [name, [number, kind]] of Object.entries(KNOWN[type])) {
    message[name] = kind.endsWith("[]") ? [] : EMPTY[kind];
    byNumber.set(number, [name, kind]);
  }
  let at = 0;
  const whole = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = view.getUint8(at++);
      value += (byte % 128) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < view.byteLength) {
    const [key, begin] = [whole(), at];
    const wire = key % 8;
    const value = wire === 0 ? whole() : wire === 1 ? view.getFloat64(at, true) : wire === 5 ? view.getFloat32(at, true) : null;
    if (wire === 1 || wire === 5) at = begin + (wire === 1 ? 8 : 4);
    const size = wire === 2 ? whole() : 0;
    const bytes = new Uint8Array(view.buffer, view.byteOffset + at, size);
    at += size;
    const [name, kind] = byNumber.get(Math.floor(key / 8)) ?? [];
    if (!name) continue;
    if (kind === "float[]" && wire === 2) message[name] = floats(bytes);
    else if (kind.endsWith("[]")) message[name].push(scalar(kind.slice(0, -2), value, bytes));
    else message[name] = scalar(kind, value, bytes);
  }
  return message;
}

function scalar(kind, value, bytes) {
  if (kind === "string") return new TextDecoder().decode(bytes);
  if (kind === "bool") return value !== 0;
  return kind in EMPTY ? value : decode(kind, bytes);
}

function floats(bytes) {
  return new Float32Array(bytes.slice().buffer);
}
