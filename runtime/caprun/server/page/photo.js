// Shows a photo as the model sees it: upright, opaque on white, and only the first frame of an animation.

const LONGEST = 2048; // maximum pixels per side of a copy; phones have no memory for more

/**
 * @param {Blob} file
 * @param {Uint8Array} bytes its content
 * @returns {Promise<Blob>} the file itself if browsers show it as the model sees it, else a copy; rejects non-images
 */
export async function asSeen(file, bytes) {
  const kind = String.fromCharCode(...bytes.subarray(0, 12));
  const webp = kind.startsWith("RIFF") && kind.endsWith("WEBP");
  if (!webp && !kind.startsWith("GIF8") && !kind.startsWith("\x89PNG")) return file;

  // All browsers apply the EXIF orientation of JPEG and PNG, but not all that of WebP, so it is applied here.
  const turn = webp ? takeOrientation((bytes = bytes.slice())) : 1;
  const frame = await createImageBitmap(new Blob([bytes]));
  const scale = Math.min(1, LONGEST / Math.max(frame.width, frame.height));
  const size = [frame.width * scale, frame.height * scale].map((side) => Math.max(1, Math.round(side)));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = turn > 4 ? size.toReversed() : size;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.setTransform(...TURNS[turn](...size));
  pen.drawImage(frame, 0, 0, ...size);
  frame.close();
  return new Promise((resolve, reject) => {
    canvas.toBlob((copy) => (copy ? resolve(copy) : reject(new Error("no memory for the photo"))), "image/png");
  });
}

// By EXIF orientation: the transform (a, b, c, d, e, f) that draws a stored picture of w x h upright.
const TURNS = [
  null,
  () => [1, 0, 0, 1, 0, 0],
  (w) => [-1, 0, 0, 1, w, 0],
  (w, h) => [-1, 0, 0, -1, w, h],
  (w, h) => [1, 0, 0, -1, 0, h],
  () => [0, 1, 1, 0, 0, 0],
  (w, h) => [0, 1, -1, 0, h, 0],
  (w, h) => [0, -1, -1, 0, h, w],
  (w) => [0, -1, 1, 0, 0, w],
];

/** Return a WebP's EXIF orientation, and set it to 1 in `bytes` so that no browser applies it again. */
function takeOrientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    for (let at = 12; ; at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) & 1)) {
      if (view.getUint32(at) !== 0x45584946) continue; // "EXIF"
      const tiff = at + 8 + (view.getUint32(at + 8) === 0x45786966 ? 6 : 0); // some write "Exif\0\0" before it
      const little = view.getUint16(tiff) === 0x4949;
      const directory = tiff + view.getUint32(tiff + 4, little);
      for (let entry = directory + 2; entry < directory + 2 + 12 * view.getUint16(directory, little); entry += 12) {
        if (view.getUint16(entry, little) !== 0x0112) continue;
        const orientation = view.getUint16(entry + 8, little);
        view.setUint16(entry + 8, 1, little);
        return TURNS[orientation] ? orientation : 1;
      }
      return 1;
    }
  } catch (error) {
    if (error instanceof RangeError) return 1; // the file is truncated
    throw error;
  }
}
