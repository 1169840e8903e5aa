// A caption on the page: its words as buttons with their probabilities, and how it is copied.

/** @param {number} probability @returns {string} such as "43%" */
export function percent(probability) {
  if (probability > 0 && probability < 0.01) return "<1%";
  return `${Math.round(probability * 100)}%`;
}

/**
 * Return how sure the model is of a caption: the service's calibrated confidence, or else the geometric mean of the
 * probabilities of its words.
 *
 * @returns {{name: string, value: number} | null} null for a caption without words
 */
export function confidence(caption) {
  if (typeof caption.confidence === "number") return { name: "Confidence", value: caption.confidence };
  const words = caption.words ?? [];
  if (!words.length) return null;
  const mean = words.reduce((sum, word) => sum + word.log_prob, 0) / words.length;
  return { name: "Mean word probability", value: Math.exp(mean) };
}

/**
 * Put a calibrated confidence into words.
 *
 * @returns {{sure: string, frequency: string}} such as "fairly sure" and "about 8 of 10 captions like this are good"
 */
export function inWords(probability) {
  const sure = [
    [0.9, "very sure"],
    [0.7, "fairly sure"],
    [0.5, "somewhat sure"],
    [0.3, "unsure"],
    [0, "mostly guessing"],
  ].find(([least]) => probability >= least)[1];
  const tenths = Math.round(10 * probability);
  const good = tenths === 0 ? "hardly any" : tenths === 10 ? "nearly all" : `about ${tenths} of 10`;
  return { sure, frequency: `${good} captions like this ${tenths === 1 ? "is" : "are"} good` };
}

/**
 * Lay out a caption as word buttons with the text between them; one tab stop, arrow keys move from word to word.
 *
 * @param {HTMLElement} line element whose content they replace
 * @param {object} caption `caption` and `words`
 * @param {(word: object) => string} describe a word for people who do not see the photo
 * @param {(word: object | null) => void} point called with the word that is pointed at or focused; null for none
 */
export function layOut(line, caption, describe, point) {
  const buttons = [];
  let focused = null;
  line.replaceChildren();
  let end = 0;
  for (const word of caption.words ?? []) {
    const at = word.word ? caption.caption.indexOf(word.word, end) : -1;
    if (at < 0) continue;
    line.append(caption.caption.slice(end, at));
    end = at + word.word.length;
    const button = document.createElement("button");
    button.type = "button";
    button.className = /^\p{P}+$/u.test(word.word) ? "word mark" : "word";
    button.textContent = word.word;
    button.tabIndex = buttons.length ? -1 : 0;
    button.dataset.probability = percent(Math.exp(word.log_prob));
    button.style.setProperty("--probability", Math.exp(word.log_prob));
    button.ariaLabel = describe(word);
    const mark = (now) => {
      for (const other of buttons) other.classList.toggle("shown", other === now);
      point(now ? word : null);
    };
    button.onfocus = () => {
      for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
      focused = () => mark(button);
      focused();
    };
    button.onblur = () => mark((focused = null));
    button.onpointerenter = () => mark(button);
    button.onpointerleave = () => (focused ? focused() : mark(null));
    button.onclick = () => button.focus(); // a tap does not focus in every browser
    buttons.push(button);
    line.append(button);
  }
  line.append(caption.caption.slice(end));
  line.onkeydown = (event) => {
    const leftwards = getComputedStyle(line).direction === "rtl" ? 1 : -1;
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowLeft: at + leftwards, ArrowRight: at - leftwards, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    buttons[Math.min(Math.max(to, 0), buttons.length - 1)].focus();
  };
}

/**
 * Return an `img` element for the user's own page.
 *
 * @param {string} name name of the photo's file
 * @param {string} text alternative text
 * @param {string | null} [language] of the text, if known
 */
export function asHtml(name, text, language) {
  const escaped = (value) => value.replaceAll("&", "&amp;").replaceAll('"', "&quot;").replaceAll("<", "&lt;");
  const lang = language ? ` lang="${escaped(language)}"` : "";
  return `<img src="${escaped(encodeURIComponent(name))}" alt="${escaped(text)}"${lang}>`;
}

/** Put text on the clipboard; returns whether it worked. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // the clipboard API does not work on plain HTTP; execCommand does
    const field = document.createElement("textarea");
    const focused = document.activeElement;
    field.value = text;
    field.className = "unseen";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    focused?.focus();
    return done;
  }
}
