// The engine: pixels in; captions, answers and attention out. captioner/captioner.py in JavaScript, one photo at a time.

import { END, PAD, once } from "./bundle.js";
import { BadQuestion, best, check, inputs, padded, unknownWords } from "./questions.js";
import { sentence } from "./tokens.js";

const NEVER = -1e9; // the first score of all beams but one, so that the search starts from one empty sentence
const IMPOSSIBLE = -1e8; // below it a beam never came from that empty sentence

export class Model {
  /** runtime(): a promise of onnxruntime-web. */
  constructor(runtime, bundle) {
    this.bundle = bundle;
    this.sessions = {};
    for (const graph of bundle.graphs) {
      this.sessions[graph] = once(async () => {
        const [{ InferenceSession }, bytes] = await Promise.all([runtime(), bundle.graph(graph)]);
        return InferenceSession.create(bytes, { executionProviders: ["wasm"] });
      });
    }
    this.tensor = async (...parts) => new (await runtime()).Tensor(...parts);
  }

  /** Fetches and opens a graph, once; a fetch that failed is tried again by the next call. */
  load(graph) {
    return this.sessions[graph]();
  }

  /** What the encoder sees of {height, width, data}: a tensor [1, P, C]. */
  async encode({ height, width, data }) {
    const pixels = await this.tensor("uint8", new Uint8Array(data.buffer), [1, height, width, 3]);
    return (await (await this.load("encoder")).run({ pixels })).grid;
  }

  /** The best captions, best first; settings as captioner.config.SearchOptions. */
  async search(grid, { beam_size: beams, captions: wanted, max_words = this.bundle.search.max_words, length_power = this.bundle.search.length_power }) {
    const first = new Float32Array(beams).fill(NEVER);
    first[0] = 0;
    const steps = BigInt64Array.from({ length: max_words }, (_, n) => BigInt(n));
    const found = await (await this.load("captioner")).run({
      grid,
      first_scores: await this.tensor("float32", first, [beams]),
      steps: await this.tensor("int64", steps, [max_words]),
      length_power: await this.tensor("float32", [length_power], []),
      wanted: await this.tensor("int64", [BigInt(wanted)], []),
    });
    const captions = [];
    for (let k = 0; k < wanted; k++) {
      if (found.log_probs.data[k] > IMPOSSIBLE) captions.push(this.#caption(found, k));
    }
    return captions;
  }

  /** The answers to a question about a grid; raises BadQuestion. */
  async answer(grid, { question, history = [], top = 5 }) {
    check(question, history);
    const { bundle } = this;
    if (!bundle.answers.length) throw new BadQuestion("BAD_CANDIDATE", "this model only chooses between given answers");
    const feeds = { grid, picture: await this.tensor("int64", [0n], [1]) };
    for (const [name, rows] of Object.entries(inputs(bundle, question, history))) {
      const { data, dims } = padded(rows);
      feeds[name] = await this.tensor("int64", data, dims);
    }
    const found = await (await this.load("answerer")).run(feeds);
    return {
      answers: best(bundle.answers, found.log_probs.data, top),
      unknown_words: unknownWords(bundle.questionVocabulary, question),
      attention: found.attention ? this.#map(found.attention.data, 0) : null,
    };
  }

  #caption({ words, word_log_probs: each, log_probs, attention }, k) {
    const [, , steps] = words.dims;
    const said = [];
    for (let at = k * steps; at < (k + 1) * steps; at++) {
      const number = Number(words.data[at]);
      if (number === END || number === PAD) break;
      const text = this.bundle.vocabulary.words[number];
      said.push({ text, log_prob: each.data[at], attention: attention ? this.#map(attention.data, at) : null });
    }
    return { text: sentence(said.map((word) => word.text)), log_prob: log_probs.data[k], words: said };
  }

  #map(data, n) {
    const [rows, columns] = this.bundle.grid;
    return { rows, columns, weights: Array.from(data.subarray(n * rows * columns, (n + 1) * rows * columns)) };
  }
}
