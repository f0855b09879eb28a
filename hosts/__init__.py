"""Attaching an adapter to a UNet, reversibly.

`comfyui` serves ComfyUI's models, `diffusers` serves training and evaluation.
"""
