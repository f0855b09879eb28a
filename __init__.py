"""BoLID: personal pictures of people in ComfyUI, from several reference photos.

ComfyUI imports this file at start-up, so it stays lazy: the nodes, and with them torch and comfy, are imported only
when ComfyUI calls `comfy_entrypoint`.
"""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the node extension; ComfyUI calls this once at start-up."""
    try:
        from .nodes import BolidExtension
    except Exception:
        # ComfyUI reports a failing entry point as one line without its cause.
        logging.getLogger(__name__).exception("BoLID could not be loaded")
        raise
    return BolidExtension()
