// Takes a photo with the camera, if the browser allows it.

/** True if the browser offers the camera; on plain HTTP, only for localhost. */
export const available = Boolean(navigator.mediaDevices?.getUserMedia);

/**
 * Show the camera view until the user takes a photo or closes the dialog.
 *
 * @param {HTMLDialogElement} dialog
 * @param {HTMLVideoElement} viewfinder in it
 * @param {HTMLButtonElement} shutter in it
 * @returns {Promise<Blob | null>} a JPEG, or null; rejects if there is no camera or it may not be used
 */
export async function takePhoto(dialog, viewfinder, shutter) {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1080 } },
  });
  try {
    viewfinder.srcObject = stream;
    shutter.disabled = true;
    viewfinder.onloadeddata = () => (shutter.disabled = false);
    dialog.returnValue = "";
    dialog.showModal();
    shutter.onclick = () => dialog.close("taken");
    await new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
    if (dialog.returnValue !== "taken") return null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [viewfinder.videoWidth, viewfinder.videoHeight];
    canvas.getContext("2d").drawImage(viewfinder, 0, 0);
    return await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    viewfinder.srcObject = null;
  }
}
