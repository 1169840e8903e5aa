// The page: takes a photo, sends it to the service, and shows the response.

import { Overlay, place } from "./attention.js";
import * as camera from "./camera.js";
import { asHtml, confidence, copy, inWords, layOut, percent } from "./caption.js";
import { headers, send, useKey } from "./send.js";

const $ = (id) => document.getElementById(id);
const overlay = new Overlay($("attention"));
const WHOLE = [0, 0, 1, 1];
const TOUCH = matchMedia("(pointer: coarse)").matches;

let model = null; // the response of /v1/model; null until it arrives
let current = null; // {controller, file, name, bytes}: the photo on the page; work on others stops

// ---------------------------------------------------------------- the model

async function askForModel() {
  try {
    const response = await fetch("v1/model", { headers: headers() });
    $("key-form").hidden = response.status !== 401;
    if (response.ok) model = await response.json();
  } catch {
    return; // retried with the next photo
  }
  if (!model) return;
  const where = [model.precision, model.device].filter(Boolean).join(", ");
  $("model-name").textContent = where ? `${model.name} (${where})` : model.name;
  $("model-licence").textContent = model.licence ?? "none stated";
  $("about-model").hidden = false;
  $("about-confidence").hidden = !model.confidence;
  $("about-confidence").textContent = `The confidence is the probability of this event: ${model.confidence}`;
  $("neutral-choice").hidden = !model.neutral;
  $("neutral").checked = Boolean(model.search?.neutral);
  const most = model.limits?.max_bytes;
  if (most) $("formats").textContent = `JPEG, PNG, WebP, GIF or BMP, up to ${megabytes(most)}`;
  $("caption").lang = $("choice-list").lang = model.language ?? ""; // empty: unknown, not the page's language
}

const megabytes = (bytes) => `${+(bytes / 1e6).toFixed(bytes < 1e6 ? 3 : 1)} MB`;

function options() {
  const wanted = {};
  if (model?.attention !== false) wanted.attention = true;
  const beams = model?.search?.beam_size ?? 1;
  if (model?.neutral) wanted.neutral = $("neutral").checked;
  if (beams > 1) wanted.n_best = Math.min(beams, 3);
  return wanted;
}

// ---------------------------------------------------------------- captioning a photo

async function take(file) {
  current?.controller.abort();
  const name = file.name || "photo.jpg";
  const photo = (current = { controller: new AbortController(), file, name, bytes: null, wanted: {} });
  const stale = () => photo !== current;
  clear();
  turnTo("sending");
  announce("Sending the photo");

  try {
    photo.bytes = await file.arrayBuffer();
  } catch {
    return stale() || fail("This file cannot be read; it may be a folder or deleted. Choose a photo.");
  }
  if (stale()) return;
  showPhoto(file);
  await caption(photo);
}

async function caption(photo) {
  const stale = () => photo !== current;
  if (!model) await modelAsked;
  if (!model) await (modelAsked = askForModel());
  if (stale()) return;
  const most = model?.limits?.max_bytes;
  if (most && photo.bytes.byteLength > most) {
    return fail(`This photo has ${megabytes(photo.bytes.byteLength)}, more than ${megabytes(most)}; scale it down first.`);
  }
  clearInterval($("retry").waiting);
  $("problem").textContent = "";
  turnTo("sending");
  const outcome = await send(photo.bytes, { ...options(), ...photo.wanted }, photo.controller.signal, (sent) => stale() || showProgress(sent));
  if (stale() || outcome.kind === "aborted") return;
  if (outcome.kind === "caption") showCaption(outcome.answer);
  else if (outcome.kind === "abstained") showAbstained(outcome.answer);
  else if (outcome.kind === "busy") showBusy(outcome);
  else if (outcome.kind === "refused") fail(outcome.sentence);
  else fail("The service cannot be reached; check the connection.", "offline");
}

function cancel() {
  current?.controller.abort();
  current = null;
  clear();
  turnTo("idle");
  announce("Cancelled");
  $("file").focus();
}

// ---------------------------------------------------------------- output

/** Show one state: idle, sending, done, or one of abstained, error, busy and offline, which look alike. */
function turnTo(state) {
  document.body.dataset.state = state;
  const focused = document.activeElement;
  $("result").hidden = state === "idle";
  $("sending").hidden = state !== "sending";
  $("done").hidden = state !== "done";
  $("retry").hidden = !["abstained", "busy", "offline"].includes(state);
  // if the focused element disappears, the keyboard continues from the result, not from the top
  if (focused !== document.body && !focused.checkVisibility()) $("result").focus();
}

function clear() {
  clearInterval($("retry").waiting);
  if ($("done").contains(document.activeElement)) $("result").focus();
  $("problem").textContent = "";
  $("progress").removeAttribute("value");
  $("progress-text").textContent = "Sending the photo";
  overlay.show(null);
  overlay.place(WHOLE);
  $("figure").hidden = true;
  URL.revokeObjectURL($("photo").src);
  $("photo").removeAttribute("src");
  $("photo").alt = "";
  for (const id of ["caption", "choice-list", "facts", "readout"]) $(id).replaceChildren();
}

/** Show a file if it is an image; otherwise the service reports the error. */
function showPhoto(file) {
  const photo = current;
  $("photo").onload = () => {
    if (photo !== current) return;
    $("frame").style.setProperty("--aspect", $("photo").naturalWidth / $("photo").naturalHeight);
    $("figure").hidden = false;
  };
  $("photo").src = URL.createObjectURL(file);
  $("photo").alt ||= "Your photo, not captioned yet";
}

function showProgress(sent) {
  if (sent < 1) return ($("progress").value = sent);
  $("progress").removeAttribute("value"); // how long captioning takes is not known
  $("progress-text").textContent = "Looking at the photo";
}

function showCaption(answer) {
  const captions = [answer, ...(answer.alternatives ?? [])];
  overlay.place(answer.attention_box ?? WHOLE);
  turnTo("done");
  showChoice(captions[0], answer);
  $("choices").hidden = captions.length < 2;
  $("choice-list").replaceChildren(...captions.map((one, index) => choice(one, index, answer)));
  announce(`Caption: ${answer.caption || "none"}`);
}

/** Create the radio button of a caption. */
function choice(one, index, answer) {
  const label = document.createElement("label");
  const radio = Object.assign(document.createElement("input"), { type: "radio", name: "choice", checked: !index });
  const text = Object.assign(document.createElement("span"), { textContent: one.caption || "(no words)", dir: "auto" });
  const share = Object.assign(document.createElement("span"), { className: "share" });
  const sure = confidence(one);
  share.textContent = sure ? percent(sure.value) : "";
  radio.onchange = () => showChoice(one, answer);
  label.append(radio, text, share);
  return label;
}

function showChoice(one, answer) {
  const box = answer.attention_box ?? WHOLE;
  const attends = (one.words ?? []).some((word) => word.alpha);
  const idle = attends
    ? `${TOUCH ? "Tap a word" : "Point at a word, or use the arrow keys,"} to see where the model looked.`
    : "The number below each word is the probability that the model gave it.";
  const describe = (word) => {
    const probability = percent(Math.exp(word.log_prob));
    return `${word.word}, ${probability}${word.alpha ? `, looked ${place(word.alpha, box)}` : ""}`;
  };
  layOut($("caption"), one, describe, (word) => {
    overlay.show(word?.alpha ?? null);
    $("readout").textContent = word
      ? `“${word.word}” has a probability of ${percent(Math.exp(word.log_prob))}` +
        (word.alpha ? `; the model looked ${place(word.alpha, box)}.` : ".")
      : idle;
  });
  overlay.show(null);
  $("readout").textContent = idle;
  if (!one.caption) $("caption").textContent = "(no words)";
  $("photo").alt = one.caption || "Your photo, for which the model found no words";

  const sure = confidence(one);
  const facts = [];
  if (sure) facts.push([sure.name, percent(sure.value), "geometric mean"]);
  if (sure?.name === "Confidence") {
    const { sure: how, frequency } = inWords(sure.value);
    facts[0] = [sure.name, `${percent(sure.value)}, ${how}`, frequency];
  }
  const { total, ...stages } = answer.timing_ms ?? {};
  const detail = Object.entries(stages).map(([stage, ms]) => `${stage} ${Math.round(ms)}`);
  if (total !== undefined) facts.push(["Time", `${Math.round(total)} ms`, detail.join(", ")]);
  if (one.finished === false) facts.push(["Cut off", "at the maximum length"]);
  $("facts").replaceChildren(...facts.map(fact));

  $("copy").onclick = () => copied(one.caption);
  $("copy-html").onclick = () => copied(asHtml(current.name, one.caption, model?.language));
}

function fact([name, value, detail]) {
  const pair = document.createElement("div");
  const term = Object.assign(document.createElement("dt"), { textContent: name });
  const says = Object.assign(document.createElement("dd"), { textContent: value });
  if (detail) says.append(" ", Object.assign(document.createElement("small"), { textContent: detail }));
  pair.append(term, says);
  return pair;
}

async function copied(text) {
  remark((await copy(text)) ? "Copied." : "The browser does not allow copying; select the text instead.", 3000);
}

function fail(sentence, state = "error") {
  turnTo(state);
  $("photo").alt = "Your photo, without a caption";
  announce("");
  $("problem").textContent = sentence;
  $("retry").textContent = "Try again";
  $("retry").ariaDisabled = null;
}

/** Show that the model abstained, and offer its caption. */
function showAbstained({ confidence: value }) {
  const sentence = `Its confidence is ${percent(value)}: ${inWords(value).frequency}.`;
  fail(`The model is not sure enough of its caption to show it. ${sentence}`, "abstained");
  $("retry").textContent = "Show the caption anyway";
}

function showBusy({ sentence, wait }) {
  fail(sentence, "busy");
  const until = performance.now() + wait * 1000;
  const tick = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    $("retry").ariaDisabled = left > 0 ? "true" : null; // not disabled, which would remove it from the tab order
    $("retry").textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left <= 0) clearInterval($("retry").waiting);
  };
  $("retry").waiting = setInterval(tick, 250);
  tick();
}

function retry() {
  if (!current || $("retry").ariaDisabled) return;
  // kept for all further tries
  if (document.body.dataset.state === "abstained") current.wanted = { min_confidence: 0 };
  turnTo("sending");
  announce("Sending the photo");
  caption(current);
}

/** Announce a sentence to screen readers. */
function announce(sentence) {
  $("status").textContent = sentence;
}

/** Show a short message without changing the photo on the page. */
function remark(sentence, milliseconds = 6000) {
  clearTimeout($("remark").going);
  $("remark").textContent = sentence;
  $("remark").going = setTimeout(() => $("remark").replaceChildren(), milliseconds);
}

// ---------------------------------------------------------------- input

function takeFirst(files) {
  take(files[0]);
  if (files.length > 1) remark(`This page captions one photo at a time; it took the first of ${files.length}.`);
}

for (const input of [$("file"), $("capture")]) {
  input.onchange = () => {
    const files = [...input.files];
    input.value = ""; // so that the same file can be picked again
    if (files.length) takeFirst(files);
  };
}

addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) takeFirst(files);
  else if (event.target !== $("key")) remark("There is no photo on the clipboard; copy the photo itself, not its address.");
});

let inside = 0; // elements that the dragged item has entered and not left
const holdsFile = (event) => [...event.dataTransfer.types].includes("Files");
const drag = (change, event) => {
  inside = Math.max(inside + change, 0);
  document.body.classList.toggle("dragging", inside > 0 && holdsFile(event));
};
addEventListener("dragenter", (event) => drag(1, event));
addEventListener("dragleave", (event) => drag(-1, event));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  drag(-inside, event);
  const files = [...event.dataTransfer.files];
  if (files.length) takeFirst(files);
  else remark("That was not a file; save the photo first, then drop it here.");
});

$("use-camera").hidden = !camera.available;
$("phone-camera").hidden = camera.available || !TOUCH;
$("use-camera").onclick = async () => {
  try {
    const photo = await camera.takePhoto($("camera"), $("viewfinder"), $("shoot"));
    if (photo) take(photo);
  } catch {
    remark("The camera cannot be used; allow it for this page, or choose a photo.");
  }
};
$("close-camera").onclick = () => $("camera").close();

$("neutral").onchange = () => {
  if (!current?.bytes) return;
  current.controller.abort();
  current.controller = new AbortController();
  caption(current);
};
$("key-form").onsubmit = (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  modelAsked = askForModel();
  if (current?.bytes) caption(current);
};
$("cancel").onclick = cancel;
$("retry").onclick = retry;
$("frame").onclick = () => document.activeElement.blur(); // a tap on the photo hides the overlay
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("camera").open) return;
  if (document.body.dataset.state === "sending") cancel();
  else overlay.show(null);
});
addEventListener("online", () => document.body.dataset.state === "offline" && retry());

if (/Mac|iPhone|iPad/.test(navigator.platform)) $("paste-key").textContent = "⌘ V";
let modelAsked = askForModel();
