"""The decoding child, with a decoder that misbehaves on files whose names begin with `bad`: runs $SABOTAGE there."""

import os

from cambrian_gaze.data.media import decoders, isolated


def main() -> None:
    """The child's `main`, its decoder replaced."""
    original = decoders.open_video

    def open_video(path: str, backend: str) -> decoders.Video:
        if os.path.basename(path).startswith("bad"):
            exec(os.environ["SABOTAGE"])
        return original(path, backend)

    decoders.open_video = open_video
    isolated.main()


if __name__ == "__main__":
    main()
