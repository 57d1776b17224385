// A bundle's files, fetched and checked against its manifest: captioner/bundle.py in JavaScript.

const GRAPHS = ["encoder", "captioner", "answerer"];

/** The page could not be loaded; what went wrong is in the message. */
export class LoadError extends Error {}

/** The words of a vocabulary; the first four are marks. */
export class Vocabulary {
  constructor(words) {
    this.words = words;
    this.number = new Map(words.map((word, n) => [word, n]));
  }

  /** What is not a word, marks too, is unknown. */
  encode(tokens) {
    return tokens.map((token) => Math.max(this.number.get(token) ?? UNKNOWN, UNKNOWN));
  }
}

export const [PAD, END, UNKNOWN] = [0, 2, 3];

/** make() when it is first asked for; after a failure it is made again. */
export function once(make) {
  let kept = null;
  return () => (kept ??= make().catch((error) => {
    kept = null;
    throw error;
  }));
}

/** Fetches files beside the page and counts their bytes. */
export class Files {
  /** report({loaded, total}): bytes of the large files, those that sizes.json names. */
  constructor(report = () => {}) {
    Object.assign(this, { report, sizes: {}, loaded: 0 });
  }

  get total() {
    return Object.values(this.sizes).reduce((sum, size) => sum + size, 0);
  }

  /** The bytes of a file; with a hash they must have it, where the browser can tell (it can on https and localhost). */
  async bytes(name, hash) {
    const response = await fetch(new URL(name, import.meta.url)).catch((error) => {
      throw new LoadError(`The model could not be fetched: ${name}: ${error.message}.`);
    });
    if (!response.ok) throw new LoadError(`The model could not be fetched: ${name}: the server says ${response.status}.`);
    const bytes = await this.#read(response, name);
    if (hash && globalThis.crypto?.subtle && (await sha256(bytes)) !== hash) {
      throw new LoadError(`The model is damaged: ${name} is not the file that its manifest names.`);
    }
    return bytes;
  }

  async json(name, hash) {
    return JSON.parse(new TextDecoder().decode(await this.bytes(name, hash)));
  }

  async #read(response, name) {
    const size = this.sizes[name] ?? 0; // of the file; a compressed response is shorter than that
    let counted = 0;
    const count = (bytes) => {
      const more = Math.min(bytes, size - counted);
      counted += more;
      this.loaded += more;
      if (size) this.report({ loaded: this.loaded, total: this.total });
    };
    const chunks = [];
    const reader = response.body.getReader();
    try {
      for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
        chunks.push(value);
        count(value.length);
      }
    } catch (error) {
      this.loaded -= counted;
      throw new LoadError(`The model could not be fetched: ${name}: ${error.message}.`);
    }
    count(size - counted);
    return new Uint8Array(await new Blob(chunks).arrayBuffer());
  }
}

/** An opened bundle; its graphs are fetched when they are asked for. */
export class Bundle {
  static async open(files) {
    const bundle = new Bundle();
    bundle.files = files;
    files.sizes = await files.json("sizes.json");
    const manifest = await files.bytes("manifest.json");
    bundle.hashes = JSON.parse(new TextDecoder().decode(manifest)).files;
    bundle.version = crypto.subtle ? (await sha256(manifest)).slice(0, 12) : "";
    const { name, model, grid, search } = await files.json("config.json", bundle.hashes["config.json"]);
    const graphs = GRAPHS.filter((_, n) => [true, model.captions, model.answerer][n]);
    const precision = ["int8", "fp32"].find((each) => graphs.every((graph) => fileOf(graph, each) in bundle.hashes));
    Object.assign(bundle, { name, model, grid, search, graphs, precision });
    const list = (file) => files.json(file, bundle.hashes[file]);
    if (model.captions) bundle.vocabulary = new Vocabulary((await list("vocabulary.json")).words);
    if (model.answerer) {
      bundle.questionVocabulary = new Vocabulary((await list("question_vocabulary.json")).words);
      bundle.answers = (await list("answers.json")).answers;
    }
    return bundle;
  }

  graph(which) {
    const name = fileOf(which, this.precision);
    return this.files.bytes(name, this.hashes[name]);
  }
}

const fileOf = (graph, precision) => (precision === "fp32" ? `${graph}.onnx` : `${graph}.${precision}.onnx`);

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
