// What becomes of a photo that is sent to be captioned.

const KEY = "caprun-key";

/** Keep the key of the service until this tab is closed. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Headers of every request to the API: the key, where a person gave one. */
export function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/**
 * Send a photo.
 *
 * Aborting the signal closes the connection, by which the service knows that nobody waits for the answer.
 * XMLHttpRequest, because fetch does not tell how much of a body is sent.
 *
 * @param {ArrayBuffer} photo the file's bytes
 * @param {Record<string, string|number|boolean>} options of the search, as /v1/caption takes them
 * @param {AbortSignal} signal
 * @param {(sent: number) => void} progress is told the fraction sent, from 0 to 1
 * @returns {Promise<
 *   {kind: "caption", answer: object} |
 *   {kind: "abstained", answer: object} |
 *   {kind: "refused", sentence: string} |
 *   {kind: "busy", sentence: string, wait: number} |
 *   {kind: "unreachable"} |
 *   {kind: "aborted"}>} `wait`: seconds until it is worth trying again
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
    // a proxy between here and the service may answer in its own words
  }
  if (request.status === 200 && typeof answer?.caption === "string") return { kind: "caption", answer };
  if (request.status === 200 && typeof answer?.confidence === "number" && answer.abstained) {
    return { kind: "abstained", answer };
  }
  const said = typeof answer?.error === "string" ? answer.error : "";
  if (request.status === 429 || request.status === 503) {
    const wait = seconds(request.getResponseHeader("Retry-After"));
    return { kind: "busy", sentence: said || "The service has more to do than it can.", wait };
  }
  return { kind: "refused", sentence: said || `The service answered ${request.status}, and not why; try again later.` };
}

/** Of a Retry-After header: a number or a date. */
function seconds(retryAfter) {
  const wait = Number(retryAfter ?? 1) || (Date.parse(retryAfter) - Date.now()) / 1000 || 1;
  return Math.min(Math.max(Math.ceil(wait), 1), 600);
}
