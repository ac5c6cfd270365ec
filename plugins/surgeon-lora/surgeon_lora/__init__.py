"""Low-rank adapters: LoRA and DoRA, folded back into the initializers that they stand for."""
