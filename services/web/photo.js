// One photo on the page: its captions, the words to look behind, and the questions asked about it.

import { Light } from "./attention.js";
import { chance, list, mebibytes, percent, place, provenance, sentence } from "./sentences.js";
import { UNSENT } from "./server.js";

const clone = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);

export class Photo {
  /** page: settings(), writer(), answerer(), ask(method, request, options), say(text), remove(photo). */
  constructor(file, page) {
    Object.assign(this, { file, page, name: file.name || "Pasted photo", exchanges: [], pinned: null });
    this.element = clone("photo-template");
    this.find = (selector) => this.element.querySelector(selector);
    this.words = [];
    this.image = this.find("img");
    this.light = new Light(this.find("canvas"), this.image);
    this.find(".name").textContent = this.name;
    this.find(".name").title = this.name;
    this.image.alt = `Photo: ${this.name}`;
    this.image.onload = () => this.find(".frame").style.setProperty("--ratio", this.image.naturalWidth / this.image.naturalHeight);
    this.image.onerror = () => this.element.classList.add("unseen-photo");
    this.image.src = URL.createObjectURL(file);
    const about = this.find(".ask label");
    about.htmlFor = this.find(".ask input").id = `question-${crypto.getRandomValues(new Uint32Array(1))}`;
    this.find(".remove").setAttribute("aria-label", `Remove ${this.name}`);
    this.find(".remove").onclick = () => page.remove(this);
    this.find(".again").onclick = () => this.caption();
    this.find(".ask").onsubmit = (event) => (event.preventDefault(), this.#question());
    this.find(".captions").addEventListener("pointerleave", (event) => event.pointerType === "mouse" && this.rest());
    document.addEventListener("pointerdown", (event) => event.target.closest(".word, .where") || this.rest(), {
      signal: (this.gone = new AbortController()).signal,
    });
  }

  close() {
    this.gone.abort();
    this.captioning?.abort();
    URL.revokeObjectURL(this.image.src);
    this.element.remove();
  }

  /** Asks for captions with the page's settings; a call that is under way is dropped. */
  async caption() {
    this.captioning?.abort();
    const model = this.page.writer();
    this.find(".questions").hidden = !this.page.answerer();
    this.find(".context").hidden = !this.page.answerer()?.accepts_history;
    const limits = (model ?? this.page.answerer())?.image_limits;
    if (!model) return this.#waits(false);
    this.#problem("");
    if (limits && this.file.size > limits.max_bytes) {
      const size = `This file has ${mebibytes(this.file.size)}, and at most ${mebibytes(limits.max_bytes)} are accepted.`;
      return this.#problem(`${size}${UNSENT}`, false);
    }
    const { signal } = (this.captioning = new AbortController());
    this.#waits("Looking…");
    try {
      const request = { image: this.file, model: model.id, include_attention: model.has_attention, ...this.page.settings() };
      const onwait = () => this.#waits("The server is busy. Trying again…");
      const response = await this.page.ask("CaptionImage", request, { signal, onwait });
      if (!signal.aborted) this.#show(response);
    } catch (error) {
      if (!signal.aborted) this.#problem(sentence(error, limits), !["invalid_argument"].includes(error.code));
    }
  }

  #waits(text) {
    this.element.setAttribute("aria-busy", String(Boolean(text)));
    this.find(".say > .waiting").hidden = !text;
    if (text) this.find(".say > .waiting").textContent = text;
  }

  #problem(text, again = true) {
    const box = this.find(".say > .problem");
    box.hidden = !text;
    if (!text) return;
    this.#waits("");
    this.find(".captions").replaceChildren();
    this.find(".say > .facts").textContent = "";
    box.querySelector(".sentence").textContent = text;
    box.querySelector(".again").hidden = !again;
    this.page.say(`${this.name}: ${text}`);
  }

  #show(response) {
    this.#waits("");
    this.words = [];
    this.find(".captions").replaceChildren(...response.captions.map((caption) => this.#caption(caption)));
    const link = Object.assign(document.createElement("a"), { href: "#meaning", textContent: "what the numbers mean" });
    this.find(".say > .facts").replaceChildren(`${provenance(response)} · `, link);
    this.rest();
    if (response.captions.length) {
      this.image.alt = `Photo: ${response.captions[0].text || this.name}`;
      this.page.say(`${this.name}: ${response.captions[0].text || "an empty caption"}`);
    }
  }

  #caption(caption) {
    const item = clone("caption-template");
    const line = item.querySelector(".caption");
    const probability = Math.exp(caption.log_prob);
    line.setAttribute("aria-label", `${caption.text}. Probability ${chance(probability)}. Use the arrow keys for its words.`);
    const words = caption.words.map((word) => this.#word(word));
    let at = 0;
    words.forEach((word, n) => {
      const begin = caption.text.indexOf(caption.words[n].text, at); // "man" and "'s" stand together
      if (n && begin !== at) line.append(" ");
      at = begin + caption.words[n].text.length;
      line.append(word);
    });
    if (!words.length) line.append("(no words)");
    roving(words);
    item.querySelector(".chance").textContent = chance(probability);
    return item;
  }

  #word(word) {
    const button = document.createElement("button");
    const probability = Math.exp(word.log_prob);
    button.type = "button";
    button.className = "word";
    button.textContent = word.text;
    button.style.setProperty("--sure", `${Math.round(100 * probability)}%`);
    const looked = word.attention ? `, looked ${place(word.attention)}` : "";
    button.setAttribute("aria-label", `${word.text}, ${percent(probability)}${looked}`);
    const show = () => this.#look(button, word.attention, `${word.text}  ${percent(probability)}`);
    button.onfocus = button.onclick = show;
    button.onpointerenter = show;
    button.onblur = () => this.rest();
    button.addEventListener("keydown", (event) => event.key === "Escape" && this.rest(true));
    this.words.push(button);
    return button;
  }

  #look(source, map, told) {
    for (const each of this.element.querySelectorAll(".shown")) each.classList.remove("shown");
    source?.classList.add("shown");
    this.light.show(map ?? null);
    this.find(".told").textContent = told;
    this.find(".told").hidden = !told;
  }

  /** Back to the word that has the focus, else to the answer whose map is kept, else to the photo. */
  rest(unlit = false) {
    const focused = this.words.find((word) => word === document.activeElement && word.matches(":focus-visible"));
    if (focused && !unlit) return focused.onfocus();
    if (this.pinned) return this.#look(this.pinned.item, this.pinned.map, this.pinned.told);
    this.#look(null, null, "");
  }

  async #question() {
    const input = this.find(".ask input");
    const [text, model] = [input.value.trim(), this.page.answerer()];
    if (!text || !model) return;
    const item = clone("answer-template");
    const part = (selector) => item.querySelector(selector);
    part(".question").textContent = text;
    this.find(".answers").prepend(item);
    this.find(".ask").reset();
    const request = {
      image: this.file, model: model.id, question: text, include_attention: model.has_answer_attention,
      history: model.accepts_history ? this.exchanges.slice(-(model.question_limits?.max_history ?? 20)) : [],
    };
    try {
      const onwait = () => (part(".waiting").textContent = "The server is busy. Trying again…");
      this.#answer(item, text, await this.page.ask("AnswerQuestion", request, { signal: this.gone.signal, onwait }));
    } catch (error) {
      if (this.gone.signal.aborted) return;
      part(".problem").textContent = sentence(error, model.image_limits);
      part(".problem").hidden = false;
      this.page.say(part(".problem").textContent);
      input.value ||= text;
    }
    part(".waiting").hidden = true;
  }

  #answer(item, text, response) {
    const part = (selector) => item.querySelector(selector);
    const [best] = response.answers;
    part(".question").replaceChildren(...marked(text, response.unknown_words));
    part(".bars").replaceChildren(...response.answers.map(bar));
    part(".facts").textContent = provenance(response);
    const unknown = response.unknown_words.map((word) => `“${word}”`);
    const notice = unknown.length ? `The model does not know ${list(unknown)} and passed over ${unknown.length > 1 ? "them" : "it"}.` : "";
    part(".unknown").textContent = notice;
    part(".unknown").hidden = !notice;
    if (best) {
      this.exchanges.push({ question: text, answer: best.text });
      const looked = response.attention ? ` It looked ${place(response.attention)}.` : "";
      this.page.say(`${text} ${best.text}, ${percent(best.probability)}.${looked} ${notice}`);
    }
    if (!response.attention) return;
    const view = { item, map: response.attention, told: best ? `${best.text}  ${percent(best.probability)}` : "" };
    part(".where").hidden = false;
    part(".where").onclick = () => this.#pin(this.pinned?.item === item ? null : view);
    this.#pin(view);
  }

  #pin(view) {
    this.pinned = view;
    for (const where of this.element.querySelectorAll(".where")) {
      const on = Boolean(view) && view.item.contains(where);
      where.setAttribute("aria-pressed", String(on));
    }
    this.rest();
  }
}

/** One stop of the tab key for all words of a caption; within it, arrow keys, Home and End. */
function roving(words) {
  words.forEach((word, n) => {
    word.tabIndex = n ? -1 : 0;
    word.addEventListener("focus", () => words.forEach((each) => (each.tabIndex = each === word ? 0 : -1)));
    word.addEventListener("keydown", (event) => {
      const to = { ArrowRight: n + 1, ArrowDown: n + 1, ArrowLeft: n - 1, ArrowUp: n - 1, Home: 0, End: words.length - 1 }[event.key];
      if (!words[to]) return;
      event.preventDefault();
      words[to].focus();
    });
  });
}

/** The question, with the words that the model does not know marked. */
function marked(text, unknown) {
  return text.split(/([\p{L}\p{N}]+)/u).map((piece) => {
    if (!unknown.includes(piece.toLowerCase())) return piece;
    const mark = document.createElement("mark");
    mark.textContent = piece;
    mark.title = "The model does not know this word.";
    return mark;
  });
}

function bar({ text, probability }) {
  const item = clone("bar-template");
  item.querySelector(".text").textContent = text;
  item.querySelector(".percent").textContent = percent(probability);
  item.querySelector(".bar span").style.width = `${100 * probability}%`;
  return item;
}
