"""How a behavior shifted between the two models, which latents carry the shift, and whether they cause it."""
