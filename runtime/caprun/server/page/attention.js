// Where the model looked: as light and shade on the photo, and in words.

const CELL = 11; // overlay pixels per grid cell; odd, so that one is the middle
const SHADE = 0.75; // opacity of the black on regions without attention
const GLOW = 0.4; // opacity of the light on regions with attention
const LIGHT = [255, 196, 92];
const SLOW = 220; // milliseconds of the transition between words

/**
 * Compute a word's attention to each cell, and how far it stands out.
 *
 * @param {number[][]} alpha weights of the cells, in rows
 * @returns {{warmth: number[][], strength: number}} warmth: 0 at or below the mean weight, 1 at the largest; strength:
 *   0 where all weights are the same, 1 where the largest is three times their mean or more
 */
function look(alpha) {
  const weights = alpha.flat();
  const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length;
  const most = Math.max(...weights);
  if (!(most > mean)) return { warmth: alpha.map((row) => row.map(() => 0)), strength: 0 };
  const warmth = alpha.map((row) => row.map((weight) => Math.max(weight - mean, 0) / (most - mean)));
  return { warmth, strength: Math.min((most / mean - 1) / 2, 1) };
}

/**
 * Describe where the model looked, for people who do not see it.
 *
 * @param {number[][]} alpha
 * @param {number[]} box left, top, right, bottom of the grid in fractions of the photo
 * @returns {string} such as "at the upper left"
 */
export function place(alpha, [left, top, right, bottom]) {
  const { warmth, strength } = look(alpha);
  if (strength < 0.05) return "all over the photo";
  let sum = 0;
  let across = 0;
  let down = 0;
  warmth.forEach((row, i) =>
    row.forEach((warm, j) => {
      sum += warm ** 2; // squared, so that the brightest cells outweigh many weak ones
      across += warm ** 2 * (left + ((right - left) * (j + 0.5)) / row.length);
      down += warm ** 2 * (top + ((bottom - top) * (i + 0.5)) / warmth.length);
    }),
  );
  const third = (value) => Math.min(Math.floor((3 * value) / sum), 2);
  const row = ["upper", "", "lower"][third(down)];
  const column = ["left", "", "right"][third(across)];
  const where = row && column ? `at the ${row} ${column}` : row ? `at the ${row} middle` : `at the ${column || "middle"}`;
  return strength < 0.4 ? `all over the photo, a little more ${where}` : where;
}

/** A canvas over the photo that lights the regions that the model looked at, and shades the rest. */
export class Overlay {
  #canvas;
  #shown = null; // Float32Array of the canvas's pixels, -1 shade to 1 light
  #frame = 0;

  /** @param {HTMLCanvasElement} canvas over the photo, as large as its frame */
  constructor(canvas) {
    this.#canvas = canvas;
    canvas.style.opacity = 0;
  }

  /** Lay the overlay on the part of the photo that the model saw: left, top, right, bottom in fractions. */
  place([left, top, right, bottom]) {
    Object.assign(this.#canvas.style, {
      left: `${left * 100}%`,
      top: `${top * 100}%`,
      width: `${(right - left) * 100}%`,
      height: `${(bottom - top) * 100}%`,
    });
  }

  /** @param {number[][] | null} alpha of a word; null for the photo as it is */
  show(alpha) {
    cancelAnimationFrame(this.#frame);
    const seen = Number(getComputedStyle(this.#canvas).opacity) > 0; // or still fading: a pointer moves between words
    this.#canvas.style.opacity = alpha ? 1 : 0; // the style sheet sets the transition
    if (!alpha) return;
    const { warmth, strength } = look(alpha);
    const { map, width, height } = smooth(warmth);
    const contrast = Math.sqrt(strength); // the root keeps weak attention visible
    map.forEach((warm, i) => (map[i] = contrast * (2 * warm - 1)));
    const from = seen && this.#shown?.length === map.length ? this.#shown : null;
    if (!from || matchMedia("(prefers-reduced-motion: reduce)").matches) return this.#paint(map, width, height);
    const start = performance.now();
    const step = (now) => {
      const t = Math.min(Math.max((now - start) / SLOW, 0), 1);
      const eased = t * t * (3 - 2 * t);
      this.#paint(map.map((to, i) => from[i] + (to - from[i]) * eased), width, height);
      if (t < 1) this.#frame = requestAnimationFrame(step);
    };
    this.#frame = requestAnimationFrame(step);
  }

  #paint(map, width, height) {
    this.#shown = map;
    Object.assign(this.#canvas, { width, height });
    const pixels = new ImageData(width, height);
    map.forEach((value, i) => {
      // full shade at -1, transparent at 0, full light at 1
      const opacity = value < 0 ? -value * SHADE : value * GLOW;
      pixels.data.set(value < 0 ? [0, 0, 0, 255 * opacity] : [...LIGHT, 255 * opacity], 4 * i);
    });
    this.#canvas.getContext("2d").putImageData(pixels, 0, 0);
  }
}

/** Enlarge a grid of 0 to 1 by cubic interpolation, which shows no edges and keeps the maxima. */
function smooth(grid) {
  const rows = transposed(transposed(grid.map(enlarged)).map(enlarged));
  const map = Float32Array.from(rows.flat(), (value) => Math.min(Math.max(value, 0), 1));
  return { map, width: rows[0].length, height: rows.length };
}

const transposed = (rows) => rows[0].map((_, j) => rows.map((row) => row[j]));

function enlarged(row) {
  const at = (i) => row[Math.min(Math.max(i, 0), row.length - 1)];
  return Array.from({ length: row.length * CELL }, (_, pixel) => {
    const x = (pixel + 0.5) / CELL - 0.5;
    const i = Math.floor(x);
    const t = x - i;
    const weights = [-(t ** 3) + 2 * t ** 2 - t, 3 * t ** 3 - 5 * t ** 2 + 2, -3 * t ** 3 + 4 * t ** 2 + t, t ** 3 - t ** 2];
    return weights.reduce((sum, weight, k) => sum + (weight / 2) * at(i - 1 + k), 0); // Catmull-Rom spline
  });
}
