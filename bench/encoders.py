"""Measures encoders: milliseconds per photo and graph size, in fp32 and int8.

    python bench/encoders.py
    python bench/encoders.py timm/convnext_nano timm/swin_tiny_patch4_window7_224 --rounds 41

The graphs are those of `captioner export`, for photos of 224 x 224 pixels and a decoder with attention. Weights are
random, because speed and size do not depend on their values, so nothing is downloaded and the quality of int8 is not
measured. fp32 and int8 take turns on one photo at a time.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from harness.command_line import command_line, jpeg_files, machine
from harness.tables import header, row
from harness.turns import in_turns, seconds, with_quartiles

from capexport.onnx_export import write
from capexport.quantization.int8 import quantize
from caprun.photos.preprocessing import prepare
from caprun.photos.reading import open_photo
from captioner.config import Config, ModelConfig
from captioner.models.caption_model import CaptionModel, build_caption_model
from captioner.models.checkpoint import image_spec
from captioner.text.tokenizer import SPECIAL

ENCODERS = (
    "efficientnet_lite2",
    "resnet50",
    "timm/fastvit_mci0.apple_mclip",
    "timm/vit_base_patch32_clip_224.openai",
    "timm/vit_small_patch14_dinov2.lvd142m",
    "timm/vit_base_patch16_siglip_224.webli",
)
PIECES, CALIBRATION_PHOTOS = 2540, 8
"""Vocabulary size, as for Flickr8k, and number of photos for calibrating int8."""


def graphs_of(
    model: CaptionModel, images: npt.NDArray[np.uint8], folder: Path
) -> dict[str, tuple[Path, onnxruntime.InferenceSession]]:
    """Writes the encoder graph in fp32 and int8; returns file and session by precision."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    files = {"fp32": folder / write(model, folder)[0], "int8": folder / "int8.onnx"}
    quantize(files["fp32"], files["int8"], [{"image": image[None]} for image in images])
    return {name: (file, onnxruntime.InferenceSession(file, options)) for name, file in files.items()}


def main() -> None:
    """Prints a row for each encoder."""
    parser = command_line(__doc__, "--photos")
    parser.add_argument("encoders", nargs="*", default=ENCODERS, help="Names for --encoder.  [default: six]")
    parser.add_argument(
        "--rounds", type=int, default=21, help="Photos that each side encodes; 2 or more.  [default: 21]"
    )
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error("--rounds must be 2 or more, because quartiles need two values.")
    files = jpeg_files(parser, arguments.photos)[:CALIBRATION_PHOTOS]
    print(f"{machine(['onnxruntime', 'timm', 'torch'])}; 224 x 224 pixels, one thread\n")
    print(header("encoder", "regions", "fp32: ms", "int8: ms", "speed-up", "fp32: MB", "int8: MB"))
    for name in arguments.encoders:
        config = Config(model=ModelConfig(encoder=name))
        model = build_caption_model(config, PIECES, SPECIAL).eval()
        images = np.stack([prepare(open_photo(file), image_spec(config, model)) for file in files])
        with tempfile.TemporaryDirectory(prefix="encoders-") as folder:
            graphs = graphs_of(model, images, Path(folder))
            sizes = {precision: file.stat().st_size / 1e6 for precision, (file, _) in graphs.items()}

        def timed(session: onnxruntime.InferenceSession, photo: npt.NDArray[np.uint8]) -> float:
            return 1000 * seconds(lambda: session.run(None, {"image": photo[None]}))

        sides = {precision: lambda photo, s=session: timed(s, photo) for precision, (_, session) in graphs.items()}
        for side in sides.values():
            side(images[0])  # the first photo takes longer
        found = in_turns(sides, (images[turn % len(images)] for turn in range(arguments.rounds)))
        ratio = statistics.median(found["fp32"]) / statistics.median(found["int8"])
        times = (with_quartiles(found[precision], 1) for precision in graphs)
        grid = " x ".join(map(str, model.encoder.grid))
        print(row(name, grid, *times, f"{ratio:.2f}x", *(f"{sizes[p]:.1f}" for p in graphs)), flush=True)


if __name__ == "__main__":
    main()
