"""Graphs of other packs become graphs of these nodes: pure Python, knows neither ComfyUI nor torch."""
