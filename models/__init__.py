"""Pure torch: image projections, attention branches, aggregation, checkpoint formats.

Nothing here imports comfy or diffusers; the hosts bring the layers (`operations=`) and the attention function.
"""
