"""The process that runs of `bolid world train` are forked from: it imports once what takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2] / "support"))
    import training_processes
    from transformers import CLIPTokenizer, CLIPVisionModelWithProjection, ResNetModel  # noqa: F401

    import bolid.world.networks.train  # noqa: F401
    from bolid.world.networks import autoencoder, recognition

    # The tiny world has no more.
    autoencoder.SAMPLED_PICTURES = recognition.SAMPLED_PICTURES = 24
    training_processes._serve()
