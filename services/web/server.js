// Calls the server that this page came from, by the Connect protocol: one POST for one call.

import { decode, encode } from "./messages.js";

export const PROMISE = "Photos go to this server only, and it keeps none.";
export const UNSENT = " It was not sent.";

const SERVICE = "captioner.v1.CaptionService";
const SECONDS = 60;
const ATTEMPTS = 4;

/** A call that failed: a code of Connect, a reason of the contract ("" without), and the id of a fault in the log. */
export class CallError extends Error {
  constructor(code, message, { reason = "", retrySeconds = null, id = "" } = {}) {
    super(message);
    Object.assign(this, { code, reason, retrySeconds, id });
  }
}

let token = sessionStorage.getItem("token") ?? "";

/** Send this with every call from now on, until the tab is closed. */
export function useToken(value) {
  token = value;
  sessionStorage.setItem("token", value);
}

/** The response; a busy server is asked again a few times, after the pause that it names. */
export async function call(method, request, { signal, onwait = () => {} } = {}) {
  for (let attempt = 1; ; attempt++) {
    try {
      return await once(method, request, signal);
    } catch (error) {
      if (attempt === ATTEMPTS || !(error.retrySeconds >= 0) || error.retrySeconds === null) throw error;
      onwait();
      // Pages that were refused together do not come back together.
      await pause(Math.max(0.2, error.retrySeconds) * (1 + Math.random()) * attempt, signal);
    }
  }
}

async function once(method, request, signal) {
  const headers = { "content-type": "application/proto", "connect-protocol-version": "1", "connect-timeout-ms": `${1000 * SECONDS}` };
  if (token) headers.authorization = `Bearer ${token}`;
  const body = new Blob(encode(`${method}Request`, request));
  let response;
  try {
    response = await fetch(`/${SERVICE}/${method}`, { method: "POST", headers, body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError("unreachable", error.message);
  }
  if (!response.ok) throw await problem(response);
  return decode(`${method}Response`, await response.arrayBuffer());
}

async function problem(response) {
  const { code = "unknown", message = "", details = [] } = await response.json().catch(() => ({}));
  const found = (type) => {
    const detail = details.find((each) => each.type === `google.rpc.${type}`);
    return detail && decode(type, Uint8Array.from(atob(detail.value), (letter) => letter.charCodeAt(0)));
  };
  const info = found("ErrorInfo");
  const delay = found("RetryInfo")?.retry_delay;
  return new CallError(code, message, {
    reason: info?.reason,
    id: info?.metadata.find((entry) => entry.key === "id")?.value,
    retrySeconds: delay ? delay.seconds + delay.nanos / 1e9 : null,
  });
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
