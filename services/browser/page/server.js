// In place of services/web/server.js: calls go to the model in a worker of this page, and photos go nowhere.

import { progress } from "./progress.js";

export const PROMISE = "Photos stay on this device: the model runs in this page.";
export const UNSENT = "";

/** A call that failed: a code of Connect and a reason of the contract. */
export class CallError extends Error {
  constructor({ code, reason, message }) {
    super(message);
    Object.assign(this, { code, reason });
  }
}

const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
const calls = new Map();
const numbers = new WeakMap(); // of photos, so that the worker knows one again
let [count, photos] = [0, 0];

/** The page calls this for a server that asks for tokens; this one does not. */
export function useToken() {}

/** The response of a method of captioner.v1, in the names of its messages. */
export function call(method, request, { signal } = {}) {
  return new Promise((resolve, reject) => {
    const id = ++count;
    const file = request.image;
    if (file && !numbers.has(file)) numbers.set(file, ++photos);
    calls.set(id, { resolve, reject });
    signal?.addEventListener("abort", () => {
      if (!calls.delete(id)) return;
      worker.postMessage({ drop: id });
      reject(signal.reason);
    }, { once: true });
    worker.postMessage({ id, method, request, photo: file && numbers.get(file) });
  });
}

worker.onmessage = ({ data: { id, response, error, progress: now } }) => {
  if (!id) return progress(now);
  const waiting = calls.get(id);
  calls.delete(id);
  if (error) waiting?.reject(new CallError(error));
  else waiting?.resolve(response);
};

worker.onerror = (event) => {
  const message = event.message ?? "it could not be started";
  const error = { code: "internal", reason: "RUNTIME", message: `The model does not run in this browser: ${message}` };
  for (const { reject } of calls.values()) reject(new CallError(error));
  calls.clear();
};
