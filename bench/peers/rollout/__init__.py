"""The rollout with q_D in PyTorch and JAX, all with the law of `irecgan_ext.rollout`: see each file's first lines."""
