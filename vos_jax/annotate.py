"""Paint masks in a browser, correct them, and have them propagated through a video.

    python -m vos_jax.annotate --frames FOLDER|VIDEO --checkpoint DIR --out DIR [--port N]

prints a link for a browser on this machine. Masks are saved to --out as they come, palette PNGs
<frame stem>.png; the same command goes on where it was left. Ctrl-C ends it.

Example: vos-jax annotate --frames clip.mp4 --checkpoint runs/demo --out masks
"""

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from PIL import Image

from vos_jax.annotating.server import AnnotationServer
from vos_jax.annotating.session import Session
from vos_jax.command_line import flag, new_flags, parse_flags, path_flag, run_command, say_config
from vos_jax.data.frames import FrameSource, open_frames
from vos_jax.files import keep_apart
from vos_jax.inference.setup import build_inference
from vos_jax.loading import load_variables
from vos_jax.systems.table import SYSTEMS

MOST_PORT = 65535


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """The command line as flag values; raises flags.Error where it is wrong."""
    values = new_flags(argv)
    path_flag(values, "checkpoint", "folder written by convert, a workdir or a step folder")
    path_flag(values, "frames", "folder of images or a video file")
    path_flag(values, "out", "folder for the masks; one of an earlier session is continued")
    flag(values, "port", 0, "of 127.0.0.1; 0: any that is free", at_least=0)
    parse_flags(values, argv, required=("checkpoint", "frames", "out"))
    if values.port > MOST_PORT:
        raise flags.Error(f"--port: expected 0..{MOST_PORT}, found {values.port}")
    return values


def open_session(args: flags.FlagValues, scratch: str) -> Session:
    """The session that the command line describes; decoded frames go to `scratch`."""
    keep_apart({"--checkpoint": args.checkpoint, "--frames": args.frames}, {"--out": args.out})
    frames = open_frames(args.frames)
    variables, config = load_variables(args.checkpoint, args.config)
    name = config["model"]["name"]
    if SYSTEMS[name].task != "vos" or (
        (inference := build_inference(config)).model.traits.guidance == "none"
    ):
        raise ValueError(f"{name} takes no masks, so there is nothing to paint for it")
    if frames.stems is None or frames.turn(frames.stems[0]) != 1:  # turned once, and told once
        frames = unpacked(frames, scratch)
    return Session(inference.segmenter(variables), frames, args.out)


def unpacked(frames: FrameSource, folder: str) -> FrameSource:
    """The frames as upright PNG files in `folder`, any of which can be read alone."""
    for stem, frame in frames:
        Image.fromarray(frame).save(Path(folder) / f"{stem}.png", compress_level=1)
    return open_frames(folder)


def run(args: flags.FlagValues) -> str:
    """Do what the command line says until it is interrupted; returns what was written."""
    say_config(args)
    with tempfile.TemporaryDirectory(prefix="vos_jax_frames") as scratch:
        session = open_session(args, scratch)
        with contextlib.closing(session), _listening(session, args.port) as server:
            print(f"open {server.url} in a browser; Ctrl-C ends", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
    state = session.state()
    return f"\n{args.out}: {len(state['done'])} masks, {len(state['by_hand'])} of them by hand"


def _listening(session: Session, port: int) -> AnnotationServer:
    try:
        return AnnotationServer(session, port)
    except OSError as error:
        raise OSError(f"--port {port}: {error.strerror}; leave it out for any free one") from error


def main(argv: Sequence[str]) -> None:
    """The command; wrong input ends with one line that says what to do."""
    run_command(argv, __doc__, parse, run)


if __name__ == "__main__":
    main(sys.argv)
