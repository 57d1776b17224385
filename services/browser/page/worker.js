// The model off the page's own thread: calls come as {id, method, request, photo}, go back as {id, response} or
// {id, error}; {progress} in between says how much of the model is here.

import * as ort from "./ort.wasm.bundle.min.mjs";
import { Bundle, Files, LoadError, once } from "./bundle.js";
import { BadImage, LIMITS as IMAGE_LIMITS } from "./files.js";
import { Model } from "./model.js";
import { pixels } from "./pixels.js";
import { BadQuestion, LIMITS as QUESTION_LIMITS } from "./questions.js";

const RUNTIME = "ort-wasm-simd-threaded.wasm";
const MOST_THREADS = 4;
const MOST_GRIDS = 32; // of 250 kB each for MobileNetV2
const MAXIMA = { beam_size: 20, captions: 20 };

const threads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1;
const files = new Files((progress) => postMessage({ progress }));
const grids = new Map(); // by photo, a promise of {grid, stages}
const dropped = new Set();
let last = Promise.resolve();

const runtime = once(async () => {
  ort.env.wasm.wasmBinary = await files.bytes(RUNTIME);
  return ort;
});
const model = once(async () => {
  ort.env.wasm.numThreads = threads;
  return new Model(runtime, await Bundle.open(files));
});

const METHODS = {
  async ListModels() {
    const { bundle } = await model();
    warm().catch(() => {});
    const { model: config } = bundle;
    const one = {
      name: bundle.name, version: bundle.version, precision: bundle.precision,
      provider: `WebAssembly, ${threads === 1 ? "1 thread" : `${threads} threads`}`,
      vocabulary_size: (bundle.vocabulary ?? bundle.questionVocabulary).words.length,
      writes_captions: config.captions, has_attention: config.attention !== "none",
      answers_questions: Boolean(config.answerer), has_answer_attention: config.answerer?.kind === "attention",
      accepts_history: Boolean(config.answerer?.history), answer_count: bundle.answers?.length ?? 0,
      search_defaults: { beam_size: bundle.search.beam_size, captions: 1 }, search_maxima: MAXIMA,
      image_limits: IMAGE_LIMITS, question_limits: QUESTION_LIMITS,
    };
    return { models: [one] };
  },

  async CaptionImage(request, photo) {
    const { model, grid, stages } = await look(request.image, photo);
    const begin = performance.now();
    const captions = await model.search(grid, request);
    return { captions, ...made(model, { ...stages, search: performance.now() - begin }) };
  },

  async AnswerQuestion(request, photo) {
    const { model, grid, stages } = await look(request.image, photo);
    const begin = performance.now();
    const found = await model.answer(grid, request);
    return { ...found, ...made(model, { ...stages, search: performance.now() - begin }) };
  },
};

/** What the encoder sees in a photo, remembered; how long it took, the first time. */
async function look(file, photo) {
  const it = await model();
  const known = grids.get(photo);
  grids.delete(photo);
  if (known) {
    grids.set(photo, known); // the last used is the last to go
    return { model: it, grid: known, stages: {} };
  }
  const begin = performance.now();
  const picture = await pixels(file, it.bundle.model.preprocessing);
  const decode = performance.now() - begin;
  await it.load("encoder");
  const encoding = performance.now();
  const grid = await it.encode(picture);
  grids.set(photo, grid);
  if (grids.size > MOST_GRIDS) grids.delete(grids.keys().next().value);
  return { model: it, grid, stages: { decode, encode: performance.now() - encoding } };
}

function made({ bundle }, stages) {
  const durations = Object.entries(stages).map(([stage, ms]) => [stage, { seconds: 0, nanos: 1e6 * ms }]);
  return { model: bundle.name, model_version: bundle.version, stage_durations: Object.fromEntries(durations) };
}

/** Fetches all graphs before they are asked for, the encoder first; what fails is told to whoever asks. */
async function warm() {
  try {
    const it = await model();
    for (const graph of it.bundle.graphs) await it.load(graph);
  } finally {
    postMessage({ progress: null });
  }
}

function describe(error) {
  if (error instanceof BadImage || error instanceof BadQuestion) return { code: "invalid_argument", reason: error.reason, message: error.message };
  if (error instanceof LoadError) return { code: "unreachable", reason: "LOAD", message: error.message };
  return { code: "internal", reason: "RUNTIME", message: `The model failed in this browser: ${error?.message ?? error}` };
}

async function answer({ id, method, request, photo }) {
  if (dropped.delete(id)) return;
  try {
    postMessage({ id, response: await METHODS[method](request, photo) });
  } catch (error) {
    postMessage({ id, error: describe(error) });
  }
  dropped.delete(id);
}

onmessage = ({ data }) => {
  if (data.drop) return dropped.add(data.drop);
  if (data.method === "ListModels") return answer(data);
  last = last.then(() => answer(data)); // one photo at a time, in order
};
