"""Attaching an adapter to a UNet, reversibly: `comfyui` for ComfyUI's models, `diffusers` for training and evaluation."""
