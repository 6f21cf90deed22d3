"""Training: `clone` (stage 1) and `rlef` (stage 2), with the losses, the packing and the trainer they share."""
