"""Text on a node: what it has to say of its own work."""

from __future__ import annotations

from comfy_api.v0_0_2 import ui
from comfy_execution.utils import get_executing_context


def show_text(text: str) -> ui.PreviewText:
    """Show a text on the node that runs; to be given as `ui` of its output, where programs find it.

    The interface shows the `text` of an output on 'Preview as Text' alone. A hidden input with the node's id would do
    as well, but then no two nodes would share a cached output.
    """
    context = get_executing_context()
    if context is not None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, context.node_id)
    return ui.PreviewText(text)
