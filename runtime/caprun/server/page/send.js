// Sends a photo to be captioned, and classifies the response.

const KEY = "caprun-key";

/** Keep the API key until this tab is closed. Keys are ASCII; a pasted one may begin or end with a space or an invisible character. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key.replace(/^[^!-~]+|[^!-~]+$/g, ""));
}

/** Return the headers of API requests: the key, if the user entered one. */
export function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Send a photo.
 *
 * Aborting the signal closes the connection, which tells the service that nobody is waiting for the answer.
 * This uses XMLHttpRequest, because fetch does not report how much of a body has been sent.
 *
 * @param {ArrayBuffer} photo the file's bytes
 * @param {Record<string, string|number|boolean>} options of /v1/caption
 * @param {AbortSignal} signal
 * @param {(sent: number) => void} progress called with the fraction sent, from 0 to 1
 * @returns {Promise<
 *   {kind: "caption", answer: object} |
 *   {kind: "abstained", answer: object} |
 *   {kind: "refused", sentence: string} |
 *   {kind: "busy", sentence: string, wait: number} |
 *   {kind: "unreachable"} |
 *   {kind: "aborted"}>} `wait`: seconds until the next try
 */
export function send(photo, options, signal, progress) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve({ kind: "aborted" });
    const request = new XMLHttpRequest();
    request.open("POST", `v1/caption?${new URLSearchParams(options)}`);
    const all = { "Content-Type": "application/octet-stream", ...headers() };
    for (const [name, value] of Object.entries(all)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => resolve(outcome(request));
    request.onerror = () => resolve({ kind: "unreachable" });
    request.onabort = () => resolve({ kind: "aborted" });
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(photo);
  });
}

function outcome(request) {
  let answer = null;
  try {
    answer = JSON.parse(request.responseText);
  } catch {
    // a proxy in front of the service may answer in another format
  }
  if (request.status === 200 && typeof answer?.caption === "string") return { kind: "caption", answer };
  if (request.status === 200 && typeof answer?.confidence === "number" && answer.abstained) {
    return { kind: "abstained", answer };
  }
  const said = typeof answer?.error === "string" ? answer.error : "";
  if (request.status === 429 || request.status === 503) {
    const wait = seconds(request.getResponseHeader("Retry-After"));
    return { kind: "busy", sentence: said || "The service is overloaded; try again later.", wait };
  }
  return { kind: "refused", sentence: said || `The service gave no reason for status ${request.status}; try again later.` };
}

/** Return the seconds of a Retry-After header, which is a number or a date. */
function seconds(retryAfter) {
  const wait = Number(retryAfter ?? 1) || (Date.parse(retryAfter) - Date.now()) / 1000 || 1;
  return Math.min(Math.max(Math.ceil(wait), 1), 600);
}
