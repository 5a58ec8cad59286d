"""Finished examples, one file each: `gmm-example NAME` runs them."""
