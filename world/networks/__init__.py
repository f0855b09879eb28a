"""The world's own networks: a small Stable Diffusion model, its encoders, and the networks that measure."""
