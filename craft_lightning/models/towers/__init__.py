"""Vision towers: SigLIP (with a residual quantiser, or without), CLIP and any of timm's."""
