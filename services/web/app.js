// The page: which models there are, the settings, and the ways in which photos come.

import { Photo } from "./photo.js";
import { mebibytes, sentence } from "./sentences.js";
import { PROMISE, call, useToken } from "./server.js";

const AT_ONCE = 2; // captions asked for at a time
const AGAIN = 3000; // milliseconds until a server that did not answer is asked again which models it has
const narrow = matchMedia("(max-width: 52rem)");
const $ = (id) => document.getElementById(id);

const photos = [];
let models = [];
let free = AT_ONCE;
const waiting = [];

const page = {
  settings: () => ({ beam_size: Number($("beam").value), captions: Number($("captions").value) }),
  writer: () => models.find((model) => model.id === $("writer").value),
  answerer: () => models.find((model) => model.id === $("answerer").value),
  say: (text) => ($("status").textContent = text),
  remove,
  async ask(method, request, options = {}) {
    await turn(options.signal);
    try {
      return await authorised(method, request, options);
    } finally {
      free += 1;
      waiting.shift()?.();
    }
  },
};

/** Waits until fewer than AT_ONCE calls are under way. */
async function turn(signal) {
  while (!free) await new Promise((resolve) => waiting.push(resolve));
  if (signal?.aborted) {
    waiting.shift()?.();
    throw signal.reason;
  }
  free -= 1;
}

async function authorised(method, request, options) {
  for (;;) {
    try {
      return await call(method, request, options);
    } catch (error) {
      if (error.code !== "unauthenticated") throw error;
      await askForToken(error);
    }
  }
}

let asked = null;

function askForToken(error) {
  if (error.reason === "TOKEN_INVALID") $("token-problem").textContent = sentence(error);
  asked ??= new Promise((resolve) => {
    $("token").showModal();
    $("token").oncancel = (event) => event.preventDefault();
    $("token").querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      useToken($("token-value").value);
      $("token-value").value = "";
      $("token").close();
      asked = null;
      resolve();
    };
  });
  return asked;
}

async function load() {
  try {
    ({ models } = await authorised("ListModels", {}, {}));
  } catch (error) {
    $("problem").textContent = sentence(error);
    $("problem").hidden = false;
    if (["unreachable", "unavailable", "resource_exhausted", "deadline_exceeded"].includes(error.code)) setTimeout(load, AGAIN);
    return;
  }
  $("problem").hidden = true;
  const named = (name) => models.filter((model) => model.name === name).length;
  for (const model of models) model.id = named(model.name) > 1 ? `${model.name}@${model.version}` : model.name;
  choices("writer", models.filter((model) => model.writes_captions));
  choices("answerer", models.filter((model) => model.answers_questions));
  const able = [page.writer() && "writes captions for it and shows where it looked for each word", page.answerer() && "answers questions about it"];
  if (page.writer() && !page.writer().has_attention) able[0] = "writes captions for it";
  $("lead").textContent = `Show a photo, and a model ${able.filter(Boolean).join(", and ") || "does nothing with it"}.`;
  const { max_bytes: bytes, max_pixels: pixels } = models[0].image_limits;
  $("accepted").textContent =
    `JPEG, PNG, WebP or GIF, up to ${mebibytes(bytes)} and ${Math.round(pixels / 1e6)} megapixels. ${PROMISE}`;
  defaults();
  $("settings").hidden = $("meaning").hidden = false;
  about();
  photos.forEach((photo) => photo.caption());
}

function choices(id, able) {
  $(id).replaceChildren(...able.map((model) => new Option(model.id, model.id)));
  $(id).closest(".field").hidden = able.length < 2;
}

function defaults() {
  const writer = page.writer();
  for (const id of ["beam", "captions"]) $(id).closest(".field").hidden = !writer;
  $("beam-about").hidden = !writer;
  if (!writer) return;
  $("beam").value = writer.search_defaults.beam_size;
  $("beam").max = writer.search_maxima.beam_size;
  $("captions").max = $("beam").value;
  $("captions").value = Math.min(3, writer.search_defaults.beam_size);
}

function about() {
  const used = [...new Set([page.writer(), page.answerer()].filter(Boolean))];
  const lines = used.map((model) => {
    const line = document.createElement("p");
    line.textContent = `${model.name} ${model.version} · ${model.precision} on ${model.provider} · ${model.vocabulary_size.toLocaleString("en")} words`;
    if (!model.answers_questions && !page.answerer()) line.textContent += " · answers no questions";
    if (model.writes_captions && !model.has_attention) line.textContent += " · cannot show where it looked";
    return line;
  });
  $("about").replaceChildren(...lines);
}

addEventListener("hashchange", () => location.hash === "#meaning" && ($("meaning").open = true));
$("settings").onsubmit = (event) => event.preventDefault();
$("settings").onchange = (event) => {
  if (event.target.id === "writer") defaults();
  // k is the upper limit of captions, so a smaller k takes captions with it.
  if ($("beam").validity.valid) {
    $("captions").max = $("beam").value;
    if (Number($("captions").value) > Number($("beam").value)) $("captions").value = $("beam").value;
  }
  about();
  const wrong = [$("beam"), $("captions")].find((field) => !field.validity.valid);
  $("problem").hidden = !wrong;
  if (wrong) {
    $("problem").textContent = `${wrong.labels[0].textContent}: ${wrong.validationMessage}`;
    return;
  }
  photos.forEach((photo) => photo.caption());
};

/** Puts photos on top of the page, the first one first. */
function add(files) {
  const added = [...files].map((file) => new Photo(file, page));
  $("photos").prepend(...added.map((photo) => photo.element));
  photos.unshift(...added);
  document.body.classList.toggle("some", photos.length > 0);
  if (!added.length) return;
  page.say(added.length > 1 ? `${added.length} photos added` : `${added[0].name} added`);
  if (models.length) added.forEach((photo) => photo.caption());
  added[0].element.scrollIntoView({ block: narrow.matches ? "start" : "nearest" });
}

function remove(photo) {
  const at = photos.indexOf(photo);
  photos.splice(at, 1);
  photo.close();
  document.body.classList.toggle("some", photos.length > 0);
  page.say(`${photo.name} removed`);
  const next = photos[Math.min(at, photos.length - 1)];
  (next ? next.element.querySelector(".name") : $("choose")).focus();
}

for (const [button, input] of [["choose", "files"], ["take", "camera"]]) {
  $(button).onclick = () => $(input).click();
  $(input).onchange = () => {
    add($(input).files);
    $(input).value = ""; // so that the same photo can be chosen again
  };
}

document.addEventListener("paste", (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  add(event.clipboardData.files);
});

// Anywhere on the page is a good place to drop a photo.
let inside = 0;
const drags = (event) => [...event.dataTransfer.types].some((type) => type === "Files" || type === "text/uri-list");
const dragging = (by) => {
  inside = by ? Math.max(0, inside + by) : 0;
  document.body.classList.toggle("dragging", inside > 0);
};
document.addEventListener("dragenter", (event) => drags(event) && dragging(1));
document.addEventListener("dragleave", (event) => drags(event) && dragging(-1));
document.addEventListener("dragover", (event) => drags(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  dragging(0);
  if (!drags(event)) return;
  event.preventDefault();
  const { files } = event.dataTransfer;
  $("problem").textContent = "That was a link, not a file. Save the picture first, then drop the file here.";
  $("problem").hidden = files.length > 0;
  add(files);
});

load();
